"""The camera's motion found in a clip, from its frames alone: phase correlation of blocks, and a robust fit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from consisti2v_cli.camera import Motion

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Reals = NDArray[np.floating[Any]]  # whatever precision
    Range = tuple[int, int]  # first index, and the one behind the last

_LONG_SIDE = 256  # pixels: larger frames are reduced first
_ASPECT = 8  # of longer frames only the middle is looked at
_SHORT_SIDE = 48  # pixels: frames too blurred for their blocks are reduced down to this
_BLOCKS = (16, 64)  # pixels: the smallest and the largest side of a block; in between a quarter of the frame
_GRID = 6  # blocks along each axis, overlapping
_FEWEST = 3  # blocks: fewer say nothing of growth, and are no majority
_REACH = 0.3  # of a side: the largest shift between two frames that is looked for
_KEY_WAY = 0.1  # of the short side: how far the camera goes from one key frame to the next
_ROUNDS = 5  # of matching at most, each with the second frame moved by what is known
_NOTHING_LEFT = 0.01  # pixels: matching ends when so little is found
_FITS = 8  # of the blocks, each with weights by how well a block agreed with the one before
_TAPS = 6  # pixels on either side that count where a frame is moved by parts of a pixel
_NOISE = 2.0  # grey levels: frequencies weaker than noise of this deviation count little
_PEAKS = (1.0, 2.0)  # pixels: the widths of peaks, in the smallest and the largest blocks
_CHANCE = 3.0  # correlations up to so many deviations of unrelated blocks' count for nothing
_TOLERANCE = 0.05  # the share of its correlation that a block loses by going with the others until it counts for less
_EVIDENCE = 0.03  # mean correlation above chance; photos that have nothing in common seldom reach 0.02
_GAPS = 0.2  # of all pairs of neighbours: if more cannot be matched, nothing is certain
_CLEAR = 0.5  # the least that must be known of one direction, against the one of which most is known

_LITTLE = 1.0  # percent: found motion below that is not worth a word
_ROUNDING = 1e-6  # percent: asked motion below that is none


@dataclass(frozen=True)
class _Step:
    """What happens between two frames: the point at x, from the frame's middle, goes to `scale x + shift`."""

    scale: float = 1.0
    right: float = 0.0  # pixels
    down: float = 0.0

    def then(self, other: _Step) -> _Step:
        right, down = other.scale * self.right + other.right, other.scale * self.down + other.down
        return _Step(self.scale * other.scale, right, down)


@dataclass(frozen=True)
class _Peaks:
    """Where each of n blocks went, and how its correlation falls off around there: a quadratic form."""

    middle: Reals  # n 2: the block's middle, right and down from the frame's
    shift: Reals  # n 2: the correlation's highest point, to a part of a pixel
    curve: Reals  # n 2 2: minus the second derivatives, positive definite: low along edges, high across them
    height: Reals  # n: the correlation there; 1 for equal blocks
    chance: float  # how high unrelated blocks' correlation may be


def camera_motion(frames: Iterable[NDArray[np.uint8]]) -> Motion:
    """Find the camera's motion over a clip: from each frame to the next, added up.

    For two frames, overlapping blocks are matched by phase correlation (Kuglin and Hines, 1975) under a Hann window.
    One shift and one scale are fitted to all of them, in which blocks that go their own way count for little. Both are
    then taken out of the second frame, and what is left is matched again.

    Where the camera has gone far enough, the frame is also matched with the last such one directly: small steps are
    held back by what stands still in every frame, such as the grid that a decoder leaves.

    Args:
        frames: `h w 3` each, all of one size, best 64 pixels and more; in steps of up to 0.3 of the frame.

    Returns:
        The motion as `camera.asked_motion` gives it for a path. Neighbours of which it cannot be told how they hang
        together (flat areas, stripes, a cut) count as still; where they are many, the motion is not certain.

    ValueError where there are no frames.
    """
    key = before = last = None
    total, since = _Step(), _Step()  # up to the key frame, and from there
    pairs = gaps = 0
    parts = (1.0, 1.0)
    for frame in frames:
        grey, parts = _grey(frame)
        if before is not None and key is not None:
            last = _match(before, grey) or (last and _match(before, grey, last))
            pairs, gaps = pairs + 1, gaps + (last is None)
            since = since.then(last or _Step())
            if _way(since, grey.shape) > _KEY_WAY * min(grey.shape):
                straight = None if key is before else _match(key, grey, since)
                total, since, key = total.then(straight or since), _Step(), grey
        before, key = grey, grey if key is None else key
    if before is None or key is None:
        raise ValueError("there are no frames")
    if key is not before:
        total = total.then(_match(key, before, since) or since)
    return _travelled(total, before.shape, parts, gaps <= _GAPS * pairs)


