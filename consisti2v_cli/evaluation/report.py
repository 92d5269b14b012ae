"""What was measured, put together: means and intervals, two folders compared, and all of it as JSON."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from consisti2v_cli.version import __version__

from .measures import Measure
from .metrics import bootstrap_interval
from .paper import BACKGROUND, DYNAMIC_RAFT, SUBJECT
from .quick import CONSISTENCY, DYNAMIC
from .run import VERSION, Judged

SCHEMA = 2  # of the JSON
FEW = 5  # pairs, below which an interval says nothing, and is not shown
FRAME_WEIGHTED = {  # the series whose mean over all frames VBench's totals are
    CONSISTENCY.key: "consistency",
    SUBJECT.key: "subject",
    BACKGROUND.key: "background",
}


@dataclass(frozen=True)
class Mean:
    """A measure over all clips that have it."""

    mean: float
    low: float  # of the middle 95 % of means of samples drawn with replacement
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A measure over the pairs of clips of two folders: the second's less the first's."""

    first: float
    second: float
    mean: float
    low: float
    high: float
    wins: int  # of the second folder; where neither is better: how often it has more
    ties: int
    losses: int

    @property
    def is_sure(self) -> bool:
        """Whether there are enough pairs for an interval."""
        return self.wins + self.ties + self.losses >= FEW


def summary(judged: Sequence[Judged], measure: Measure) -> Mean | None:
    """The mean over the clips, None where no clip has the measure."""
    values = [float(clip.scores.values[measure.key]) for clip in judged if measure.key in clip.scores.values]
    if not values:
        return None
    return Mean(float(np.mean(values)), *bootstrap_interval(values), len(values))


def frame_weighted(judged: Sequence[Judged], measure: Measure) -> float | None:
    """The mean over all frames of all clips, for measures of which VBench takes that."""
    name = FRAME_WEIGHTED.get(measure.key)
    values = [value for clip in judged for value in clip.scores.series.get(name or "", ())]
    return float(np.mean(values)) if name and values else None


def pairs_of(
    first: Sequence[Judged], second: Sequence[Judged]
) -> tuple[list[tuple[Judged, Judged]], tuple[list[str], list[str]]]:
    """Clips of two folders that show the same, as `sets_of` has it.

    Returns:
        The pairs, and of each folder the names of clips that have no partner.
    """
    sets, (ones, others) = sets_of((first, second))
    return [(one, other) for one, other in sets], ([clip.name for clip in ones], [clip.name for clip in others])


def sets_of(folders: Sequence[Sequence[Judged]]) -> tuple[list[tuple[Judged, ...]], list[list[Judged]]]:
    """Clips, one of each folder, that show the same: of one picture, prompt and seed; else of one name.

    Returns:
        The sets, each in the order of the folders; and of each folder the clips that are in none.
    """
    readable = [[clip for clip in clips if not clip.problem] for clips in folders]
    if all(len(clips) == 1 for clips in readable):  # whatever they are called
        return [tuple(clip for clips in readable for clip in clips)], [[] for _ in readable]
    sets: list[tuple[Judged, ...]] = []
    for key in (_origin, _stem):
        taken = {id(clip) for found in sets for clip in found}
        named = [_by_key([clip for clip in clips if id(clip) not in taken], key) for clips in readable]
        shared = [name for name in named[0] if all(name in clips for clips in named[1:])]
        sets += [tuple(clips[name] for clips in named) for name in shared]
    taken = {id(clip) for found in sets for clip in found}
    return sets, [[clip for clip in clips if id(clip) not in taken] for clips in readable]


def _origin(clip: Judged) -> Hashable:
    recipe = clip.recipe
    if not recipe or not recipe.get("input_sha256"):
        return None
    return recipe["input_sha256"], recipe["prompt"], recipe["seed"]


def _stem(clip: Judged) -> Hashable:
    return clip.name.rpartition(".")[0] or clip.name


def _by_key(clips: Sequence[Judged], key: Any) -> dict[Hashable, Judged]:
    """Clips by what they are called; what two of them share names none."""
    found: dict[Hashable, Judged] = {}
    shared = set()
    for clip in clips:
        name = key(clip)
        if name in found:
            shared.add(name)
        if name is not None:
            found[name] = clip
    return {name: clip for name, clip in found.items() if name not in shared}


