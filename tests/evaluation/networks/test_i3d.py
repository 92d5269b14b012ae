"""I3D against TensorFlow's rule for padding, and against plain convolutions."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from consisti2v_cli.evaluation.networks.i3d import I3D, Mixed, Unit3D, pad_same, pool_same


def missing_of_tensorflow(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """As TensorFlow's documentation has it: before, after."""
    total = max(kernel - stride, 0) if side % stride == 0 else max(kernel - side % stride, 0)
    return total // 2, total - total // 2


def test_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        network = I3D()
    assert sum(parameter.numel() for parameter in network.parameters()) == 12_697_264
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    known = {
        "Conv3d_1a_7x7.conv3d.weight": (64, 3, 7, 7, 7),
        "Conv3d_1a_7x7.bn.running_var": (64,),
        "Conv3d_2b_1x1.conv3d.weight": (64, 64, 1, 1, 1),
        "Conv3d_2c_3x3.conv3d.weight": (192, 64, 3, 3, 3),
        "Mixed_3b.b1a.conv3d.weight": (96, 192, 1, 1, 1),
        "Mixed_4e.b2b.conv3d.weight": (64, 32, 3, 3, 3),
        "Mixed_4f.b0.conv3d.weight": (256, 528, 1, 1, 1),
        "Mixed_5c.b3b.bn.bias": (128,),
        "logits.conv3d.weight": (400, 1024, 1, 1, 1),
        "logits.conv3d.bias": (400,),
    }
    assert known.items() <= shapes.items()
    assert [name for name in shapes if name.endswith("conv3d.bias")] == ["logits.conv3d.bias"]


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (2, 2), (1, 1), (1, 2)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_padding_is_tensorflows(kernel: int, stride: int, axis: int) -> None:
    for side in range(1, 12):
        shape, kernels, strides = [1, 1, 4, 4, 4], [1, 1, 1], [1, 1, 1]
        shape[2 + axis], kernels[axis], strides[axis] = side, kernel, stride
        padded = pad_same(torch.ones(shape), kernels, strides)
        before, after = missing_of_tensorflow(side, kernel, stride)
        line = padded.sum(dim=[n for n in range(5) if n != 2 + axis])
        assert [bool(value) for value in line] == [False] * before + [True] * side + [False] * after


