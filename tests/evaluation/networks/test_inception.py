"""Inception: TensorFlow's resize and pools by plain loops, and its blocks by plain convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from consisti2v_cli.evaluation.networks.inception import (
    BlockA,
    BlockB,
    BlockC,
    BlockD,
    BlockE,
    Inception,
    average,
    resize,
)


def test_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        network = Inception()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    known = {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_3b_1x1.conv.weight": (80, 64, 1, 1),
        "Conv2d_4a_3x3.bn.running_mean": (192,),
        "Mixed_5b.branch1x1.conv.weight": (64, 192, 1, 1),
        "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
        "Mixed_5d.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
        "Mixed_6c.branch7x7dbl_2.conv.weight": (160, 160, 7, 1),
        "Mixed_6e.branch7x7dbl_5.conv.weight": (192, 192, 1, 7),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7b.branch3x3_2a.conv.weight": (384, 384, 1, 3),
        "Mixed_7c.branch3x3dbl_1.conv.weight": (448, 2048, 1, 1),
        "Mixed_7c.branch_pool.bn.bias": (192,),
    }
    assert known.items() <= shapes.items()
    # Keras counts 21,802,784 without the classifier; it has the 34,432 moving statistics, and no scales (17,216)
    assert sum(parameter.numel() for parameter in network.parameters()) == 21_802_784 - 34_432 + 17_216


@pytest.mark.parametrize("size", [(5, 9), (13, 7), (11, 11)])
def test_resizing_is_tensorflow_ones(size: tuple[int, int]) -> None:
    picture = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    found = resize(picture, 11)
    for row, column in [(0, 0), (10, 10), (3, 8), (7, 2)]:
        y, x = row * size[0] / 11, column * size[1] / 11
        top, left = int(y), int(x)
        bottom, right = min(top + 1, size[0] - 1), min(left + 1, size[1] - 1)
        upper = picture[..., top, left] * (1 - x + left) + picture[..., top, right] * (x - left)
        lower = picture[..., bottom, left] * (1 - x + left) + picture[..., bottom, right] * (x - left)
        assert torch.allclose(found[..., row, column], upper * (1 - y + top) + lower * (y - top), atol=1e-5)


def test_averages_do_not_count_the_padding() -> None:
    x = torch.rand(1, 1, 4, 5, generator=torch.Generator().manual_seed(2))
    found = average(x)
    assert found[0, 0, 0, 0] == pytest.approx(x[0, 0, :2, :2].mean().item())
    assert found[0, 0, 3, 2] == pytest.approx(x[0, 0, 2:, 1:4].mean().item())
    assert found[0, 0, 1, 1] == pytest.approx(x[0, 0, :3, :3].mean().item())


class ByHand:
    """Convolution, norm and cut of a block's branches, by their published names."""

    def __init__(self, block: nn.Module) -> None:
        self.weights = block.state_dict()

    def __call__(self, x: Tensor, *names: str, stride: int = 1) -> Tensor:
        """Through each in turn; the last has the stride."""
        for name in names:
            kernel = self.weights[f"{name}.conv.weight"]
            step = stride if name == names[-1] else 1
            padding = [0, 0] if step > 1 else [side // 2 for side in kernel.shape[2:]]
            x = F.conv2d(x, kernel, stride=step, padding=padding)
            parts = ("running_mean", "running_var", "weight", "bias")
            mean, var, scale, shift = (self.weights[f"{name}.bn.{part}"].view(-1, 1, 1) for part in parts)
            x = ((x - mean) / (var + 1e-3).sqrt() * scale + shift).clamp(min=0)
        return x


def numbered(name: str, numbers: Sequence[int]) -> list[str]:
    return [f"{name}_{number}" for number in numbers]


def mean_inside(x: Tensor) -> Tensor:
    inside = F.avg_pool2d(torch.ones_like(x), 3, 1, 1)
    return F.avg_pool2d(x, 3, 1, 1) / inside


def test_block_a(made_up: Callable[[nn.Module], nn.Module]) -> None:
    block = made_up(BlockA(12, 7))
    x, go = torch.rand(1, 12, 6, 5, generator=torch.Generator().manual_seed(3)), ByHand(block)
    branches = [
        go(x, "branch1x1"),
        go(x, *numbered("branch5x5", (1, 2))),
        go(x, *numbered("branch3x3dbl", (1, 2, 3))),
        go(mean_inside(x), "branch_pool"),
    ]
    assert torch.allclose(block(x), torch.cat(branches, dim=1), atol=1e-5)


def test_blocks_b_and_d_halve(made_up: Callable[[nn.Module], nn.Module]) -> None:
    x = torch.rand(1, 12, 9, 7, generator=torch.Generator().manual_seed(4))
    block = made_up(BlockB(12))
    go = ByHand(block)
    branches = [go(x, "branch3x3", stride=2), go(x, *numbered("branch3x3dbl", (1, 2, 3)), stride=2)]
    assert torch.allclose(block(x), torch.cat([*branches, F.max_pool2d(x, 3, 2)], dim=1), atol=1e-5)
    assert block(x).shape[2:] == (4, 3)

    block = made_up(BlockD(12))
    go = ByHand(block)
    branches = [
        go(x, *numbered("branch3x3", (1, 2)), stride=2),
        go(x, *numbered("branch7x7x3", (1, 2, 3, 4)), stride=2),
    ]
    assert torch.allclose(block(x), torch.cat([*branches, F.max_pool2d(x, 3, 2)], dim=1), atol=1e-5)


def test_block_c(made_up: Callable[[nn.Module], nn.Module]) -> None:
    block = made_up(BlockC(12, 6))
    x, go = torch.rand(1, 12, 8, 5, generator=torch.Generator().manual_seed(5)), ByHand(block)
    branches = [
        go(x, "branch1x1"),
        go(x, *numbered("branch7x7", (1, 2, 3))),
        go(x, *numbered("branch7x7dbl", (1, 2, 3, 4, 5))),
        go(mean_inside(x), "branch_pool"),
    ]
    assert torch.allclose(block(x), torch.cat(branches, dim=1), atol=1e-5)


@pytest.mark.parametrize("largest", [False, True])
def test_block_e(largest: bool, made_up: Callable[[nn.Module], nn.Module]) -> None:
    block = made_up(BlockE(12, largest=largest))
    x, go = torch.rand(1, 12, 5, 6, generator=torch.Generator().manual_seed(6)), ByHand(block)
    three, double = go(x, "branch3x3_1"), go(x, *numbered("branch3x3dbl", (1, 2)))
    branches = [
        go(x, "branch1x1"),
        *(go(three, f"branch3x3_2{letter}") for letter in "ab"),
        *(go(double, f"branch3x3dbl_3{letter}") for letter in "ab"),
        go(F.max_pool2d(x, 3, 1, 1) if largest else mean_inside(x), "branch_pool"),
    ]
    assert torch.allclose(block(x), torch.cat(branches, dim=1), atol=1e-5)


def test_only_the_very_last_block_takes_the_largest() -> None:
    with torch.device("meta"):
        network = Inception()
    assert (network.Mixed_7b.largest, network.Mixed_7c.largest) == (False, True)


def test_the_sizes_are_the_papers() -> None:
    with torch.device("meta"):
        network, pictures = Inception().eval(), torch.empty(2, 3, 256, 256)
    seen: dict[str, int] = {}
    for name, module in network.named_children():
        module.register_forward_hook(lambda _, inputs, out, name=name: seen.update({name: out.shape[-1]}))
    assert network(pictures).shape == (2, 2048)
    wanted = {
        "Conv2d_1a_3x3": 149,
        "Conv2d_2a_3x3": 147,
        "Conv2d_2b_3x3": 147,
        "Conv2d_3b_1x1": 73,
        "Conv2d_4a_3x3": 71,
    }
    wanted |= {"Mixed_5d": 35, "Mixed_6a": 17, "Mixed_6e": 17, "Mixed_7a": 8, "Mixed_7c": 8}
    assert wanted.items() <= seen.items()


def test_features_are_the_mean_of_the_last_maps_of_pictures_from_minus_one_to_one(
    made_up: Callable[[nn.Module], Inception],
) -> None:
    network = made_up(Inception())
    seen: dict[str, Tensor] = {}
    network.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    network.Mixed_7c.register_forward_hook(lambda _, inputs, out: seen.update(maps=out))
    pictures = torch.from_numpy(np.random.default_rng(7).integers(0, 256, (2, 3, 40, 50))).float()
    with torch.inference_mode():
        features = network(pictures)
        assert torch.allclose(features, seen["maps"].flatten(2).mean(dim=-1))
        assert torch.allclose(128 * seen["x"] + 128, resize(pictures, 299), atol=1e-3)
        assert torch.allclose(features[1], network(pictures[1:])[0], atol=1e-3 * features.abs().max().item())
    assert features.std() > 0
