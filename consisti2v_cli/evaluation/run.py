"""All clips of a folder, measured side by side; what was measured once is remembered."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import IO, Any, TypeVar

from consisti2v_cli.errors import ConsistI2VError, RequestError
from consisti2v_cli.recipe import to_dict
from consisti2v_cli.state import cache_folder, prune
from consisti2v_cli.weights.devices import usable_cores

from .clips import Clip, Footage
from .extractors import Networks
from .measures import Measure, Scores, Subject, Way, measure
from .paper import PAPER, PAPER_WAYS
from .quick import QUICK, QUICK_WAYS

VERSION = 3  # of what measures mean: scores of another version are not taken over
REMEMBERED = 50_000  # files: one a clip and network
WAYS = (*QUICK_WAYS, *PAPER_WAYS)
MEASURES = {entry.key: entry for way in WAYS for entry in way.measures}
SETS = {"quick": QUICK, "paper": PAPER}

One = TypeVar("One")
Result = TypeVar("Result")
Words = Mapping[str, Mapping[str, str]]  # by the clip's name: "object" and "scene"


@dataclass(frozen=True)
class Judged:
    """A clip, and what was found of it."""

    name: str
    sha256: str = ""
    recipe: dict[str, Any] | None = None
    frames: int = 0
    fps: float = 0.0
    height: int = 0  # pixels
    width: int = 0
    scores: Scores = field(default_factory=Scores)
    problem: str = ""  # why nothing was measured


def judge(
    clips: Sequence[Clip],
    wanted: Sequence[Measure],
    *,
    networks: Networks | None = None,
    words: Words | None = None,
    on_clip: Callable[[Judged], None] = lambda _: None,
) -> list[Judged]:
    """Measure clips, as many at a time as there are cores; a clip that cannot be read is reported, not raised.

    Args:
        wanted: what is measured.
        networks: that measure; by default on the CPU, with weights from the cache.
        words: what should be seen in clips, for the measures that look for it.
        on_clip: hears of each clip in the order of `clips`, as soon as it and those before it are done.
    """
    judged = []
    with networks or Networks() as tools:
        for found in side_by_side(partial(_judge, wanted=wanted, networks=tools, words=words or {}), clips):
            judged.append(found)
            on_clip(found)
    prune(scores_folder(), REMEMBERED)
    return judged


def side_by_side(function: Callable[[One], Result], many: Iterable[One]) -> Iterator[Result]:
    """What a function makes of each, in their order; as many at a time as there are cores, and never far ahead."""
    workers = usable_cores()
    with ThreadPoolExecutor(workers) as pool:
        begun: deque[Future[Result]] = deque()
        try:
            for one in many:
                begun.append(pool.submit(function, one))
                if len(begun) > 2 * workers:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _judge(clip: Clip, wanted: Sequence[Measure], networks: Networks, words: Words) -> Judged:
    keys = {entry.key for entry in wanted}
    scores = Scores()
    facts: dict[str, Any] = {}
    try:
        subject = Subject(clip, networks, dict(words.get(clip.name, {})))
        recipe = to_dict(clip.recipe) if clip.recipe else None
        for network, ways in _by_network(keys):
            facts |= _find(subject, recipe, networks, network, ways, keys, scores)
        sha256, facts = clip.sha256, facts or _facts(subject.footage)
    except Exception as error:  # whatever it is, the other clips do not suffer from it
        return Judged(clip.name, problem=said(error))
    _withhold(wanted, scores)
    return Judged(clip.name, sha256, recipe, **facts, scores=scores)


def _withhold(wanted: Sequence[Measure], scores: Scores) -> None:
    """Take back what is never shown alone where nothing stands beside it."""
    for entry in wanted:
        if entry.beside and entry.key in scores.values and not scores.values.keys() & set(entry.beside):
            del scores.values[entry.key]
            scores.reasons[entry.key] = f"not shown without {' or '.join(MEASURES[key].label for key in entry.beside)}"


def _by_network(keys: set[str]) -> Iterator[tuple[str, list[Way]]]:
    ways = sorted((way for way in WAYS if way.keys & keys), key=lambda way: way.network)
    for network, group in groupby(ways, key=lambda way: way.network):
        yield network, list(group)


def _find(
    subject: Subject,
    recipe: dict[str, Any] | None,
    networks: Networks,
    network: str,
    ways: list[Way],
    keys: set[str],
    scores: Scores,
) -> dict[str, Any]:
    """Add to the scores what ways find that need one network, or found before; returns the clip's facts."""
    here = set().union(*(way.keys for way in ways)) & keys
    try:
        identity = networks.identity(network)
    except ConsistI2VError as error:
        scores.reasons.update(dict.fromkeys(here, str(error)))
        return {}
    seen = {way.word: subject.words.get(way.word) for way in ways if way.word}
    told = [VERSION, subject.clip.sha256, recipe, networks.device, network, identity, seen]
    place = scores_folder() / f"{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()}.json"
    known = _remembered(place)
    before = known.get("scores", {"values": {}, "lasting": {}})
    if lacking := here - before["values"].keys() - before["lasting"].keys():
        found = measure(subject, ways, lacking)
        scores.reasons.update(found.reasons)
        known = _joined(known or {"facts": _facts(subject.footage)}, found)
        _remember(place, known)
    stored = known["scores"]
    scores.values.update({key: value for key, value in stored["values"].items() if key in here})
    scores.reasons.update({key: reason for key, reason in stored["lasting"].items() if key in here})
    for name in [name for way in ways if way.keys & here for name in way.series]:
        scores.series.update({name: stored["series"][name]} if name in stored["series"] else {})
    return dict(known["facts"])