def test_pools_see_nothing_but_the_picture() -> None:
    x = torch.rand(1, 2, 5, 6, 7, generator=torch.Generator().manual_seed(1))
    for kernel, stride in [
        ((1, 3, 3), (1, 2, 2)),
        ((3, 3, 3), (2, 2, 2)),
        ((2, 2, 2), (2, 2, 2)),
        ((3,) * 3, (1,) * 3),
    ]:
        found = pool_same(x, kernel, stride).numpy()
        assert found.shape[2:] == tuple(-(-side // s) for side, s in zip((5, 6, 7), stride, strict=True))
        starts = [missing_of_tensorflow(*facts)[0] for facts in zip((5, 6, 7), kernel, stride, strict=True)]
        for place in itertools.product(*map(range, found.shape[2:])):
            begin = [p * s - start for p, s, start in zip(place, stride, starts, strict=True)]
            window = tuple(slice(max(b, 0), b + k) for b, k in zip(begin, kernel, strict=True))
            assert np.array_equal(found[(0, slice(None), *place)], x[(0, slice(None), *window)].amax((1, 2, 3)))


def convolved(weights: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    """A unit by hand: pad, convolve, normalise, cut at 0."""
    kernel = weights[f"{name}.conv3d.weight"]
    pads = [missing_of_tensorflow(side, kernel.shape[-1], stride) for side in x.shape[:1:-1]]
    h = F.conv3d(F.pad(x, [*itertools.chain(*pads)]), kernel, stride=stride)
    mean, var, scale, shift = (
        weights[f"{name}.bn.{part}"].view(-1, 1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return ((h - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)


def test_a_unit_is_convolution_norm_and_cut(made_up: Callable[[nn.Module], nn.Module]) -> None:
    unit = made_up(Unit3D(3, 5, 7, 2))
    x = torch.randn(2, 3, 5, 8, 11, generator=torch.Generator().manual_seed(2))
    weights = {f"u.{name}": tensor for name, tensor in unit.state_dict().items()}
    assert torch.allclose(unit(x), convolved(weights, "u", x, 2), atol=1e-5)


def test_a_block_joins_four_branches(made_up: Callable[[nn.Module], nn.Module]) -> None:
    block = made_up(Mixed(6, 2, 3, 4, 2, 5, 3))
    weights = {f"m.{name}": tensor for name, tensor in block.state_dict().items()}
    x = torch.rand(1, 6, 3, 5, 4, generator=torch.Generator().manual_seed(3))
    branches = [
        convolved(weights, "m.b0", x),
        convolved(weights, "m.b1b", convolved(weights, "m.b1a", x)),
        convolved(weights, "m.b2b", convolved(weights, "m.b2a", x)),
        convolved(weights, "m.b3b", F.max_pool3d(x, 3, 1, 1)),
    ]
    assert torch.allclose(block(x), torch.cat(branches, dim=1), atol=1e-5)


def test_logits_are_the_mean_over_time(made_up: Callable[[nn.Module], I3D]) -> None:
    network = made_up(I3D())
    maps = torch.rand(2, 1024, 4, 7, 7, generator=torch.Generator().manual_seed(4))
    weight, bias = network.logits.conv3d.weight.flatten(1), network.logits.conv3d.bias
    steps = [weight @ maps[:, :, n : n + 2].mean(dim=(2, 3, 4)).mT + bias[:, None] for n in range(3)]
    assert torch.allclose(network.classify(maps), torch.stack(steps).mean(dim=0).mT, atol=1e-5)


@pytest.mark.parametrize(("count", "last"), [(9, 2), (16, 2), (17, 3), (64, 8)])
def test_the_last_maps_are_as_large_as_the_last_pool(count: int, last: int) -> None:
    with torch.device("meta"):
        network, clips = I3D().eval(), torch.empty(2, 3, count, 224, 224)
    seen: list[torch.Size] = []
    network.get_submodule("Mixed_5c").register_forward_hook(lambda _, inputs, out: seen.append(out.shape))
    assert network(clips).shape == (2, 400)
    assert seen == [(2, 1024, last, 7, 7)]


def test_the_layers_follow_each_other_as_in_the_paper(made_up: Callable[[nn.Module], I3D]) -> None:
    network = made_up(I3D())
    weights = network.state_dict()
    clip = 2 * torch.rand(1, 3, 9, 224, 224, generator=torch.Generator().manual_seed(5)) - 1
    with torch.inference_mode():
        x = convolved(weights, "Conv3d_1a_7x7", clip, 2)
        x = F.max_pool3d(F.pad(x, (0, 1, 0, 1)), (1, 3, 3), (1, 2, 2))
        x = convolved(weights, "Conv3d_2c_3x3", convolved(weights, "Conv3d_2b_1x1", x))
        x = F.max_pool3d(F.pad(x, (0, 1, 0, 1)), (1, 3, 3), (1, 2, 2))
        x = network.get_submodule("Mixed_3c")(network.get_submodule("Mixed_3b")(x))
        x = F.max_pool3d(F.pad(x, (0, 1, 0, 1, 1, 1)), 3, 2)  # 5 frames to 3
        for letter in "bcdef":
            x = network.get_submodule(f"Mixed_4{letter}")(x)
        x = F.max_pool3d(F.pad(x, (0, 0, 0, 0, 0, 1)), 2, 2)  # 3 frames to 2
        x = network.get_submodule("Mixed_5c")(network.get_submodule("Mixed_5b")(x))
        found, wanted = network(clip), network.classify(x)
    assert torch.allclose(found, wanted, atol=1e-4 * wanted.abs().max().item())


@pytest.mark.parametrize("shape", [(1, 3, 8, 224, 224), (1, 3, 16, 224, 256), (1, 3, 16, 112, 112)])
def test_clips_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="9 or more frames of 224x224"):
        I3D()(torch.empty(shape))