def difference(pairs: Sequence[tuple[Judged, Judged]], measure: Measure) -> Difference | None:
    """How two folders differ in a measure, over the pairs of which both have it; None where none has."""
    known = [
        (float(one.scores.values[measure.key]), float(other.scores.values[measure.key]))
        for one, other in pairs
        if measure.key in one.scores.values and measure.key in other.scores.values
    ]
    if not known:
        return None
    table = np.array(known)
    change = table[:, 1] - table[:, 0]
    better = -change if measure.better == "lower" else change
    counts = (int((better > 0).sum()), int((better == 0).sum()), int((better < 0).sum()))
    first, second = table.mean(axis=0).tolist()
    return Difference(first, second, float(change.mean()), *bootstrap_interval(change.tolist()), *counts)


def more_static(differences: Mapping[str, Difference | None]) -> bool:
    """Whether the second folder is the more consistent one while less happens in it: that is no gain."""
    moves = [found for key in (DYNAMIC.key, DYNAMIC_RAFT.key) if (found := differences.get(key))]
    stays = [found for key in FRAME_WEIGHTED if (found := differences.get(key))]
    return any(found.mean < 0 for found in moves) and any(found.mean > 0 for found in stays)


def falls_short(value: float | None, measure: Measure, bound: float) -> bool:
    """Whether a measure is worse than a bound in the units of tables, or was not measured at all."""
    if value is None:
        return True
    shown = value * measure.scale
    return shown > bound if measure.better == "lower" else shown < bound


def as_json(
    folders: Mapping[str, Sequence[Judged]],
    measures: Sequence[Measure],
    settings: dict[str, Any],
    spreads: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Everything, in a form that holds no NaN: what has no value is null, and has a reason.

    Args:
        spreads: of each folder the `sets.Spread` of its clips, by measure.
    """
    return {
        "schema": SCHEMA,
        "consisti2v": __version__,
        "measures_version": VERSION,
        "settings": settings,
        "measures": [asdict(measure) for measure in measures],
        "folders": {
            name: _folder(judged, measures) | {"spreads": _spreads((spreads or {}).get(name, {}))}
            for name, judged in folders.items()
        },
        "comparison": _comparison(folders, measures) if len(folders) == 2 else None,
    }


def _comparison(folders: Mapping[str, Sequence[Judged]], measures: Sequence[Measure]) -> dict[str, Any]:
    pairs, alone = pairs_of(*folders.values())
    found = {measure.key: difference(pairs, measure) for measure in measures}
    return {
        "pairs": [[one.name, other.name] for one, other in pairs],
        "alone": dict(zip(folders, alone, strict=True)),
        "differences": {key: one and asdict(one) for key, one in found.items()},
        "more_static": more_static(found),
    }


def _folder(judged: Sequence[Judged], measures: Sequence[Measure]) -> dict[str, Any]:
    totals = {}
    for measure in measures:
        mean = summary(judged, measure)
        totals[measure.key] = mean and {**asdict(mean), "frame_weighted": frame_weighted(judged, measure)}
    return {"clips": [_clip(clip, measures) for clip in judged], "summary": totals}


def _spreads(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: asdict(spread) | {"value": _finite(spread.value)} for key, spread in found.items()}


def _clip(clip: Judged, measures: Sequence[Measure]) -> dict[str, Any]:
    if clip.problem:
        return {"file": clip.name, "problem": clip.problem}
    values = {measure.key: _finite(clip.scores.values.get(measure.key)) for measure in measures}
    return {
        "file": clip.name,
        "sha256": clip.sha256,
        "recipe": clip.recipe,
        "frames": clip.frames,
        "fps": clip.fps,
        "size": [clip.width, clip.height],
        "values": values,
        "reasons": {key: clip.scores.reasons.get(key, "not finite") for key, value in values.items() if value is None},
        "series": clip.scores.series,
    }


def _finite(value: float | bool | None) -> float | bool | None:
    return value if value is None or math.isfinite(value) else None
