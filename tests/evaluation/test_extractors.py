"""Features of real pictures by real weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from consisti2v_cli.errors import WeightsError
from consisti2v_cli.evaluation import efficientnet
from consisti2v_cli.evaluation.efficientnet import SameConv2d, load_efficientnet
from consisti2v_cli.evaluation.extractors import EfficientNetFeatures
from consisti2v_cli.evaluation.metrics import unit

FIXTURES = Path(__file__).parents[1] / "fixtures"
GRANNY_SMITH, BABOON, ESPRESSO = 948, 372, 967  # ImageNet's classes


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("heldout/opencv-apple.jpg", GRANNY_SMITH), ("heldout/opencv-baboon.jpg", BABOON), ("coffee.jpg", ESPRESSO)],
)
def test_pictures_are_what_they_show(name: str, wanted: int) -> None:
    extract = EfficientNetFeatures()
    image = Image.open(FIXTURES / name).convert("RGB")
    side = min(image.size)
    features = extract(np.asarray(image.crop((0, 0, side, side)))[None])
    assert features.shape == (1, 1280)
    assert features.dtype == np.float32
    assert wanted in extract.network.classify(torch.from_numpy(features)).topk(3).indices


def test_like_pictures_have_like_features() -> None:
    apple, baboon = (np.asarray(Image.open(FIXTURES / "heldout" / f"opencv-{name}.jpg").convert("RGB").resize((96, 96)))
                     for name in ("apple", "baboon"))  # fmt: skip
    features = unit(EfficientNetFeatures()(np.stack([apple, np.roll(apple, 4, axis=1), baboon])))
    assert features[0] @ features[1] > 0.9
    assert features[0] @ features[2] < 0.6


def test_many_frames_are_as_one_by_one() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (18, 40, 30, 3), dtype=np.uint8)
    extract = EfficientNetFeatures()
    together = extract(frames)
    assert np.allclose(together[[0, 17]], extract(frames[[0, 17]]), atol=1e-4)


@pytest.mark.parametrize(("side", "kernel", "stride"), [(224, 3, 2), (113, 3, 2), (56, 5, 2), (14, 5, 1)])
def test_padding_is_tensorflows(side: int, kernel: int, stride: int) -> None:
    conv = SameConv2d(1, 1, kernel, stride, bias=False)
    torch.nn.init.ones_(conv.weight)
    found = conv(torch.ones(1, 1, side, side))
    assert found.shape[-1] == -(-side // stride)
    missing = max((found.shape[-1] - 1) * stride + kernel - side, 0)
    assert found[0, 0, 0, 0] == (kernel - missing // 2) ** 2  # at the beginning lies the smaller half


def test_weights_that_are_missing_or_others_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    other.write_bytes(b"something else")
    monkeypatch.setattr(efficientnet, "weights_file", lambda: other)
    with pytest.raises(WeightsError, match="not the file that is known"):
        load_efficientnet(torch.device("cpu"))
    monkeypatch.undo()
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(WeightsError, match=r"evaluate"):
        load_efficientnet(torch.device("cpu"))
