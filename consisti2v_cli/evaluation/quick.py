"""The measures that need no download: what is measured of a clip, by frames alone, DIS flow, and EfficientNet-Lite0."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from . import metrics
from .clips import Footage
from .flow import dis_flow, interpolate
from .measures import LastingError, Measure, Scores, Subject, Way

FLICKERING = Measure(
    "flickering", "flickering", "higher", "100 less the mean change of a pixel between frames; a still picture has 100"
)
SMOOTHNESS = Measure(
    "smoothness_dis",
    "smoothness (DIS interpolation)",
    "higher",
    "how well each second frame is foretold by its neighbours; for comparing clips with each other only",
    stands_in=True,
)
DYNAMIC = Measure(
    "dynamic_dis",
    "dynamic (DIS flow)",
    "",
    "whether enough happens; a folder's value is the share of clips that move",
    stands_in=True,
)
MOTION = Measure(
    "motion_dis",
    "motion, px (DIS flow)",
    "",
    "mean length of the 5 % strongest flow vectors, median over pairs of frames about an eighth of a second apart",
    scale=1,
    digits=1,
    stands_in=True,
)
CONSISTENCY = Measure(
    "consistency_efficientnet",
    "consistency (EfficientNet-Lite0)",
    "higher",
    "how much frames resemble their neighbour and the first one; a still picture has 100",
    beside=(DYNAMIC.key,),
    stands_in=True,
)
FIRST_PSNR = Measure(
    "first_frame_psnr", "first frame, dB", "higher", "PSNR of the first frame against the photo", scale=1, digits=1
)
FIRST_SSIM = Measure(
    "first_frame_ssim", "first frame, SSIM", "higher", "structural similarity of the first frame and the photo"
)
COLOUR = Measure(
    "colour_drift",
    "colour drift",
    "lower",
    "largest change of a channel's mean against the first frame, of 255; pans and light change it too",
    scale=1,
    digits=1,
)
SHARPNESS = Measure(
    "sharpness",
    "sharpness",
    "",
    "detail of the last frames as a share of the first frame's; below 100: blurred",
    digits=0,
)
SEAM = Measure(
    "loop_seam",
    "seam",
    "lower",
    "change from the last frame to the first, in changes from frame to frame; about 1 in a perfect loop",
    scale=1,
    digits=1,
)

QUICK = (FLICKERING, SMOOTHNESS, DYNAMIC, MOTION, CONSISTENCY, FIRST_PSNR, FIRST_SSIM, COLOUR, SHARPNESS, SEAM)


def _flickering(subject: Subject, scores: Scores) -> None:
    frames = subject.footage.frames
    scores.series["change"] = metrics.flicker_series(frames).tolist()
    scores.values[FLICKERING.key] = metrics.temporal_flickering(frames)


def _smoothness(subject: Subject, scores: Scores) -> None:
    scores.values[SMOOTHNESS.key] = metrics.motion_smoothness(subject.footage.frames, interpolate)


def _motion(subject: Subject, scores: Scores) -> None:
    footage = subject.footage.every(metrics.frame_step(subject.footage.fps))
    flows = (dis_flow(*pair) for pair in pairwise(footage.frames))
    note_motion(scores, footage, flows, (MOTION, DYNAMIC), "motion")


def note_motion(
    scores: Scores,
    footage: Footage,
    flows: Iterable[NDArray[np.floating]],
    measures: tuple[Measure, Measure],
    series: str,
) -> None:
    """How far flows `h w 2` between a clip's frames go, and whether that is enough. LastingError: there are none."""
    found = [metrics.motion_score(flow) for flow in flows]
    if not found:
        raise LastingError("one frame, where two are needed")
    motion, dynamic = measures
    scores.series[series] = found
    scores.values[motion.key] = float(np.median(found))
    scores.values[dynamic.key] = metrics.is_dynamic(found, len(footage.frames), *footage.size)


def _consistency(subject: Subject, scores: Scores) -> None:
    note_consistency(subject, scores, CONSISTENCY, "efficientnet", "consistency")


def note_consistency(subject: Subject, scores: Scores, measure: Measure, network: str, series: str) -> None:
    """How much frames resemble their neighbour and the first one, by a network's features."""
    found = metrics.consistency_series(subject.network(network)(subject.footage.frames))
    scores.series[series] = found.tolist()
    scores.values[measure.key] = float(found.mean())


def _first_frame(subject: Subject, scores: Scores) -> None:
    subject.clip.photo()  # without which the frames need not be read
    first = subject.footage.frames[0]
    photo = subject.clip.first_picture(*subject.footage.size)
    scores.values[FIRST_PSNR.key] = metrics.psnr(first, photo)
    scores.values[FIRST_SSIM.key] = metrics.ssim(first, photo)


def _drift(subject: Subject, scores: Scores) -> None:
    frames = subject.footage.frames
    scores.series["colour"] = metrics.colour_series(frames).tolist()
    scores.values[COLOUR.key] = max(scores.series["colour"], default=0.0)
    scores.values[SHARPNESS.key] = metrics.sharpness_kept(frames)


def _seam(subject: Subject, scores: Scores) -> None:
    try:
        scores.values[SEAM.key] = metrics.loop_seam(subject.footage.frames)
    except ValueError as error:
        raise LastingError(str(error)) from error


QUICK_WAYS = (
    Way(_flickering, (FLICKERING,), series=("change",)),
    Way(_smoothness, (SMOOTHNESS,)),
    Way(_motion, (MOTION, DYNAMIC), series=("motion",)),
    Way(_consistency, (CONSISTENCY,), network="efficientnet", series=("consistency",)),
    Way(_first_frame, (FIRST_PSNR, FIRST_SSIM)),
    Way(_drift, (COLOUR, SHARPNESS), series=("colour",)),
    Way(_seam, (SEAM,)),
)
