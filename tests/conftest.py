"""What many tests need: a whole model in miniature, and photos."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; read when torch is loaded

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job's; what it is told is tested by itself
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a complete made-up model of a few hundred thousand parameters. Copy it before changing it."""
    from made_up_model import write_model

    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def model_copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the made-up model, to be damaged."""
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def photo(tmp_path: Path) -> Callable[..., Path]:
    """Makes an image file: `photo("name.jpg", size=(96, 64), mode="RGB", exif_orientation=6, ...)`."""

    def make(
        name: str = "photo.jpg",
        *,
        size: tuple[int, int] = (96, 64),
        mode: str = "RGB",
        orientation: int | None = None,
        **save_options: object,
    ) -> Path:
        image = Image.fromarray(gradient(*size)).convert(mode)
        if orientation:
            exif = Image.Exif()
            exif[0x0112] = orientation
            save_options["exif"] = exif
        path = tmp_path / name
        image.save(path, **save_options)  # type: ignore[arg-type]
        return path

    return make


def gradient(width: int, height: int) -> np.ndarray:
    """A picture in which every corner has a colour of its own: `height width 3`."""
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return np.stack([x, y, (x + y) / 2], axis=-1).round().astype(np.uint8)
