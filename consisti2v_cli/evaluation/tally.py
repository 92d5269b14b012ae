"""What raters said of clips, counted: how often each method was ticked, and how far raters agree."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from consisti2v_cli.errors import RequestError
from consisti2v_cli.text import read_text_file

from .rating import KEY, QUESTIONS, RATINGS, SCHEMA

NONE = "none"  # the answer that no video is, as the page saves it
CODE = re.compile(r"[A-Za-z0-9_-]{1,32}")  # of a rater, as the page asks for it
_DRAWS, _SEED = 2000, 0  # as in `metrics.bootstrap_interval`


@dataclass(frozen=True)
class Share:
    """How often something was ticked where it was shown and the question answered."""

    ticks: int
    shown: int
    share: float  # 0 to 1; of all methods more than 1 where raters tick several (as in the paper's Table 1)
    low: float  # of the middle 95 % of shares over samples drawn with replacement
    high: float


@dataclass(frozen=True)
class Agreement:
    """How far raters agree on what is ticked, over all that two or more of them saw."""

    observed: float  # of pairs of raters, on one clip: how many ticked alike, 0 to 1
    alpha: float | None  # Krippendorff's: 1 agreement, 0 chance; None where all ticks are the same, which tells nothing


@dataclass(frozen=True)
class Verdict:
    """The answers to a question."""

    methods: dict[str, Share]  # by folder, in the order of the key
    none: Share
    agreement: Agreement | None  # None where no two raters answered for one sample


@dataclass(frozen=True)
class Tally:
    """What came of a rating."""

    raters: int  # who answered anything
    samples: int  # that anyone answered for
    questions: dict[str, Verdict]  # those that anyone answered


def read_tally(ratings: Sequence[Path], key: Path) -> Tally:
    """`tally` of files. RequestError: one cannot be read, is no JSON, or as in `tally`."""
    found = [_read(path) for path in ratings]
    told = _read(key)
    _check_key(told, str(key))
    for path, one in zip(ratings, found, strict=True):
        _check_ratings(one, told, str(path))
    return tally(found, told)


def tally(ratings: Sequence[Mapping[str, Any]], key: Mapping[str, Any]) -> Tally:
    """Count what raters ticked.

    Args:
        ratings: what the page's Save button makes, one for each rater.
        key: what `rating.write_rating` puts into its key file.

    Raises:
        RequestError: what is no key or no ratings, ratings of another page, two of one rater, or not one answer.
    """
    _check_key(key, "The key")
    for number, one in enumerate(ratings, start=1):
        _check_ratings(one, key, f"Ratings {number}")
    raters = [one["rater"] for one in ratings]
    if twice := [code for code in raters if raters.count(code) > 1]:
        raise RequestError(f"Two files are of rater {twice[0]}; name the later one alone.")
    answered = [given for one in ratings if (given := _given(one["answers"]))]
    if not answered:
        raise RequestError("The ratings hold no answer.")
    samples = set().union(*answered)
    questions = {question: _verdict(question, answered, key) for question in QUESTIONS}
    return Tally(len(answered), len(samples), {name: found for name, found in questions.items() if found})


def tally_lines(found: Tally) -> list[str]:
    """A table for the terminal, in per cent; a method's line for each folder."""
    rows: list[list[str]] = []
    for question, verdict in found.questions.items():
        rows.append([question, "ticked", "shown", "%", "95 % interval"])
        rows += [_line(name, share) for name, share in verdict.methods.items()]
        rows.append(_line("none of them" if len(verdict.methods) > 1 else "no", verdict.none))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = iter(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )
    told = [f"{_count(found.raters, 'rater')}, {_count(found.samples, 'sample')}"]
    for verdict in found.questions.values():
        told += [next(lines) for _ in range(len(verdict.methods) + 2)]
        told.append(_agreed(verdict.agreement))
    return told


def krippendorff_alpha(units: Sequence[Sequence[int]]) -> Agreement | None:
    """Agreement of raters on yes or no (Krippendorff 2011, nominal data, values may be missing).

    Args:
        units: for each thing that is judged the values, 0 or 1, that raters gave it; with fewer than two it counts not.

    Returns:
        None where no unit has two values.
    """
    paired = [unit for unit in units if len(unit) > 1]
    if not paired:
        return None
    total = sum(map(len, paired))
    ones = sum(map(sum, paired))
    apart = sum(2 * sum(unit) * (len(unit) - sum(unit)) / (len(unit) - 1) for unit in paired) / total
    by_chance = 2 * ones * (total - ones) / (total * (total - 1))
    return Agreement(1 - apart, 1 - apart / by_chance if by_chance else None)


Answers = Mapping[str, Mapping[str, Sequence[str]]]  # of a rater: by sample and question, what is ticked