def _travelled(total: _Step, shape: tuple[int, ...], parts: tuple[float, float], certain: bool) -> Motion:
    """A whole clip's step as the camera's motion; `parts`: the shares of width and height that the shape stands for."""
    height, width = (side * total.scale**0.5 for side in shape)
    right, down = (-100 * way + 0.0 for way in (total.right * parts[0] / width, total.down * parts[1] / height))
    return Motion(right, down, total.scale, certain)  # + 0.0: no minus in front of nothing


def describe_motion(asked: Motion, found: Motion) -> str:
    """One sentence, such as: Camera: asked for 30 % of the width to the left, found 27 %; no zoom."""
    wanted, seen, besides = [], [], []
    for want, see in zip(_parts(asked), _parts(found), strict=True):
        if want.size > _ROUNDING:
            wanted.append(want.words)
            seen.append(see.amount if see.direction == want.direction or see.size < _LITTLE else see.words)
        elif see.size >= _LITTLE:
            besides.append(see.words)
    asked_for = f"for {_listed(wanted)}" if wanted else "to stay still"
    if not found.certain:
        return f"Camera: asked {asked_for}; what became of it cannot be told from the frames."
    if not wanted:
        return f"Camera: asked {asked_for}, found {_listed(besides) or 'no motion'}."
    rest = f"; also {_listed(besides)}" if besides else "; no zoom" if asked.zoom == 1 else ""
    return f"Camera: asked {asked_for}, found {_listed(seen)}{rest}."


def _listed(words: Sequence[str]) -> str:
    *others, last = words or [""]
    return f"{', '.join(others)} and {last}" if others else last


@dataclass(frozen=True)
class _Part:
    """One of the things that a camera can do, in words."""

    size: float  # percent
    direction: str
    amount: str
    words: str  # amount and direction


def _parts(motion: Motion) -> list[_Part]:
    times, way = f"{max(motion.zoom, 1 / motion.zoom):.2f}", "in" if motion.zoom > 1 else "out"
    parts = [_Part(100 * abs(math.log(motion.zoom)), way, times, f"a zoom {way} by {times}")]
    for value, side, (ahead, back) in (
        (motion.right, "width", ("to the right", "to the left")),
        (motion.down, "height", ("down", "up")),
    ):
        direction = ahead if value > 0 else back
        size = abs(value)
        amount = f"{size:.0f} %" if size >= 9.5 else f"{size:.1f}".removesuffix(".0") + " %"
        parts.append(_Part(size, direction, amount, f"{amount} of the {side} {direction}"))
    return parts


def _way(step: _Step, shape: tuple[int, ...]) -> float:
    """How far the points of a frame go in a step, about, in pixels."""
    return math.hypot(step.right, step.down) + abs(math.log(step.scale)) * min(shape) / 4


def _grey(frame: NDArray[np.uint8]) -> tuple[Reals, tuple[float, float]]:
    """The frame's brightness, `h w`, 0 to 255, reduced; and what share of the frame's width and height it shows."""
    height, width = frame.shape[:2]
    sides = [min(width, _ASPECT * height), min(height, _ASPECT * width)]
    left, top = (width - sides[0]) // 2, (height - sides[1]) // 2
    image = Image.fromarray(frame[top : top + sides[1], left : left + sides[0]]).convert("L")
    factor = max(1.0, max(sides) / _LONG_SIDE)
    size = (max(1, round(sides[0] / factor)), max(1, round(sides[1] / factor)))
    reduced = Image.fromarray(np.asarray(image, np.float32)).resize(size, Image.Resampling.BOX)
    return np.asarray(reduced), (sides[0] / width, sides[1] / height)


