"""Measures of whole folders, never of a clip: how its clips are spread, beside real ones (paper, section 5.2).

Features are kept clip by clip, so that a run that was killed goes on; of many clips only sums are held.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consisti2v_cli.errors import ConsistI2VError
from consisti2v_cli.state import prune

from .clips import Clip
from .extractors import Features, Frames, Networks
from .measures import Measure
from .metrics import ADVISED, FEWEST, frechet_distance, inception_score
from .run import VERSION, said, scores_folder, side_by_side, store

FRAMES = 16  # of a clip, that are looked at
SPLITS = 10  # of the inception score
REMEMBERED = 30_000  # files of features: Table 3's, of which a quarter have 128 KiB

FVD = Measure(
    "fvd_i3d", "FVD (I3D)", "lower", "how far the clips' motion and looks are from real clips'; 0 if alike", scale=1
)
FID = Measure(
    "fid_inception",
    "FID (Inception-v3)",
    "lower",
    "how far single frames are from real clips' frames; 0 if alike",
    scale=1,
)
IS = Measure(
    "is_c3d",
    "IS (C3D, UCF-101)",
    "higher",
    "how clearly clips belong to classes of UCF-101, and to how many of them; at most 101",
    scale=1,
)
SPREADS = (FVD, FID, IS)
NETWORKS = {FVD.key: "i3d-k400", FID.key: "inception-2015", IS.key: "c3d-ucf101"}


@dataclass(frozen=True)
class Excerpt:
    """16 frames of a clip."""

    name: str
    sha256: Callable[[], str]  # of the file that they are from
    read: Callable[[], Frames]
    start: float = 0.0  # what tells it from others of the same file


@dataclass(frozen=True)
class Spread:
    """A measure of a folder."""

    value: float | None
    n: int  # clips
    reason: str = ""  # why there is no value
    deviation: float | None = None  # over the parts of the inception score
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # clips that could not be used, and why


def excerpt_of(clip: Clip) -> Excerpt:
    """The first 16 frames of a clip; where it has fewer, reading it raises ValueError."""

    def read() -> Frames:
        frames = clip.read().frames
        if len(frames) < FRAMES:
            raise ValueError(f"{len(frames)} frames, where {FRAMES} are needed")
        return frames[:FRAMES]

    return Excerpt(clip.name, lambda: clip.sha256, read)


def spread(
    measure: Measure,
    clips: Sequence[Excerpt],
    real: Sequence[Excerpt],
    networks: Networks,
    on_clip: Callable[[], None] = lambda: None,
) -> Spread:
    """FVD, FID or IS of clips; what cannot be measured has a reason instead.

    Args:
        real: clips that FVD and FID are held against.
        on_clip: called after each clip, ours or real.
    """
    wanted = [clips] if measure is IS else [clips, real]
    if few := [len(some) for some in wanted if len(some) < FEWEST]:
        return Spread(None, len(clips), f"clips: {few[0]}, where at least {FEWEST} are needed")
    left_out: list[str] = []
    try:
        with networks:
            network, identity = networks(NETWORKS[measure.key]), networks.identity(NETWORKS[measure.key])
            known = [VERSION, measure.key, identity, networks.device]
            look = partial(_features, network=network, known=known, left_out=left_out, on_clip=on_clip)
            value, deviation, *counts = _FUNCTIONS[measure.key](*map(look, wanted))
    except (ConsistI2VError, BrokenNetworkError, ValueError, np.linalg.LinAlgError) as error:
        return Spread(None, len(clips), str(error), left_out=left_out)
    finally:
        prune(_folder(), REMEMBERED)
    if min(counts) < FEWEST:
        reason = f"{min(counts)} clips that can be used, where {FEWEST} are needed"
        return Spread(None, counts[0], reason, left_out=left_out)
    advice = f"of {' and '.join(map(str, counts))} clips: with fewer than {ADVISED} not to be compared with the paper's"
    notes = [advice] if min(counts) < ADVISED else []
    return Spread(value, counts[0], deviation=deviation, notes=notes, left_out=left_out)


class BrokenNetworkError(Exception):
    """A network gives what no network in order does."""


def _fvd(*features: Iterator[Features]) -> tuple[float | None, None, int, int]:
    ours, real = map(_stacked, features)
    counts = len(ours), len(real)
    return (_distance(frechet_distance(ours, real)) if min(counts) > 1 else None), None, *counts


def _fid(*features: Iterator[Features]) -> tuple[float | None, None, int, int]:
    ours, real = map(Moments.of, features)
    counts = ours.clips, real.clips
    return (_distance(ours.distance(real)) if min(counts) > 1 else None), None, *counts


def _distance(value: float) -> float:
    """Not below 0, where rounding brings that of equals. ValueError: it is no number."""
    if not np.isfinite(value):
        raise ValueError("not finite")
    return max(0.0, value)


def _is(features: Iterator[Features]) -> tuple[float | None, float | None, int]:
    rows = _stacked(features)
    value, deviation = inception_score(rows, splits=SPLITS) if len(rows) >= SPLITS else (None, None)
    return value, deviation, len(rows)


_FUNCTIONS: dict[str, Callable[..., tuple[Any, ...]]] = {FVD.key: _fvd, FID.key: _fid, IS.key: _is}


def _stacked(parts: Iterator[Features]) -> Features:
    rows = list(parts)
    return np.concatenate(rows) if rows else np.empty((0, 0), np.float32)


@dataclass
class Moments:
    """Mean and covariance of features `n c`, from sums."""

    total: NDArray[np.float64]
    products: NDArray[np.float64]
    count: int = 0
    clips: int = 0

    @classmethod
    def of(cls, parts: Iterator[Features]) -> Moments:
        """Of features `f c`, clip by clip."""
        found = cls(np.zeros(0), np.zeros((0, 0)))
        for part in parts:
            rows = part.astype(np.float64)
            if not found.count:
                found.total, found.products = np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
            found.total += rows.sum(axis=0)
            found.products += rows.T @ rows
            found.count, found.clips = found.count + len(rows), found.clips + 1
        return found

    @property
    def mean(self) -> NDArray[np.float64]:
        """`c`."""
        return self.total / self.count

    @property
    def covariance(self) -> NDArray[np.float64]:
        """`c c`, over n, as FID has it."""
        return self.products / self.count - np.outer(self.mean, self.mean)

    def distance(self, other: Moments) -> float:
        """The Frechet distance to another; as `metrics.frechet_distance`, of sums, by eigenvalues."""
        root = _root(self.covariance)
        eigenvalues = np.linalg.eigvalsh(root @ other.covariance @ root).clip(0)
        traces = np.trace(self.covariance) + np.trace(other.covariance)
        return float(np.square(self.mean - other.mean).sum() + traces - 2 * np.sqrt(eigenvalues).sum())


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T)


def _features(
    excerpts: Sequence[Excerpt],
    *,
    network: Callable[[Frames], Features],
    known: list[Any],
    left_out: list[str],
    on_clip: Callable[[], None],
) -> Iterator[Features]:
    """Of each clip `rows c`; what cannot be used is left out, and said. BrokenNetworkError: no clip's fault."""
    every = side_by_side(partial(_one, network=network, known=known), excerpts)
    for excerpt, found in zip(excerpts, every, strict=True):
        on_clip()
        if isinstance(found, str):
            left_out.append(f"{excerpt.name}: {found}")
        else:
            yield found


def _one(excerpt: Excerpt, *, network: Callable[[Frames], Features], known: list[Any]) -> Features | str:
    try:
        told = json.dumps([*known, excerpt.sha256(), excerpt.start])
        place = _folder() / f"{hashlib.sha256(told.encode()).hexdigest()}.npy"
        with suppress(Exception):  # whatever a damaged file makes of it
            kept = np.load(place, allow_pickle=False)
            if kept.ndim == 2 and not _fault(kept):
                os.utime(place)  # what is used stays longest
                return np.asarray(kept, np.float32)
        found = network(excerpt.read())
    except Exception as error:  # whatever it is, the other clips do not suffer from it
        return said(error)
    if fault := _fault(found):
        raise BrokenNetworkError(f"of {excerpt.name} {fault}")
    store(place, lambda file: np.save(file, found))
    return found


def _fault(features: Features) -> str:
    """What is wrong with features that no network in order gives; nothing where they are right."""
    if not np.isfinite(features).all():
        return "features are not finite"
    return "" if features.any(axis=-1).all() else "a feature is zero"


def _folder() -> Path:
    return scores_folder() / "features"
