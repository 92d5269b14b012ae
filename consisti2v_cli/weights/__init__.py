"""Models by name: where their files are, how they come here, and how they become modules.

Loading needs torch and stays in `consisti2v_cli.weights.load`; everything here reads names and JSON only.
"""

from .checking import check_model
from .folder import ModelFolder, ModelSettings, read_settings
from .hub import choose, fetch, find, require
from .inventory import list_models, remove_model
from .registry import MODELS, known_models

__all__ = [
    "MODELS",
    "ModelFolder",
    "ModelSettings",
    "check_model",
    "choose",
    "fetch",
    "find",
    "known_models",
    "list_models",
    "read_settings",
    "remove_model",
    "require",
]
