"""Clips whose scores are known without any library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COFFEE = Path(__file__).parent / "fixtures" / "coffee.jpg"
SIDE, COUNT = 128, 16


def photo(width: int = SIDE) -> np.ndarray:
    return np.asarray(Image.open(COFFEE).convert("RGB").resize((width, SIDE)))


def still() -> np.ndarray:
    return np.repeat(photo()[None], COUNT, axis=0)


def flicker(levels: int = 10) -> np.ndarray:
    """Every second frame is brighter by as much."""
    frames = still().astype(int).clip(0, 255 - levels)
    frames[1::2] += levels
    return frames.astype(np.uint8)


def pan(step: int = 4) -> np.ndarray:
    """The content moves to the left, as many pixels a frame."""
    whole = photo(SIDE + step * COUNT)
    return np.stack([whole[:, n * step : n * step + SIDE] for n in range(COUNT)])


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)


def swapped() -> np.ndarray:
    """A pan whose frames come in disorder."""
    return pan()[np.random.default_rng(1).permutation(COUNT)]


def ping_pong() -> np.ndarray:
    """There and back: the end meets the beginning."""
    frames = pan()[: COUNT // 2]
    return np.concatenate([frames, frames[-2:0:-1]])


KINDS = {"still": still, "flicker": flicker, "pan": pan, "noise": noise, "swapped": swapped, "ping-pong": ping_pong}


def write_all(folder: Path) -> Path:
    """Each of `KINDS` as frames without loss, `folder/NAME/0001.png` and on."""
    for name, make in KINDS.items():
        place = folder / name
        place.mkdir(parents=True)
        for number, frame in enumerate(make(), start=1):
            Image.fromarray(frame).save(place / f"{number:04d}.png")
    return folder
