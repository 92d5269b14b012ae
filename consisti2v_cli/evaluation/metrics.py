"""The mathematics of the metrics: functions of arrays, without weights and without files.

Scores are fractions, as VBench computes them; the paper prints them times 100. Features are `f c`, a row a frame;
frames are `f h w 3`, uint8; flow is in pixels, from one frame to the next. All that is added up is float64.

Raises, everywhere: ValueError for too few frames, and for features that are not finite or zero, which never come from
a network in order (a broken file of weights, a missing package).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Frames = NDArray[np.uint8]
Scalar = TypeVar("Scalar", bound=np.generic)

DYNAMIC_FPS = 8  # dynamic degree looks at about so many frames a second
STRONGEST = 0.05  # share of the flow vectors that a pair of frames is judged by
GRID = 10  # camera motion tracks so many points in each direction
FEWEST = 16  # clips of a Frechet distance; below, it says nothing
SAME = 100.0  # dB: PSNR of equal pictures
_WINDOW = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
_WINDOW /= _WINDOW.sum()
ADVISED = 2048  # the paper's number of clips; with fewer, Frechet distances come out too large


def unit(features: NDArray[np.floating]) -> Array:
    """Features `... c` scaled to length 1."""
    rows = np.asarray(features, np.float64)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    if not np.isfinite(rows).all():
        raise ValueError("features are not finite")
    if (lengths == 0).any():
        raise ValueError("a feature is zero")
    return np.asarray(rows / lengths)


def consistency_series(features: NDArray[np.floating]) -> Array:
    """For each frame but the first how much it resembles its neighbour and the first frame, `f-1`, 0 to 1.

    `(max(0, cos(f[i-1], f[i])) + max(0, cos(f[0], f[i]))) / 2`; its mean is subject consistency of DINO features and
    background consistency of CLIP features (paper, appendix C; VBench).
    """
    rows = unit(_at_least(features, 2))
    neighbours = (rows[:-1] * rows[1:]).sum(axis=-1)
    first = rows[1:] @ rows[0]
    return np.asarray((neighbours.clip(0, 1) + first.clip(0, 1)) / 2)


def consistency(features: NDArray[np.floating]) -> float:
    """The mean of `consistency_series`."""
    return float(consistency_series(features).mean())


def frame_weighted(series: Iterable[Array]) -> float:
    """The mean over all frames of all clips: long clips weigh more, as in VBench's own totals of consistency."""
    return float(np.concatenate(list(series)).mean())


def image_consistency(image: NDArray[np.floating], features: NDArray[np.floating]) -> dict[str, float]:
    """How true a clip stays to the picture that it was made from (VBench-I2V's `i2v_subject`, of DINO features).

    Args:
        image: the picture's feature, `c`.
        features: the frames', `f c`.

    Returns:
        `score`: `0.4 max cos(image, frame) + 0.3 mean + 0.3 min` of the cosines of consecutive frames, clamped at 0;
        and what shows drift, which the maximum hides where the first frame is the picture: `mean` and `last` of
        `cos(image, frame)`.
    """
    rows, picture = unit(_at_least(features, 2)), unit(image)
    to_image = (rows @ picture).clip(0, 1)
    neighbours = (rows[:-1] * rows[1:]).sum(axis=-1).clip(0, 1)
    score = 0.4 * to_image.max() + 0.3 * neighbours.mean() + 0.3 * neighbours.min()
    return {"score": float(score), "mean": float(to_image.mean()), "last": float(to_image[-1])}


def flicker_series(frames: Frames) -> Array:
    """Mean absolute difference of each pair of consecutive frames, of 255, `f-1`."""
    _at_least(frames, 2)
    return np.array([_difference(a, b) for a, b in pairwise(frames)])


def temporal_flickering(frames: Frames) -> float:
    """`(255 - mean of flicker_series) / 255`: 1 for a still picture (VBench)."""
    return float((255 - flicker_series(frames).mean()) / 255)


