"""Classifier-free guidance by text, and by text and image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    """How strongly the prediction is pushed towards the text and the image.

    Which predictions are needed, in this order along the batch: `(negative text, no image)` where the image
    guides, `(negative text, image)` where anything guides, `(text, image)` always.
    """

    text: float = 7.5  # w; 1 or less without image guidance: no guidance
    image: float = 1.0  # w_img; guides above 1
    rescale: float = 0.0  # 0..1, Lin et al., section 3.4

    @property
    def by_image(self) -> bool:
        return self.image > 1

    @property
    def branches(self) -> int:
        """How many predictions a step takes: 1, 2 or 3."""
        return 3 if self.by_image else 2 if self.text > 1 else 1

    def texts(self, text: Tensor, negative_text: Tensor) -> Tensor:
        """The text condition of every branch: `b tokens width` -> `branches*b tokens width`."""
        return torch.cat([negative_text] * (self.branches - 1) + [text])

    def first_frames(self, first_frame: Tensor, no_image: Tensor) -> Tensor:
        """The image condition of every branch: `b c 1 h w` -> `branches*b c 1 h w`."""
        with_image = [first_frame] * (self.branches - self.by_image)
        return torch.cat([no_image] * self.by_image + with_image)

    def combine(self, predictions: Tensor) -> Tensor:
        """The branches' predictions `branches*b c f h w` -> the guided prediction `b c f h w`."""
        parts = predictions.chunk(self.branches)
        full = parts[-1]
        if self.branches == 1:
            return full
        guided = parts[-2] + self.text * (full - parts[-2])
        if self.by_image:
            guided = parts[0] + self.image * (parts[1] - parts[0]) + self.text * (full - parts[1])
        return rescaled(guided, full, self.rescale) if self.rescale else guided


def rescaled(guided: Tensor, full: Tensor, share: float) -> Tensor:
    """Pull the guided prediction towards the deviation of the `(text, image)` one (Lin et al., section 3.4)."""
    axes = tuple(range(1, guided.ndim))
    matched = guided * (full.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
    return guided.lerp(matched, share)
