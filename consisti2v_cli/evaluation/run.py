"""All clips of a folder, measured side by side; what was measured once is remembered."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import Any

from consisti2v_cli.errors import ConsistI2VError, RequestError
from consisti2v_cli.recipe import to_dict
from consisti2v_cli.state import cache_folder, prune
from consisti2v_cli.weights.devices import usable_cores

from .clips import Clip, Footage
from .extractors import EfficientNetFeatures
from .quick import SERIES, Extractor, Measure, Scores, Subject, measure

VERSION = 1  # of what measures mean: scores of another version are not taken over
REMEMBERED = 20_000  # clips


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
    device: str = "cpu",
    on_clip: Callable[[Judged], None] = lambda _: None,
) -> list[Judged]:
    """Measure clips, as many at a time as there are cores; a clip that cannot be read is reported, not raised.

    Args:
        wanted: what is measured.
        device: of the networks.
        on_clip: hears of each clip in the order of `clips`, as soon as it and those before it are done.
    """
    tools = _Tools(device)
    judged = []
    pool = ThreadPoolExecutor(usable_cores())
    try:
        for found in pool.map(lambda clip: _judge(clip, wanted, tools), clips):
            judged.append(found)
            on_clip(found)
    finally:
        pool.shutdown(cancel_futures=True)
    prune(_folder(), REMEMBERED)
    return judged


class _Tools:
    """Networks, loaded by the first clip that needs them."""

    def __init__(self, device: str) -> None:
        self.device, self.lock = device, Lock()
        self.found: Extractor | None = None

    def extractor(self) -> Extractor:
        with self.lock:
            if self.found is None:
                self.found = EfficientNetFeatures(self.device)
            return self.found


def _judge(clip: Clip, wanted: Sequence[Measure], tools: _Tools) -> Judged:
    try:
        sha256 = clip.sha256
        recipe = to_dict(clip.recipe) if clip.recipe else None
        place = _folder() / f"{_key(sha256, recipe, tools.device)}.json"
        known = _remembered(place)
        lacking = {measure.key for measure in wanted} - known.get("scores", {}).get("values", {}).keys()
        if lacking:
            footage = clip.read()
            found = measure(Subject(clip, footage, tools.extractor), lacking)
            known = _joined(known, footage, found)
            _remember(place, known)
            reasons = found.reasons
        else:
            reasons = {}
    except Exception as error:  # whatever it is, the other clips do not suffer from it
        return Judged(clip.name, problem=_said(error))
    keys = {measure.key for measure in wanted}
    values = {key: value for key, value in known["scores"]["values"].items() if key in keys}
    series = {name: found for name, found in known["scores"]["series"].items() if SERIES[name].key in keys}
    return Judged(clip.name, sha256, recipe, **known["facts"], scores=Scores(values, reasons, series))


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if isinstance(error, ConsistI2VError) else f"{type(error).__name__}: {error}"


def _joined(known: dict[str, Any], footage: Footage, found: Scores) -> dict[str, Any]:
    height, width = footage.size
    facts = {"frames": len(footage.frames), "fps": footage.fps, "height": height, "width": width}
    before = known.get("scores", {"values": {}, "series": {}})
    now = asdict(found)
    return {"facts": facts, "scores": {kind: before[kind] | now[kind] for kind in ("values", "series")}}


def _folder() -> Path:
    return cache_folder() / "scores"


def _key(sha256: str, recipe: dict[str, Any] | None, device: str) -> str:
    """The recipe counts, since it may lie beside the clip, and says which picture is the first; and what measures."""
    told = json.dumps([VERSION, sha256, recipe, device, _opencv_version()], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


@cache
def _opencv_version() -> str:
    with suppress(PackageNotFoundError):
        return version("opencv-python-headless")
    return ""


def _remembered(place: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        known = json.loads(place.read_text(encoding="utf-8"))
        if isinstance(known, dict) and known.keys() == {"facts", "scores"}:
            return known
    return {}


def _remember(place: Path, known: dict[str, Any]) -> None:
    """A disk that is full, or may not be written to, only costs the time to measure again."""
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(f".{place.name}-{os.getpid()}-{secrets.token_hex(4)}")
        fresh.write_text(json.dumps(known), encoding="utf-8")
        fresh.replace(place)


def choose_measures(text: str, known: Sequence[Measure]) -> list[Measure]:
    """`quick`, or keys joined by commas. RequestError: a key that there is not."""
    if text == "quick":
        return list(known)
    by_key = {entry.key: entry for entry in known}
    keys = [part.strip() for part in text.split(",") if part.strip()]
    if unknown := [key for key in keys if key not in by_key]:
        raise RequestError(f"There is no measure {unknown[0]!r}; there are: quick, {', '.join(by_key)}.")
    if not keys:
        raise RequestError(f"No measure is named; there are: quick, {', '.join(by_key)}.")
    return [by_key[key] for key in dict.fromkeys(keys)]