def psnr(one: Frames, other: Frames) -> float:
    """Peak signal-to-noise ratio of two pictures in dB; at most `SAME`, which equal ones have."""
    error = float(np.square(one.astype(np.float64) - other).mean())
    return min(SAME, 10 * math.log10(255**2 / error)) if error else SAME


def ssim(one: Frames, other: Frames) -> float:
    """Structural similarity of two pictures `h w 3`, the mean over pixels and channels (Wang et al. 2004, eq. 13).

    With their window, a Gaussian of deviation 1.5 cut off at 11 pixels, where it lies within the picture.
    """
    _at_least(one, len(_WINDOW))
    _at_least(one[0], len(_WINDOW))
    a, b = (picture.astype(np.float64) for picture in (one, other))
    mean_a, mean_b = _blurred(a), _blurred(b)
    variances = _blurred(a * a) + _blurred(b * b) - mean_a**2 - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    alike = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((alike / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))).mean())


def _blurred(picture: Array) -> Array:
    """`h w c` under the window, where that lies within it."""
    for axis in (0, 1):
        parts = [
            np.moveaxis(picture, axis, 0)[k : picture.shape[axis] - len(_WINDOW) + 1 + k] for k in range(len(_WINDOW))
        ]
        picture = np.moveaxis(sum(w * part for w, part in zip(_WINDOW, parts, strict=True)), 0, axis)
    return picture


def colour_series(frames: Frames) -> Array:
    """The largest change of a channel's mean against the first frame, of 255: `f-1`."""
    means = _at_least(frames, 2).mean(axis=(1, 2), dtype=np.float64)
    return np.asarray(np.abs(means[1:] - means[0]).max(axis=-1))


def sharpness_kept(frames: Frames) -> float:
    """The detail of a clip's last quarter as a share of its first frame's.

    Detail is the deviation of the Laplacian of the grey levels. ValueError: the first frame has none.
    """
    _at_least(frames, 2)
    if min(frames.shape[1:3]) < 3:
        raise ValueError("frames of 3x3 pixels or more are needed")
    first = _detail(frames[0])
    if first == 0:
        raise ValueError("the first frame is of one colour")
    last = frames[-max(1, len(frames) // 4) :]
    return float(np.mean([_detail(frame) for frame in last]) / first)


def _detail(frame: Frames) -> float:
    grey = frame.mean(axis=-1)
    inner = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner).std())


def loop_seam(frames: Frames) -> float:
    """How large the step from the last frame to the first is, in steps from frame to frame: about 1 in a loop.

    ValueError: nothing changes, and so nothing can jump.
    """
    steps = flicker_series(_at_least(frames, 3))
    if not steps.any():
        raise ValueError("a still picture has no seam")
    return float(_difference(frames[-1], frames[0]) / steps.mean())


def frame_step(fps: float) -> int:
    """Every how many frames dynamic degree looks: about `DYNAMIC_FPS` a second, never more than there are."""
    return max(1, round(fps / DYNAMIC_FPS))


def motion_score(flow: NDArray[np.floating]) -> float:
    """Mean length, in pixels, of the strongest 5 % of a flow field `h w 2`."""
    lengths = np.sort(np.linalg.norm(np.asarray(flow, np.float64), axis=-1), axis=None)
    count = int(STRONGEST * lengths.size)
    if count < 1:
        raise ValueError(f"a flow field of {lengths.size} vectors is too small")
    return float(lengths[-count:].mean())


def dynamic_threshold(height: int, width: int) -> float:
    """The motion score in pixels beyond which a pair of frames is in motion."""
    return 6.0 * min(height, width) / 256


def dynamic_count(frames: int) -> int:
    """How many pairs of so many frames must be in motion."""
    return round(4 * frames / 16)


