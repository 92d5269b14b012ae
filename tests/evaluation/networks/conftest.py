from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

MakeUp = Callable[[nn.Module], nn.Module]


@pytest.fixture(scope="session")
def made_up() -> MakeUp:
    """Gives a network made-up weights, the same each time, that neither die out nor explode."""

    def make_up(network: nn.Module) -> nn.Module:
        source = torch.Generator().manual_seed(5)
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=source)
            if name.endswith("running_var"):
                noise = 0.5 + noise.abs()
            elif tensor.dim() > 1:
                noise *= (2 / tensor[0].numel()) ** 0.5
            elif name.endswith("weight"):
                noise = 1 + 0.1 * noise
            else:
                noise *= 0.1
            tensor.copy_(noise)
        return network.eval().requires_grad_(False)

    return make_up
