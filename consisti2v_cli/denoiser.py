"""The network as the sampler calls it, step after step of one clip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from consisti2v_cli.model import DeepFeatures
from consisti2v_cli.plans import MemoryPlan
from consisti2v_cli.weights.load import Model
from consisti2v_cli.weights.offload import OnNotice, in_less_memory, say_nothing


class ClipDenoiser:
    """The network in its own precision behind a border of float32: the sampler adds up small steps.

    A step for which memory lacks is computed again from the same latents, as the model's next smaller plan says.

    Args:
        model: whose network predicts.
        reuse: how many neighbouring steps share one computation of the deep layers; 1: none do.
        on_notice: hears of a plan that changes.
    """

    shares_branches = True  # as the network's

    def __init__(self, model: Model, reuse: int = 1, on_notice: OnNotice = say_nothing) -> None:
        self.model = model
        self.reuse = reuse
        self.notice = on_notice
        self._deep: list[DeepFeatures] = []  # of the branches together, or of each
        self._steps = 0  # since the deep layers were computed
        self._made_for: tuple[MemoryPlan, int] | None = None  # the plan, and how many branches

    def __call__(
        self, latents: Tensor, timestep: Any, text: Any, /, *, first_frame: Tensor, frame_stride: Any
    ) -> Tensor:
        latents, first_frame = latents.to(self.model.dtype), first_frame.to(self.model.dtype)
        branches = text[0][0].shape[0]

        def predict() -> Tensor:
            parts = self._parts(branches)
            deep = self._features(branches, len(parts)) if self.reuse > 1 else [None] * len(parts)
            predictions = [
                self.model.unet(
                    latents if len(latents) == 1 else latents[part],
                    timestep,
                    tuple((keys[part], values[part]) for keys, values in text),
                    first_frame=first_frame if len(first_frame) == 1 else first_frame[part],
                    frame_stride=frame_stride,
                    deep=features,
                )
                for part, features in zip(parts, deep, strict=True)
            ]
            return torch.cat(predictions).float()

        return in_less_memory(self.model, predict, self.notice)

    def project_text(self, text: Tensor) -> Any:
        """The text condition, prepared once for all steps: where the network's weights lie."""

        def project() -> Any:
            projected = self.model.unet.project_text(text.to(next(self.model.unet.parameters()).device))
            return tuple((keys.to(text.device), values.to(text.device)) for keys, values in projected)

        return in_less_memory(self.model, project, self.notice)

    def _parts(self, branches: int) -> list[slice]:
        """Which branches of guidance are computed at a time."""
        if not self.model.plan.branches_apart:
            return [slice(branches)]
        return [slice(n, n + 1) for n in range(branches)]

    def _features(self, branches: int, parts: int) -> list[DeepFeatures]:
        """What the deep layers gave, if it is fresh enough, and of as many branches."""
        made_for = (self.model.plan, branches)
        if self._steps == self.reuse or made_for != self._made_for:
            self._deep, self._steps, self._made_for = [DeepFeatures() for _ in range(parts)], 0, made_for
        self._steps += 1
        return self._deep