def _verdict(question: str, raters: Sequence[Answers], key: Mapping[str, Any]) -> Verdict | None:
    given = {
        name: ticked
        for name in key["samples"]
        if (ticked := [one[name][question] for one in raters if question in one.get(name, {})])
    }
    if not given:
        return None
    methods = {folder: _share(given, _clip_of(folder, key)) for folder in key["folders"]}
    units = [
        [int(clip in ticked) for ticked in ticks]
        for name, ticks in given.items()
        for clip in key["samples"][name]["clips"]
    ]
    return Verdict(methods, _share(given, dict.fromkeys(given, NONE)), krippendorff_alpha(units))


def _given(answers: Answers) -> dict[str, dict[str, Sequence[str]]]:
    """The answers without those where nothing is ticked, not even that none is."""
    told = {name: {question: ticked for question, ticked in one.items() if ticked} for name, one in answers.items()}
    return {name: one for name, one in told.items() if one}


def _clip_of(folder: str, key: Mapping[str, Any]) -> dict[str, str]:
    """A folder's clip of each sample."""
    return {
        name: clip
        for name, sample in key["samples"].items()
        for clip, whose in sample["clips"].items()
        if whose["folder"] == folder
    }


def _share(given: Mapping[str, Sequence[Sequence[str]]], wanted: Mapping[str, str]) -> Share:
    """Of what is wanted of each sample, over all raters; the interval is over samples, which keep their raters."""
    ticks = np.array([sum(wanted[name] in ticked for ticked in ticks) for name, ticks in given.items()])
    shown = np.array([len(ticks) for ticks in given.values()])
    drawn = np.random.default_rng(_SEED).integers(len(shown), size=(_DRAWS, len(shown)))
    low, high = np.percentile(ticks[drawn].sum(axis=1) / shown[drawn].sum(axis=1), [2.5, 97.5])
    return Share(int(ticks.sum()), int(shown.sum()), float(ticks.sum() / shown.sum()), float(low), float(high))


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(read_text_file(path))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise RequestError(f"{path} is no JSON.") from error
    if not isinstance(told, dict):
        raise RequestError(f"{path} is neither a rating nor its key.")
    return told


def _check_key(key: Mapping[str, Any], name: str) -> None:
    if key.get("kind") != KEY or key.get("schema") != SCHEMA:
        raise RequestError(f"{name} is no key of a rating; it was written beside the page, such as key.json.")
    try:
        folders = sorted(key["folders"])
        whose = [sorted(clip["folder"] for clip in one["clips"].values()) for one in key["samples"].values()]
        whole = bool(key["study"]) and all(found == folders for found in whose)
    except (AttributeError, KeyError, TypeError):
        whole = False
    if not whole:
        raise RequestError(f"{name} is damaged: it does not say whose each clip is.")


def _check_ratings(ratings: Mapping[str, Any], key: Mapping[str, Any], name: str) -> None:
    if ratings.get("kind") != RATINGS or ratings.get("schema") != SCHEMA:
        raise RequestError(f"{name} holds no ratings; the page's Save button makes such files, ratings-CODE.json.")
    if ratings.get("study") != key["study"]:
        raise RequestError(f"{name} is of another page than the key; each page has a key of its own.")
    if not isinstance(ratings.get("rater"), str) or not CODE.fullmatch(ratings["rater"]):
        raise RequestError(f"{name} does not say whose it is.")
    if not isinstance(ratings.get("answers"), dict):
        raise RequestError(f"{name} is damaged: it has no answers.")
    problems = (_problems(sample, given, key) for sample, given in ratings["answers"].items())
    if problem := next(chain.from_iterable(problems), ""):
        raise RequestError(f"{name} is damaged: {problem}.")


def _problems(sample: str, given: Any, key: Mapping[str, Any]) -> Iterator[str]:
    if sample not in key["samples"]:
        yield f"there is no sample {sample!r}"
        return
    known = {*key["samples"][sample]["clips"], NONE}
    if not isinstance(given, dict):
        yield f"sample {sample!r} has no answers"
        return
    for question, ticked in given.items():
        if question not in QUESTIONS:
            yield f"there is no question {question!r}"
        elif not isinstance(ticked, list) or not all(isinstance(entry, str) for entry in ticked):
            yield f"the {question} of sample {sample!r} is no list"
        elif unknown := sorted(set(ticked) - known):
            yield f"sample {sample!r} has no video {unknown[0]!r}"
        elif len(set(ticked)) < len(ticked) or (NONE in ticked and len(ticked) > 1):
            yield f"the {question} of sample {sample!r} contradicts itself"


def _line(name: str, share: Share) -> list[str]:
    low, high = (f"{100 * value:.2f}" for value in (share.low, share.high))
    return [name, str(share.ticks), str(share.shown), f"{100 * share.share:.2f}", f"{low} to {high}"]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _agreed(agreement: Agreement | None) -> str:
    if agreement is None:
        return "no two raters saw one sample"
    alpha = "-" if agreement.alpha is None else f"{agreement.alpha:.2f}"
    return f"raters tick alike in {100 * agreement.observed:.2f} %; Krippendorff's alpha {alpha}"
