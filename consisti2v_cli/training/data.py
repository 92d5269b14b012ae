"""Where the training data come from, by a short specification."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from consisti2v_cli.errors import RequestError
from consisti2v_cli.training.batch import Batch, ClipSource
from consisti2v_cli.training.photos import PhotoSource
from consisti2v_cli.training.synthetic import MOTIONS, SyntheticClips
from consisti2v_cli.training.videos import VideoClips

__all__ = ["MOTIONS", "Batch", "ClipSource", "MixedClips", "PhotoSource", "open_clips"]


class MixedClips:
    """A `ClipSource` that draws each clip from one of two others.

    Args:
        share: of the clips that come from the second, 0 to 1.
    """

    def __init__(self, first: ClipSource, second: ClipSource, share: float) -> None:
        self.sources, self.share = (first, second), share

    def draw(self, batch: int, frames: int, generator: Generator) -> Batch:
        """Draw clips; those of the second source come last."""
        second = int((torch.rand(batch, generator=generator) < self.share).sum())
        counts = (batch - second, second)
        drawn = [s.draw(n, frames, generator) for s, n in zip(self.sources, counts, strict=True) if n]
        return Batch(
            torch.cat([some.frames for some in drawn]),
            [caption for some in drawn for caption in some.captions],
            [motion for some in drawn for motion in some.motions],
            torch.cat([some.strides for some in drawn]),
        )


def open_clips(
    spec: str,
    *,
    size: int,
    device: torch.device | str = "cpu",
    motions: Sequence[str] | None = None,
) -> ClipSource:
    """Open a source of clips.

    Args:
        spec: `synthetic:DIR` makes clips from the photos in DIR; else a folder of videos or a manifest (CSV or JSON
            lines) that names videos and their captions.
        size: side of the frames in pixels.
        motions: for synthetic clips, classes or groups of classes with optional weights (`left`, `pans:4`);
            None: every class alike.

    Raises:
        RequestError: nothing can be read there, or `motions` is given for videos or names an unknown class.
    """
    if spec.startswith("synthetic:"):
        return SyntheticClips(spec.removeprefix("synthetic:"), size=size, device=device, motions=motions)
    if motions is not None:
        raise RequestError(
            "classes of motion can be chosen for synthetic clips only; the videos' captions say what they show"
        )
    return VideoClips(spec, size=size, device=device)