def _match(one: Reals, two: Reals, guess: _Step | None = None) -> _Step | None:
    """How the camera moved between two frames, `h w` each; None where that cannot be told."""
    step, evidence = guess or _whole_shift(one, two), 0.0
    for _ in range(_ROUNDS):
        rest, evidence = _fit(_block_peaks(one, *_moved_back(two, step)))
        step = rest.then(step)
        if not _likely(step, one.shape):
            evidence = 0.0
        if not evidence or _way(rest, one.shape) < _NOTHING_LEFT:
            break
    if evidence >= _EVIDENCE:
        return step
    if min(one.shape) < 2 * _SHORT_SIDE:
        return None
    half = guess and _Step(guess.scale, guess.right / 2, guess.down / 2)
    coarse = _match(_halved(one), _halved(two), half)  # blurred frames show only what is larger than the blocks
    return coarse and _Step(coarse.scale, 2 * coarse.right, 2 * coarse.down)


def _likely(step: _Step, shape: tuple[int, ...]) -> bool:
    """Whether a step leaves so much in view that it could have been found."""
    near = abs(step.right) < 2 * _REACH * shape[1] and abs(step.down) < 2 * _REACH * shape[0]
    return near and 0.5 < step.scale < 2


def _halved(grey: Reals) -> Reals:
    height, width = (side // 2 for side in grey.shape)
    half: Reals = grey[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))
    return half


def _whole_shift(one: Reals, two: Reals) -> _Step:
    """The shift in whole pixels at which two frames agree best."""
    correlation = _correlate(one[None], two[None])[0]
    down, right = (np.rint(np.fft.fftfreq(side) * side) for side in one.shape)
    far = (np.abs(down)[:, None] > _REACH * len(down)) | (np.abs(right) > _REACH * len(right))
    row, column = np.unravel_index(np.where(far, -np.inf, correlation).argmax(), one.shape)
    return _Step(1.0, float(right[column]), float(down[row]))


def _moved_back(two: Reals, step: _Step) -> tuple[Reals, Range, Range]:
    """The second frame as it would look without the step, and which columns and rows of that lie within it."""
    columns, across = _samples(two.shape[1], step.scale, step.right)
    rows, along = _samples(two.shape[0], step.scale, step.down)
    return rows @ two @ columns.T, across, along


def _samples(side: int, scale: float, shift: float) -> tuple[Reals, Range]:
    """Weights of one axis' pixels, a row for each sample, and the range of samples that need no pixel from outside.

    A windowed sinc: shorter filters draw the subpixel shift towards whole pixels.
    """
    middle = (side - 1) / 2
    at = scale * (np.arange(side) - middle) + shift + middle
    away = (at[:, None] - np.arange(side)).astype(np.float32)
    weights = np.sinc(away) * np.cos(np.pi / 2 * np.clip(away / _TAPS, -1, 1)) ** 2
    weights /= np.maximum(weights.sum(1, keepdims=True), 0.5)  # at the borders some are missing
    inside = np.flatnonzero((at >= 0) & (at <= side - 1))
    return weights, (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)


def _block_peaks(one: Reals, two: Reals, across: Range, along: Range) -> _Peaks:
    """Match blocks of two frames, on a grid over the columns and rows in which both show something."""
    height, width = one.shape
    smallest, largest = _BLOCKS
    short = min(height, width)
    block = min(short, max(smallest, min(largest, 1 << max(0, short.bit_length() - 3))))
    lefts, tops = (
        np.unique(np.linspace(low, max(low, high - block), _GRID).round().astype(int)).clip(0, side - block)
        for (low, high), side in ((across, width), (along, height))
    )
    top, left = (corner.ravel() for corner in np.meshgrid(tops, lefts, indexing="ij"))
    blocks = [np.lib.stride_tricks.sliding_window_view(frame, (block, block))[top, left] for frame in (one, two)]
    middle = np.stack([left, top], -1) + (block - np.array([width, height])) / 2
    return _highest(middle, _correlate(*blocks), _CHANCE * math.sqrt(math.pi) * _peak_width(block) / block)


