"""RAFT, part by part, against plain loops; and the whole by what must not change."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from consisti2v_cli.evaluation.networks.raft import (
    RAFT,
    SeparableGRU,
    correlation_pyramid,
    look_up,
    places,
    upsample,
)


@pytest.fixture(scope="module")
def raft(made_up: Callable[[nn.Module], RAFT]) -> RAFT:
    return made_up(RAFT())


def frames(count: int, height: int = 64, width: int = 72) -> Tensor:
    return 255 * torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        network = RAFT()
    assert sum(parameter.numel() for parameter in network.parameters()) == 5_257_536
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    known = {
        "fnet.conv1.weight": (64, 3, 7, 7),
        "fnet.layer2.0.downsample.0.weight": (96, 64, 1, 1),
        "fnet.layer3.1.conv2.bias": (128,),
        "fnet.conv2.weight": (256, 128, 1, 1),
        "cnet.norm1.running_mean": (64,),
        "cnet.layer3.0.norm3.weight": (128,),
        "cnet.layer3.0.downsample.1.weight": (128,),
        "update_block.encoder.convc1.weight": (256, 324, 1, 1),
        "update_block.encoder.convf1.weight": (128, 2, 7, 7),
        "update_block.encoder.conv.weight": (126, 256, 3, 3),
        "update_block.gru.convz1.weight": (128, 384, 1, 5),
        "update_block.gru.convq2.weight": (128, 384, 5, 1),
        "update_block.flow_head.conv2.weight": (2, 256, 3, 3),
        "update_block.mask.2.weight": (576, 256, 1, 1),
    }
    assert known.items() <= shapes.items()
    assert not [name for name in shapes if name.startswith("fnet") and "norm" in name]  # instance norms have none


def test_correlations_are_dot_products_with_means_of_blocks() -> None:
    one, other = torch.randn(2, 2, 5, 8, 9, generator=torch.Generator().manual_seed(2)).double()
    pyramid = correlation_pyramid(one, other)
    assert [tuple(level.shape) for level in pyramid] == [(144, 1, 8 >> n, 9 >> n) for n in range(4)]
    for level, b, y, x, v, u in [(0, 0, 0, 0, 7, 8), (0, 1, 3, 4, 2, 5), (1, 1, 7, 8, 3, 2), (2, 0, 4, 1, 1, 1)]:
        size = 2**level
        block = other[b, :, size * v : size * (v + 1), size * u : size * (u + 1)].mean(dim=(1, 2))
        wanted = float(one[b, :, y, x] @ block) / math.sqrt(5)
        assert pyramid[level][b * 72 + y * 9 + x, 0, v, u].item() == pytest.approx(wanted)


def at(picture: np.ndarray, y: float, x: float) -> float:
    """Bilinear, 0 outside."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < picture.shape[0] and 0 <= column < picture.shape[1]:
                total += picture[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def test_look_up_is_bilinear_around_each_point() -> None:
    source = torch.Generator().manual_seed(3)
    one, other = torch.randn(2, 2, 4, 8, 8, generator=source).double()
    pyramid = correlation_pyramid(one, other)
    points = places(one) + 6 * torch.randn(2, 2, 8, 8, generator=source).double()  # some far outside
    found = look_up(pyramid, points)
    assert found.shape == (2, 324, 8, 8)
    for b, y, x in [(0, 0, 0), (1, 7, 7), (1, 2, 5)]:
        px, py = points[b, :, y, x].tolist()
        wanted = [
            at(level[b * 64 + y * 8 + x, 0].numpy(), py / 2**n + down, px / 2**n + right)
            for n, level in enumerate(pyramid)
            for right in range(-4, 5)
            for down in range(-4, 5)
        ]
        assert np.allclose(found[b, :, y, x].numpy(), wanted)


def test_upsampling_keeps_a_constant_flow_and_makes_pixels_of_places() -> None:
    flow = torch.tensor([1.5, -2.0]).view(1, 2, 1, 1).expand(1, 2, 5, 6)
    full = upsample(flow, torch.randn(1, 576, 5, 6, generator=torch.Generator().manual_seed(4)))
    assert full.shape == (1, 2, 40, 48)
    inner = full[0, :, 8:-8, 8:-8]
    assert torch.allclose(inner, torch.tensor([12.0, -16.0]).view(2, 1, 1), atol=1e-5)
    assert full[0, 0, 0].max() < 12  # beyond the border there is no flow


def test_upsampling_takes_the_neighbours_that_the_logits_name() -> None:
    source = torch.Generator().manual_seed(5)
    flow = torch.randn(1, 2, 4, 5, generator=source)
    choice = torch.randint(9, (8, 8, 4, 5), generator=source)
    logits = 100 * F.one_hot(choice, 9).permute(4, 0, 1, 2, 3).reshape(1, 576, 4, 5).float()
    full = upsample(flow, logits)
    padded = F.pad(flow, (1, 1, 1, 1))
    for row, column in [(0, 0), (13, 22), (31, 39), (17, 8)]:
        y, x = row // 8, column // 8
        down, right = divmod(int(choice[row % 8, column % 8, y, x]), 3)
        assert torch.allclose(full[0, :, row, column], 8 * padded[0, :, y + down, x + right], atol=1e-5)


def test_the_gate_is_the_papers(made_up: Callable[[nn.Module], SeparableGRU]) -> None:
    """Equations 4 to 7, along rows and then along columns."""
    gru = made_up(SeparableGRU())
    weights = gru.state_dict()
    h, x = torch.randn(1, 128, 6, 7).tanh(), torch.randn(1, 256, 6, 7)

    def conv(name: str, y: Tensor) -> Tensor:
        return F.conv2d(y, weights[f"{name}.weight"], weights[f"{name}.bias"], padding="same")

    wanted = h
    for part in "12":
        both = torch.cat([wanted, x], dim=1)
        z, r = conv(f"convz{part}", both).sigmoid(), conv(f"convr{part}", both).sigmoid()
        new = conv(f"convq{part}", torch.cat([r * wanted, x], dim=1)).tanh()
        wanted = wanted + z * (new - wanted)
    assert torch.allclose(gru(h, x), wanted, atol=1e-5)


@pytest.mark.parametrize("which", ["fnet", "cnet"])
def test_encoders_are_residual_blocks_with_their_own_norms(which: str, raft: RAFT) -> None:
    """Features are normed by the picture they are of, the context by the statistics of training."""
    weights = raft.get_submodule(which).state_dict()

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        return F.conv2d(x, kernel, weights[f"{name}.bias"], stride, kernel.shape[-1] // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        if which == "fnet":
            return (x - x.mean(dim=(2, 3), keepdim=True)) / (
                x.var(dim=(2, 3), keepdim=True, correction=0) + 1e-5
            ).sqrt()
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, var, scale, shift = (weights[f"{name}.{part}"].view(-1, 1, 1) for part in parts)
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def block(x: Tensor, name: str, stride: int) -> Tensor:
        h = norm(conv(x, f"{name}.conv1", stride), f"{name}.norm1").relu()
        h = norm(conv(h, f"{name}.conv2"), f"{name}.norm2").relu()
        if stride > 1:
            x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.norm3")
        return (x + h).relu()

    x = frames(2) / 127.5 - 1
    h = norm(conv(x, "conv1", 2), "norm1").relu()
    for name, stride in (("layer1", 1), ("layer2", 2), ("layer3", 2)):
        h = block(block(h, f"{name}.0", stride), f"{name}.1", 1)
    wanted = conv(h, "conv2")
    assert wanted.shape == (2, 256, 8, 9)
    assert torch.allclose(raft.get_submodule(which)(x), wanted, atol=1e-4 * wanted.abs().max().item())


def test_without_iterations_nothing_moves(raft: RAFT) -> None:
    still = raft(frames(1), frames(1), iterations=0)
    assert still.shape == (1, 2, 64, 72)
    assert not still.any()


def test_an_iteration_goes_on_from_the_flow_before(raft: RAFT) -> None:
    """The recurrence written out once more, by the parts that were tested above."""
    before, after = frames(2).split(1)
    block = raft.update_block
    maps = [raft.fnet(x / 255 * 2 - 1) for x in (before, after)]
    h, context = raft.cnet(before / 255 * 2 - 1)[:, :128].tanh(), raft.cnet(before / 255 * 2 - 1)[:, 128:].relu()
    pyramid, start = correlation_pyramid(*maps), places(h)
    points = start.clone()
    for _ in range(2):
        motion = block.encoder(points - start, look_up(pyramid, points))
        assert torch.equal(motion[:, -2:], points - start)
        h = block.gru(h, torch.cat([context, motion], dim=1))
        points = points + block.flow_head(h)
    wanted = upsample(points - start, block.mask(h) / 4)
    assert torch.allclose(raft(before, after, iterations=2), wanted, atol=1e-3)
    assert wanted.abs().max() > 0.1


def test_a_batch_is_as_its_pairs_one_by_one(raft: RAFT) -> None:
    before, after = frames(4).split(2)
    together = raft(before, after, iterations=3)
    apart = torch.cat([raft(before[n : n + 1], after[n : n + 1], iterations=3) for n in range(2)])
    assert torch.allclose(together, apart, atol=1e-2 * apart.abs().max().item())
    assert not torch.allclose(together[0], together[1], atol=0.1 * apart.abs().max().item())


@pytest.mark.parametrize("size", [(64, 70), (60, 64), (56, 64)])
def test_sizes_that_do_not_fit_are_refused(raft: RAFT, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 8, and 64 or more"):
        raft(frames(1, *size), frames(1, *size))


@pytest.mark.parametrize(("right", "down"), [(0, 0), (3, 0), (-2, 4), (4, -4)])
def test_a_known_shift_has_the_highest_correlation(right: int, down: int) -> None:
    """A map that is another one, moved: of the neighbours that are looked up, the one it moved to resembles it most."""
    maps = torch.randn(1, 64, 24, 24, generator=torch.Generator().manual_seed(0))
    moved = maps.roll((down, right), dims=(2, 3))
    found = look_up(correlation_pyramid(maps, moved), places(maps))[:, :81]  # of the finest level
    inside = found[0, :, 6:-6, 6:-6].argmax(dim=0)
    assert (inside == (right + 4) * 9 + down + 4).all()
