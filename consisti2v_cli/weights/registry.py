"""The models that have a name of their own."""

from __future__ import annotations

import re
from pathlib import Path

BUNDLED = Path(__file__).parent / "bundled"
FULL, SMALL = "consisti2v", "sketch"


MODELS: dict[str, str | None] = {  # name that --model takes: its hub repository; None: it is part of the package
    FULL: "TIGER-Lab/ConsistI2V",
    SMALL: None,
}

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def local_folder(model: str) -> Path | None:
    """The folder that a `--model` value stands for; None for hub repositories and their names."""
    if model in MODELS:
        return BUNDLED if MODELS[model] is None else None
    path = Path(model).expanduser()
    return path if path.is_dir() else None


def hub_repo(model: str) -> str | None:
    """The hub repository `owner/name` that a `--model` value stands for, if it does."""
    if model in MODELS:
        return MODELS[model]
    return model if _REPO.fullmatch(model) else None
