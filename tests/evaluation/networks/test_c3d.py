"""C3D against numpy and plain convolutions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from consisti2v_cli.evaluation.networks.c3d import C3D, C3DSizes, load_c3d, pool

SMALL = C3DSizes(widths=(3, 4, 5, 6, 7), hidden=9, classes=8)


def test_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        network = C3D()
    assert sum(parameter.numel() for parameter in network.parameters()) == 78_409_573
    shapes = {name: tuple(tensor.shape) for name, tensor in network.named_parameters()}
    assert shapes["conv1a.weight"] == (64, 3, 3, 3, 3)
    assert shapes["conv3b.weight"] == (256, 256, 3, 3, 3)
    assert shapes["conv5a.weight"] == (512, 512, 3, 3, 3)
    assert shapes["fc6.weight"] == (4096, 8192)
    assert shapes["fc8.bias"] == (101,)
    assert len(shapes) == 22


@pytest.mark.parametrize(("frames", "side"), [(2, 7), (1, 7), (2, 8), (1, 5)])
def test_pools_round_up(frames: int, side: int) -> None:
    x = np.random.default_rng(1).standard_normal((2, 4, side, side)).astype(np.float32)
    found = pool(torch.from_numpy(x), frames).numpy()
    half = -(-side // 2)
    assert found.shape == (2, 4 // frames, half, half)
    for t, row, column in np.ndindex(found.shape[1:]):
        window = x[:, frames * t : frames * (t + 1), 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert np.array_equal(found[:, t, row, column], window.max(axis=(1, 2, 3)))


def by_hand(arrays: dict[str, np.ndarray], mean: np.ndarray, clips: Tensor) -> Tensor:
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def conv(x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = F.conv3d(x, weights[f"{name}/W"], weights[f"{name}/b"], padding=1).relu()
        return x

    x = F.max_pool3d(conv(clips - torch.from_numpy(mean), "conv1a"), (1, 2, 2))
    x = F.max_pool3d(conv(x, "conv2a"), 2)
    x = F.max_pool3d(conv(x, "conv3a", "conv3b"), 2)
    x = F.max_pool3d(conv(x, "conv4a", "conv4b"), 2)
    x = F.max_pool3d(F.pad(conv(x, "conv5a", "conv5b"), (0, 1, 0, 1)), 2)  # 7 to 4; all is positive
    x = x.reshape(len(clips), -1)
    for name in ("fc6", "fc7"):
        x = (x @ weights[f"{name}/W"].mT + weights[f"{name}/b"]).relu()
    logits = x @ weights["fc8/W"].mT + weights["fc8/b"]
    return logits.exp() / logits.exp().sum(dim=-1, keepdim=True)


def test_probabilities_are_the_papers(made_up: Callable[[nn.Module], C3D], tmp_path: Path) -> None:
    """From files with Chainer's names, and with the centre of the mean clip."""
    arrays = {}
    for name, tensor in made_up(C3D(SMALL)).named_parameters():
        layer, _, part = name.rpartition(".")
        arrays[f"{layer}/{'W' if part == 'weight' else 'b'}"] = tensor.numpy()
    mean = np.random.default_rng(2).uniform(80, 120, (3, 16, 128, 128)).astype(np.float32)
    np.savez(tmp_path / "net.npz", **arrays)
    np.savez(tmp_path / "mean.npz", mean=mean)
    network = load_c3d(tmp_path / "net.npz", tmp_path / "mean.npz", sizes=SMALL)

    clips = mean[:, :, 8:120, 8:120] + np.random.default_rng(3).standard_normal((2, 3, 16, 112, 112)).astype(np.float32)
    found = network(torch.from_numpy(clips))
    assert found.shape == (2, 8)
    assert torch.allclose(found.sum(dim=-1), torch.ones(2))
    assert torch.allclose(found, by_hand(arrays, mean[:, :, 8:120, 8:120], torch.from_numpy(clips)), atol=1e-5)
    assert not torch.allclose(found[0], found[1])
