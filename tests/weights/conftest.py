"""A hub on loopback, and processes that fetch from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hub import Client, Hub


@pytest.fixture
def hub(model_copy: Path) -> Iterator[Hub]:
    """A hub that has the made-up model, and files that nobody needs."""
    (model_copy / "README.md").write_text("not needed")
    (model_copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"not needed")
    hub = Hub(model_copy)
    yield hub
    hub.close()


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "home")
