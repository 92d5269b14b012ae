"""Models by name: where their files are, how they come here, and how they become modules.

Loading needs torch and stays in `consisti2v_cli.weights.load`; everything here reads names and JSON only.
"""

from .folder import ModelFolder, ModelSettings, read_settings
from .hub import choose, fetch, find, require
from .registry import MODELS

__all__ = ["MODELS", "ModelFolder", "ModelSettings", "choose", "fetch", "find", "read_settings", "require"]
