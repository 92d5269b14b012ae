"""What a measure is, and how those of a clip are found: each has a name that tells its variant."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from consisti2v_cli.errors import ConsistI2VError

from .clips import Clip, Footage

Value = float | bool


@dataclass(frozen=True)
class Measure:
    """What is measured, under a name that tells its variant: what has another name is never compared with it."""

    key: str  # in JSON
    label: str  # in tables
    better: Literal["higher", "lower", ""]  # "" where neither is
    about: str  # for people: what it says, its range
    scale: float = 100.0  # what tables multiply it by
    digits: int = 2
    beside: tuple[str, ...] = ()  # keys of measures, without one of which it is never shown
    stands_in: bool = False  # for a measure of the paper, by other means


@dataclass
class Scores:
    """What was found of one clip."""

    values: dict[str, Value] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)  # why a measure has no value
    series: dict[str, list[float]] = field(default_factory=dict)  # frame by frame
    lasting: dict[str, str] = field(default_factory=dict)  # those reasons that will hold whenever it is measured again


@dataclass(frozen=True)
class Subject:
    """A clip that is being measured, with what measuring needs."""

    clip: Clip
    network: Callable[[str], Any]  # by its key; raises WeightsError where its weights are not here
    words: dict[str, str] = field(default_factory=dict)  # "object" and "scene": what should be seen

    @cached_property
    def footage(self) -> Footage:
        """Its frames, read once. RequestError: it cannot be read."""
        return self.clip.read()

    @property
    def prompt(self) -> str:
        """What it was made with. LastingError: nothing, or it is not known."""
        if not self.clip.recipe or not self.clip.recipe.prompt.strip():
            raise LastingError("no prompt")
        return self.clip.recipe.prompt


class LastingError(ValueError):
    """What will not become otherwise, however often a clip is measured."""


@dataclass(frozen=True)
class Way:
    """How measures are found: all those that come of the same work."""

    find: Callable[[Subject, Scores], None]
    measures: tuple[Measure, ...]
    network: str = ""  # that the work needs, by its key
    series: tuple[str, ...] = ()  # what it leaves in `Scores.series`
    word: str = ""  # which of `Subject.words` it looks for

    @property
    def keys(self) -> set[str]:
        """Of its measures."""
        return {measure.key for measure in self.measures}


def measure(subject: Subject, ways: Sequence[Way], wanted: Set[str]) -> Scores:
    """What is wanted of a clip, by key, and what comes with it. What cannot be measured has a reason instead."""
    scores = Scores()
    for way in ways:
        if not way.keys & wanted:
            continue
        try:
            way.find(subject, scores)
        except Exception as error:  # whatever a library raises: the other measures do not suffer from it
            known = isinstance(error, (ConsistI2VError, ValueError))
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            reasons = dict.fromkeys(way.keys - scores.values.keys(), reason)
            scores.reasons.update(reasons)
            if isinstance(error, LastingError):
                scores.lasting.update(reasons)
    for key in [key for key, value in scores.values.items() if not math.isfinite(value)]:
        del scores.values[key]
        scores.reasons[key] = "not finite"
    return scores