def said(error: Exception) -> str:
    """What happened to one clip, in words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if isinstance(error, (ConsistI2VError, ValueError)) else f"{type(error).__name__}: {error}"


def _facts(footage: Footage) -> dict[str, Any]:
    height, width = footage.size
    return {"frames": len(footage.frames), "fps": footage.fps, "height": height, "width": width}


def _joined(known: dict[str, Any], found: Scores) -> dict[str, Any]:
    kinds = ("values", "series", "lasting")
    before, now = known.get("scores", {kind: {} for kind in kinds}), asdict(found)
    return {"facts": known["facts"], "scores": {kind: before[kind] | now[kind] for kind in kinds}}


def scores_folder() -> Path:
    """Where what was measured is remembered."""
    return cache_folder() / "scores"


def _remembered(place: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        known = json.loads(place.read_text(encoding="utf-8"))
        if isinstance(known, dict) and known.keys() == {"facts", "scores"}:
            return known
    return {}


def _remember(place: Path, known: dict[str, Any]) -> None:
    store(place, lambda file: file.write(json.dumps(known).encode()))


def store(place: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Remember something under a name of its own. A disk that is full, or may not be written to, only costs time."""
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(f".{place.name}-{os.getpid()}-{secrets.token_hex(4)}")
        with fresh.open("wb") as file:
            write(file)
        fresh.replace(place)


def choose_measures(text: str) -> list[Measure]:
    """`quick`, `paper`, or keys, joined by commas; and what is never left out beside one of them.

    Raises:
        RequestError: a key that there is not, or none.
    """
    parts = [part.strip().lower() for part in text.split(",") if part.strip()]
    if unknown := [part for part in parts if part not in MEASURES and part not in SETS]:
        near = get_close_matches(unknown[0], [*SETS, *MEASURES], n=3, cutoff=0.4)
        perhaps = f"; perhaps {' or '.join(near)}" if near else ""
        raise RequestError(f"There is no measure {unknown[0]!r}{perhaps}; there are: {', '.join([*SETS, *MEASURES])}.")
    if not parts:
        raise RequestError(f"No measure is named; there are: {', '.join([*SETS, *MEASURES])}.")
    named = [entry for part in parts for entry in SETS.get(part) or (MEASURES[part],)]
    beside = [MEASURES[key] for entry in named for key in entry.beside]
    return list(dict.fromkeys([*named, *beside]))