def is_dynamic(scores: Sequence[float], frames: int, height: int, width: int) -> bool:
    """Whether a clip moves: enough of its pairs of frames have a motion score above the threshold (VBench).

    Args:
        scores: `motion_score` of each pair.
        frames: how many frames were looked at. Of two, none need move: such a clip always counts as dynamic.
        height, width: in pixels, without padding.
    """
    above = sum(score > dynamic_threshold(height, width) for score in scores)
    return len(scores) > 0 and above >= dynamic_count(frames)


def motion_smoothness(frames: Frames, interpolate: Callable[[Frames, Frames], NDArray[np.floating]]) -> float:
    """How well each odd frame is foretold by its two neighbours, 0 to 1 (VBench; with AMT there).

    Args:
        frames: three or more. Of an even number the last one is not used.
        interpolate: two frames -> the one between them, `h w 3`, 0 to 1; it is cut off there, and truncated to whole
            levels.
    """
    _at_least(frames, 3)
    errors = []
    for number in range(1, len(frames) - 1, 2):
        between = np.asarray(interpolate(frames[number - 1], frames[number + 1]))
        levels = (between * np.float32(255)).clip(0, 255).astype(np.uint8)
        errors.append(_difference(levels, frames[number]))
    return float((255 - np.mean(errors)) / 255)


def text_similarity(features: NDArray[np.floating], text: NDArray[np.floating]) -> float:
    """Mean cosine of the frames' features `f c` and the text's `c`: CLIPSIM before it is clamped at 0."""
    return float((unit(_at_least(features, 1)) @ unit(text)).mean())


def clipsim(features: NDArray[np.floating], text: NDArray[np.floating]) -> float:
    """CLIPSIM (paper, section 5.2): the mean over all frames, and then not below 0."""
    return max(0.0, text_similarity(features, text))


def frechet_distance(one: NDArray[np.floating], other: NDArray[np.floating], *, ddof: int = 1) -> float:
    """Frechet distance of two normal distributions with the mean and covariance of two sets of features.

    `|m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2)`, the last term as the nuclear norm of `(A - m1)(B - m2)^T`:
    exact for any number of clips, without the square root of a matrix.

    Args:
        one, other: features `n c`, of two clips or more.
        ddof: 1 for the covariance over `n - 1` (the paper's FVD), 0 over `n` (its FID).
    """
    a, b = (_finite(_at_least(x, 2)) for x in (one, other))
    centred = [x - x.mean(axis=0) for x in (a, b)]
    counts = [len(x) - ddof for x in (a, b)]
    traces = sum(float(np.square(x).sum()) / count for x, count in zip(centred, counts, strict=True))
    root = _nuclear_norm(*centred) / math.sqrt(counts[0] * counts[1])
    apart = float(np.square(a.mean(axis=0) - b.mean(axis=0)).sum())
    return apart + traces - 2 * root


def _nuclear_norm(a: Array, b: Array) -> float:
    """Of `a b^T`: the sum of its singular values, by the smaller of the matrices that have them."""
    channels = a.shape[1]
    if min(len(a), len(b)) <= channels:
        return float(np.linalg.svd(a @ b.T, compute_uv=False).sum())
    one, other = (np.asarray(np.linalg.qr(x, mode="r")) for x in (a, b))  # a^T a = one^T one
    return float(np.linalg.svd(one @ other.T, compute_uv=False).sum())