def _correlate(one: Reals, two: Reals) -> Reals:
    """Phase correlation of pairs of pictures, `n h w` each -> `n h w`: 1 at the shift from one to two if they agree."""
    sides = one.shape[1:]
    window = np.outer(*(np.hanning(side + 2)[1:-1] for side in sides)).astype(np.float32)
    window /= window.sum()
    before, after = (np.fft.rfft2((each - (each * window).sum((1, 2), keepdims=True)) * window) for each in (one, two))
    cross = after * before.conj()
    frequency = np.fft.fftfreq(sides[0])[:, None] ** 2 + np.fft.rfftfreq(sides[1]) ** 2
    smooth = np.exp(-2 * (np.pi * _peak_width(min(sides))) ** 2 * frequency).astype(np.float32)
    cross *= smooth / (np.abs(cross) + _NOISE**2 * (window**2).sum())
    correlation: Reals = np.fft.irfft2(cross, s=sides) / np.fft.irfft2(smooth, s=sides)[0, 0]
    return correlation


def _peak_width(side: int) -> float:
    narrow, wide = _PEAKS
    return max(narrow, min(wide, narrow * side / _BLOCKS[0]))


def _highest(middle: Reals, correlation: Reals, chance: float) -> _Peaks:
    """The peaks of correlations, `n h w`, to a part of a pixel."""
    count, *sides = correlation.shape
    rows, columns = np.unravel_index(correlation.reshape(count, -1).argmax(1), sides)
    near = np.arange(-1, 2)
    around = correlation[
        np.arange(count)[:, None, None],
        (rows[:, None] + near)[:, :, None] % sides[0],
        (columns[:, None] + near)[:, None, :] % sides[1],
    ]  # n 3 3
    top = around[:, 1, 1]
    right, down = around[:, 1, 2] - around[:, 1, 0], around[:, 2, 1] - around[:, 0, 1]
    across, along = 2 * top - around[:, 1, 0] - around[:, 1, 2], 2 * top - around[:, 0, 1] - around[:, 2, 1]
    both = (around[:, 0, 2] + around[:, 2, 0] - around[:, 0, 0] - around[:, 2, 2]) / 4
    curve = np.stack([across, both, both, along], -1).reshape(count, 2, 2)
    values, vectors = np.linalg.eigh(curve)
    values = np.maximum(values, 1e-3 * values[:, 1:]).clip(1e-6)  # along an edge nothing is known
    curve = vectors @ (values[:, :, None] * vectors.swapaxes(1, 2))
    rest = np.linalg.solve(curve, np.stack([right, down], -1)[:, :, None] / 2)[:, :, 0].clip(-1, 1)
    whole = [(index + side // 2) % side - side // 2 for index, side in ((columns, sides[1]), (rows, sides[0]))]
    return _Peaks(middle, np.stack(whole, -1) + rest, curve, top, chance)


def _fit(peaks: _Peaks) -> tuple[_Step, float]:
    """The step that keeps the blocks' correlations highest, and how much speaks for it: from 0 to 1.

    Blocks that something else moves, or that match by chance, are left out more and more (Geman and McClure's weights).
    """
    trust = np.maximum(0, peaks.height - peaks.chance)
    if len(trust) < _FEWEST or not trust.any():
        return _Step(), 0.0
    design = np.zeros((len(trust), 2, 3))  # a block's shift is design @ (right, down, growth)
    design[:, 0, 0] = design[:, 1, 1] = 1
    design[:, :, 2] = peaks.middle
    form = peaks.curve / np.trace(peaks.curve, axis1=1, axis2=2)[:, None, None]  # rich blocks count no more than others
    known = design.swapaxes(1, 2) @ form  # n 3 2
    found = np.array([*(_median(peaks.shift[:, axis], trust * form[:, axis, axis]) for axis in (0, 1)), 0.0])
    for _ in range(_FITS):
        away = design @ found - peaks.shift
        lost = np.einsum("ni,nij,nj->n", away, peaks.curve, away) / (2 * peaks.height.clip(1e-6))
        weight = trust / (1 + lost / _TOLERANCE) ** 2
        sure = np.einsum("n,nab->ab", weight, known @ design)
        sure[2, 2] += sure[0, 0]  # a lone block says nothing of growth
        found = np.linalg.solve(sure, np.einsum("n,nai,ni->a", weight, known, peaks.shift))
    least, most = np.linalg.eigvalsh(sure[:2, :2])
    evidence = weight.mean() if least >= _CLEAR * most else 0.0
    return _Step(1 + float(found[2]), float(found[0]), float(found[1])), float(evidence)


def _median(values: Reals, weights: Reals) -> float:
    """The value that has half of the weight on either side."""
    order = values.argsort()
    share = weights[order].cumsum()
    return float(values[order][share.searchsorted(share[-1] / 2)])
