"""The models that have a name of their own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

BUNDLED = Path(__file__).parent / "bundled"
FULL, SMALL = "consisti2v", "sketch"


@dataclass(frozen=True)
class KnownModel:
    """A name that `--model` takes. Without `repo` the model is part of the package."""

    repo: str | None  # hub repository
    about: str  # one line for a person


MODELS = {
    FULL: KnownModel("TIGER-Lab/ConsistI2V", "the released model: 1.25 billion parameters, 256x256"),
    SMALL: KnownModel(None, "the small model that comes with the package: 128x128, a demonstration"),
}

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def local_folder(model: str) -> Path | None:
    """The folder that a `--model` value stands for; None for hub repositories and their names."""
    if model in MODELS:
        return BUNDLED if MODELS[model].repo is None else None
    path = Path(model).expanduser()
    return path if path.is_dir() else None


def hub_repo(model: str) -> str | None:
    """The hub repository `owner/name` that a `--model` value stands for, if it does."""
    if model in MODELS:
        return MODELS[model].repo
    return model if _REPO.fullmatch(model) else None