def inception_score(probabilities: NDArray[np.floating], *, splits: int = 10) -> tuple[float, float]:
    """`exp` of the mean divergence of each clip's classes from all clips' (paper, section 5.2).

    Args:
        probabilities: `n classes`, each row adding up to 1.
        splits: parts that are scored by themselves, after shuffling as the paper's code does.

    Returns:
        Mean and deviation over the splits.
    """
    rows = _finite(_at_least(probabilities, splits)).copy()
    np.random.RandomState(42).shuffle(rows)
    scores = []
    for number in range(splits):
        part = rows[number * len(rows) // splits : (number + 1) * len(rows) // splits]
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.where(part > 0, part * (np.log(part) - np.log(part.mean(axis=0))), 0.0)
        scores.append(math.exp(each.sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def middle_frames(count: int, there: int) -> list[int]:
    """The numbers of `count` frames: the middle of each of as many equal spans of `there`; the last one is repeated."""
    if there < 1:
        raise ValueError("no frames")
    spans = min(count, there)
    edges = np.linspace(0, there, spans + 1).astype(int)
    chosen = [int(first + last - 1) // 2 for first, last in pairwise(edges)]
    return chosen + [chosen[-1]] * (count - spans)


def grid_points(height: int, width: int) -> NDArray[np.int64]:
    """The points that camera motion tracks: rows x columns x (x, y), whole pixels."""
    margin = 5.0
    columns, rows = (np.linspace(margin, side - margin - 1, GRID) for side in (width, height))
    return np.stack(np.meshgrid(columns, rows), axis=-1).astype(np.int64)


def camera_motion(start: NDArray[np.integer], end: NDArray[np.integer], height: int, width: int) -> list[str]:
    """How the camera moved, by where a grid of points went between the first frame and the last (VBench-I2V).

    The points in the middle of the four edges vote, in pairs: two that move alike are a pan or a tilt, two that move
    apart or together a zoom.

    Args:
        start, end: rows x columns x (x, y), in whole pixels.

    Returns:
        Of pan_left, pan_right, tilt_up, tilt_down, zoom_in, zoom_out, static; empty where the edges disagree.
    """
    bound, middle = 0.005 * min(height, width), GRID // 2
    way = end - start

    def directions(row: int, column: int) -> set[str]:
        x, y = way[row, column]
        found = {"right": x > bound, "left": x < -bound, "down": y > bound, "up": y < -bound}
        return {name for name, is_so in found.items() if is_so} or {"static"}

    pairs = [
        (directions(0, middle), directions(-1, middle), {("up", "down"): "zoom_in", ("down", "up"): "zoom_out"}),
        (directions(middle, 0), directions(middle, -1), {("left", "right"): "zoom_in", ("right", "left"): "zoom_out"}),
    ]
    alike = {"left": "pan_right", "right": "pan_left", "down": "tilt_up", "up": "tilt_down", "static": "static"}
    labels = {alike[both] for one, other, _ in pairs for both in one & other}
    labels |= {name for one, other, zooms in pairs for (a, b), name in zooms.items() if a in one and b in other}
    return sorted(labels)


def names_object(wanted: str, names: Iterable[str]) -> bool:
    """Whether the wanted object is, to the letter, among the names that a detector gave (object consistency)."""
    return wanted in set(names)


def tells_scene(wanted: str, caption: str) -> bool:
    """Whether every word of a scene's label occurs in a caption, be it inside another word (as VBench tests it)."""
    return all(word in caption for word in wanted.split())


def weighted_mean(values: Mapping[str, float], counts: Mapping[str, int]) -> float:
    """The mean over clips of categories' means: how the paper's "All" rows come about (appendix F has the counts)."""
    return sum(values[name] * counts[name] for name in values) / sum(counts[name] for name in values)


def bootstrap_interval(values: Sequence[float], *, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The middle 95 % of the means of samples drawn with replacement: how far another set of clips might be off."""
    known = np.asarray(_at_least(np.asarray(values, np.float64), 1))
    chosen = np.random.default_rng(seed).integers(len(known), size=(draws, len(known)))
    low, high = np.percentile(known[chosen].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _difference(one: Frames, other: Frames) -> float:
    """Mean absolute difference of two pictures, of 255."""
    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).mean(dtype=np.float64))


def _at_least(rows: NDArray[Scalar], count: int) -> NDArray[Scalar]:
    if len(rows) < count:
        raise ValueError(f"too short: {len(rows)}, where {count} are needed")
    return rows


def _finite(rows: NDArray[np.generic]) -> Array:
    found = np.asarray(rows, np.float64)
    if not np.isfinite(found).all():
        raise ValueError("features are not finite")
    return found
