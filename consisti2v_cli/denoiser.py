"""The network as the sampler calls it, step after step of one clip."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from consisti2v_cli.model import DeepFeatures
from consisti2v_cli.weights.load import Model


class ClipDenoiser:
    """The network in its own precision behind a border of float32: the sampler adds up small steps.

    Args:
        model: whose network predicts.
        reuse: how many neighbouring steps share one computation of the deep layers; 1: none do.
    """

    shares_branches = True  # as the network's

    def __init__(self, model: Model, reuse: int = 1) -> None:
        self.unet = model.unet
        self.dtype = model.dtype
        self.reuse = reuse
        self._deep = DeepFeatures()
        self._steps = 0  # since the deep layers were computed
        self._branches = 0  # for which they were

    def __call__(
        self, latents: Tensor, timestep: Any, text: Any, /, *, first_frame: Tensor, frame_stride: Any
    ) -> Tensor:
        predicted: Tensor = self.unet(
            latents.to(self.dtype),
            timestep,
            text,
            first_frame=first_frame.to(self.dtype),
            frame_stride=frame_stride,
            deep=self._features(text) if self.reuse > 1 else None,
        )
        return predicted.float()

    def project_text(self, text: Tensor) -> Any:
        """The text condition, prepared once for all steps."""
        return self.unet.project_text(text)

    def _features(self, text: Any) -> DeepFeatures:
        """What the deep layers gave, if it is fresh enough, and of as many branches."""
        branches = text[0][0].shape[0]
        if self._steps == self.reuse or branches != self._branches:
            self._deep, self._steps, self._branches = DeepFeatures(), 0, branches
        self._steps += 1
        return self._deep
