"""Forward and backward pass as CUDA graphs: a small network's thousands of kernels are started at once."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Captured:
    """A module in training, captured when it is first called with a kind of input, and anew when that changes.

    Takes tensors only, by position. What it returns lies where the next call writes, so the backward pass must come
    before it. Inputs get no gradients. Parameters stay where they lie in memory, whatever becomes of their values.
    Autocast must not cache weights (`cache_enabled=False`).
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.kind: Any = None
        self.graphs: Callable[..., Any] = module.forward

    def train(self) -> Captured:
        """As of a module: graphs are of the training mode."""
        self.module.train()
        return self

    def __call__(self, *given: Tensor) -> Any:
        kind = ([tensor.shape for tensor in given], [weight.requires_grad for weight in self.module.parameters()])
        if kind != self.kind:
            self.kind, self.graphs = None, self.module.forward
            gc.collect()  # old graphs are in cycles; were they freed during a capture, it would fail
            self.graphs = self._capture(given)
            self.kind = kind
        return self.graphs(*given)

    def _capture(self, given: tuple[Tensor, ...]) -> Callable[..., Any]:
        samples = tuple(tensor.detach().clone() for tensor in given)
        torch.cuda.make_graphed_callables(self.module, samples, allow_unused_input=True)
        graphs: Callable[..., Any] = self.module.__dict__.pop("forward")  # else evaluation would find it there
        return graphs
