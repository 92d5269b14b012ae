"""The models that have a name of their own."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .cache import is_model, repositories, snapshots

BUNDLED = Path(__file__).parent / "bundled"
FULL, SMALL = "consisti2v", "sketch"


MODELS: dict[str, str | None] = {  # name that --model takes: its hub repository; None: it is part of the package
    FULL: "TIGER-Lab/ConsistI2V",
    SMALL: None,
}

# As the hub allows them: 96 letters, and no dots or dashes side by side, nor at an end
_REPO = re.compile(r"(?!.*(--|\.\.|\.git$))(?!.{97})[A-Za-z0-9](?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?", re.ASCII)


def local_folder(model: str) -> Path | None:
    """The folder that a `--model` value stands for; None for hub repositories and their names."""
    if model in MODELS:
        return BUNDLED if MODELS[model] is None else None
    path = Path(os.path.expanduser(model))
    return path if path.is_dir() else None


def hub_repo(model: str) -> str | None:
    """The hub repository `owner/name` that a `--model` value stands for, if it does."""
    if model in MODELS:
        return MODELS[model]
    return model if _REPO.fullmatch(model) else None


def known_models() -> list[str]:
    """What --model takes on this machine without a download: names, and repositories in the cache. Imports no torch."""
    named = set(MODELS.values())
    cached = [repo for repo, place in repositories() if repo not in named and any(map(is_model, snapshots(place)))]
    return [*MODELS, *cached]
