"""The judges' networks say the same on a CUDA device as on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from consisti2v_cli.evaluation.networks.c3d import C3D, C3DSizes
from consisti2v_cli.evaluation.networks.i3d import I3D
from consisti2v_cli.evaluation.networks.inception import Inception
from consisti2v_cli.evaluation.networks.raft import RAFT

SMALL_C3D = C3DSizes(widths=(8, 8, 8, 8, 8), hidden=16, classes=5)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "raft": (RAFT, ((1, 3, 64, 72), (1, 3, 64, 72))),
    "i3d": (I3D, ((1, 3, 9, 224, 224),)),
    "inception": (Inception, ((1, 3, 128, 128),)),
    "c3d": (lambda: C3D(SMALL_C3D), ((1, 3, 16, 112, 112),)),
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_a_network_says_the_same_on_cuda(name: str, made_up: Callable[[nn.Module], nn.Module]) -> None:
    """In float64: made-up weights would amplify rounding."""
    build, shapes = CASES[name]
    network = made_up(build()).double()
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes]

    def says(device: str) -> Tensor:
        out = network.to(device)(*(tensor.to(device) for tensor in inputs))
        return (out[0] if isinstance(out, tuple) else out).cpu()

    expected = says("cpu")
    assert (says("cuda") - expected).norm() < 1e-6 * expected.norm()
