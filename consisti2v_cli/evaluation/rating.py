"""A page on which people compare clips without knowing whose they are (paper, appendix D, Figure 8).

A folder that needs no server and no network: `index.html`, and clips of one size, length and frame rate under names
that a secret key has made. Which clip is whose stands in a file outside of it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consisti2v_cli.errors import ConsistI2VError, RequestError
from consisti2v_cli.media.image import fit_image
from consisti2v_cli.media.scratch import appearing, check_free
from consisti2v_cli.media.video import check_format, write_video
from consisti2v_cli.recipe import to_dict

from .clips import Clip, Footage, find_clips
from .report import sets_of
from .run import Judged
from .templates import filled, script_data

SCHEMA = 1  # of the key, and of what raters save
KIND = "video rating"  # which does not name us: a folder of our clips may be called as we are
KEY, RATINGS = f"{KIND}: key", f"{KIND}: answers"
APPEARANCE, MOTION = "appearance", "motion"
QUESTIONS = (APPEARANCE, MOTION)
QUALITY = 90  # of the clips and pictures
FEWEST = 2  # frames
SMALLEST = 16  # pixels: side of a clip
FASTEST = 60  # frames a second
_NAME = 16  # characters of a name
_WHEN = 946_684_800  # 2000-01-01, of all files: the order in which they were made would tell whose they are

OnSample = Callable[[int, int], None]


@dataclass(frozen=True)
class Shape:
    """What all clips of a page have in common, so that nothing but what they show tells them apart."""

    width: int
    height: int
    frames: int
    fps: float


@dataclass(frozen=True)
class Written:
    """What came of a page."""

    samples: int
    shape: Shape
    alone: tuple[str, ...] = ()  # clips that not all folders have, as FOLDER/NAME
    left_out: tuple[str, ...] = ()  # FOLDER/NAME: why; with them the others of their sample
    without_picture: tuple[str, ...] = ()  # samples, by the first folder's name of them, whose input is not known


@dataclass(frozen=True)
class _Facts:
    """What must be known of a clip before it is decided what they have in common."""

    clip: Clip
    told: str  # what messages call it
    frames: int
    fps: float
    height: int
    width: int

    def lasts(self, fps: float) -> int:
        """How many frames of another rate begin before it ends."""
        return math.ceil(self.frames * fps / self.fps - 1e-6)


_Sample = tuple[_Facts, ...]  # in the order of the folders


@dataclass(frozen=True)
class _Drawn:
    """A sample as it stands in the folder."""

    name: str
    prompt: str
    picture: str  # its file; none where it is not known
    clips: dict[str, dict[str, str]]  # by name: "folder" and "clip"


def write_rating(
    folders: Sequence[Path],
    place: Path,
    key_file: Path,
    *,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    fps: float | None = None,
    secret: str = "",
    on_sample: OnSample = lambda done, count: None,
) -> Written:
    """Write a page for rating, and its key. A sample is what all folders have, each its clip of it.

    Clips play as fast as they do, are cropped, as in the paper, never stretched, and cut off at the end.

    Args:
        folders: of clips, one for each method; of one alone each question is answered by yes or no.
        place: the folder of the page; it must not be there yet, nor lie in one of `folders`.
        key_file: what tells whose clips they are; it must not be there yet, nor lie in `place`.
        size: width and height; the smallest of the clips by default.
        frames: of each clip; as many as the shortest one has by default.
        fps: frames a second; the lowest of the clips by default.
        secret: what makes the names; a random one by default.
        on_sample: hears how many samples of how many are written.

    Raises:
        RequestError: no folder, one that is given twice or holds no clip; no clip in common; an impossible place,
            size, length or frame rate.
        TakenError: `place` or `key_file` is there already.
        ConsistI2VError: a file cannot be written.
    """
    _check(folders, place, key_file)
    shared, alone = _shared(folders)
    samples, left_out = _readable(shared)
    shape = _shape(samples, size, frames, fps)
    samples, short = _long_enough(samples, shape)
    if not samples:
        reasons = [*left_out, *short][:3] or ["the folders share no clip."]
        raise RequestError(f"There is no sample to rate: {' '.join(reasons)}")
    study = _Study([str(folder) for folder in folders], secret or token_hex(16), shape)
    with appearing(place, overwrite=False, folder=True) as made:
        made.mkdir()
        plan = []
        for number, sample in enumerate(samples, start=1):
            plan.append(_write_sample(study, sample, made))
            on_sample(number, len(samples))
        _write_index(study, plan, made)
        with appearing(key_file, overwrite=False, folder=False) as key_made:  # first: a page without it is for nothing
            key_made.write_text(json.dumps(study.key(plan), indent=1) + "\n", encoding="utf-8")
    lacking = [sample[0].told for sample, drawn in zip(samples, plan, strict=True) if not drawn.picture]
    return Written(len(samples), shape, alone, (*left_out, *short), tuple(lacking))


def _check(folders: Sequence[Path], place: Path, key_file: Path) -> None:
    if not folders:
        raise RequestError("A rating needs a folder of clips, or several.")
    real = [folder.resolve() for folder in folders]
    if twice := [folder for folder, path in zip(folders, real, strict=True) if real.count(path) > 1]:
        raise RequestError(f"{twice[0]} is given twice; clips are rated against those of other folders.")
    if _lies_in(key_file, place):
        raise RequestError(f"{key_file} would lie in {place}, where raters could read it; name another file.")
    if inside := [folder for folder in folders if _lies_in(place, folder)]:
        raise RequestError(f"{place} would lie in {inside[0]}, among its clips; name another folder.")
    check_free(place, overwrite=False, folder=True)
    check_free(key_file, overwrite=False, folder=False)


def _lies_in(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _shared(folders: Sequence[Path]) -> tuple[list[tuple[tuple[str, Clip], ...]], tuple[str, ...]]:
    """What all folders have, by picture, prompt and seed, else by name; and the clips without a counterpart."""
    told: dict[int, tuple[str, Clip]] = {}
    groups = []
    for folder in folders:
        group = []
        for clip in find_clips(folder):
            group.append(Judged(clip.name, recipe=to_dict(clip.recipe) if clip.recipe else None))
            told[id(group[-1])] = (f"{folder}/{clip.name}", clip)
        groups.append(group)
    if len(groups) == 1:
        return [(told[id(clip)],) for clip in groups[0]], ()
    sets, alone = sets_of(groups)
    return [tuple(told[id(clip)] for clip in found) for found in sets], tuple(
        told[id(clip)][0] for group in alone for clip in group
    )


def _readable(shared: Iterable[Sequence[tuple[str, Clip]]]) -> tuple[list[_Sample], list[str]]:
    """The samples of which every clip can be read, and why others cannot."""
    samples, problems = [], []
    for entries in shared:
        facts = []
        for told, clip in entries:
            try:
                footage = clip.read()
            except (ConsistI2VError, OSError, ValueError) as error:
                problems.append(f"{told}: {error}")
                continue
            facts.append(_Facts(clip, told, len(footage.frames), footage.fps, *footage.size))
        if len(facts) == len(entries):
            samples.append(tuple(facts))
    return samples, problems


def _shape(samples: Sequence[_Sample], size: tuple[int, int] | None, frames: int | None, fps: float | None) -> Shape:
    """What is wished, else what all have: the lowest rate, the shortest length, the smallest sides, even ones."""
    clips = [facts for sample in samples for facts in sample]
    if fps is not None and not 1 <= fps <= FASTEST:
        raise RequestError(f"A rating plays 1 to {FASTEST} frames a second, not {fps:g}.")
    if frames is not None and frames < FEWEST:
        raise RequestError(f"A clip to rate has {FEWEST} frames or more, not {frames}.")
    if size is not None and min(size) < SMALLEST:
        raise RequestError(f"A clip to rate is {SMALLEST}x{SMALLEST} or larger, not {size[0]}x{size[1]}.")
    moving = [facts for facts in clips if facts.frames >= FEWEST] or clips
    rate = fps or min((facts.fps for facts in moving), default=1)
    count = frames or max(FEWEST, min((facts.lasts(rate) for facts in moving), default=FEWEST))
    sides = [min((getattr(facts, side) // 2 * 2 for facts in clips), default=SMALLEST) for side in ("width", "height")]
    width, height = size or sides
    check_format("mp4", width, height, rate)
    return Shape(width, height, count, rate)


def _long_enough(samples: Iterable[_Sample], shape: Shape) -> tuple[list[_Sample], list[str]]:
    kept, problems = [], []
    for sample in samples:
        short = [facts for facts in sample if facts.lasts(shape.fps) < shape.frames]
        problems += [f"{facts.told}: shorter than {shape.frames} frames at {shape.fps:g} fps." for facts in short]
        if not short:
            kept.append(sample)
    return kept, problems


@dataclass(frozen=True)
class _Study:
    """How clips are named, and what is told to whom."""

    folders: list[str]
    secret: str
    shape: Shape

    @property
    def name(self) -> str:
        """By which ratings and key know each other."""
        return self.opaque("study")

    def opaque(self, *parts: str) -> str:
        """A name that only the secret can make: HMAC-SHA256, cut off."""
        told = json.dumps(parts).encode()
        return hmac.new(self.secret.encode(), told, hashlib.sha256).hexdigest()[:_NAME]

    def page(self, plan: Iterable[_Drawn]) -> dict[str, Any]:
        """What the page knows: names in the order of the alphabet, which tells nothing."""
        samples = [{**asdict(drawn), "clips": sorted(drawn.clips)} for drawn in _in_order(plan)]
        head = {"schema": SCHEMA, "kind": RATINGS, "study": self.name, "questions": QUESTIONS}
        return {**head, "width": self.shape.width, "height": self.shape.height, "samples": samples}

    def key(self, plan: Iterable[_Drawn]) -> dict[str, Any]:
        """What tells whose clips they are."""
        samples = {drawn.name: {"prompt": drawn.prompt, "clips": drawn.clips} for drawn in _in_order(plan)}
        head = {"schema": SCHEMA, "kind": KEY, "study": self.name, "secret": self.secret}
        return {**head, "shape": asdict(self.shape), "folders": self.folders, "samples": samples}


def _in_order(plan: Iterable[_Drawn]) -> list[_Drawn]:
    return sorted(plan, key=lambda drawn: drawn.name)


def _write_sample(study: _Study, sample: _Sample, folder: Path) -> _Drawn:
    """Its clips under opaque names, and the picture that they were made from where that is known."""
    names = [facts.clip.name for facts in sample]
    clips = {}
    picture: NDArray[np.uint8] | None = None
    for number, facts in enumerate(sample):
        footage = facts.clip.read()
        name = study.opaque("clip", str(number), facts.clip.name)
        frames = [fitted(frame, study.shape) for frame in in_time(footage, study.shape)]
        write_video(folder / f"{name}.mp4", frames, study.shape.fps, quality=QUALITY)
        clips[name] = {"folder": study.folders[number], "clip": facts.clip.name}
        picture = _input(facts, study.shape) if picture is None else picture
    file = ""
    if picture is not None:
        file = study.opaque("picture", *names) + ".jpg"
        Image.fromarray(picture).save(folder / file, "JPEG", quality=95, subsampling=0)
    return _Drawn(study.opaque("sample", *names), _prompt(sample), file, clips)


def in_time(footage: Footage, shape: Shape) -> NDArray[np.uint8]:
    """The frames that show at the times of a shape's frames: none where the rates agree is doubled or left out."""
    numbers = np.floor(np.arange(shape.frames) * footage.fps / shape.fps + 1e-6).astype(int)
    return np.asarray(footage.frames[numbers])


def fitted(picture: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    """A picture `h w 3`, resized and cropped."""
    if picture.shape[:2] == (shape.height, shape.width):
        return picture
    return fit_image(picture, shape.width, shape.height, "crop")


def _input(facts: _Facts, shape: Shape) -> NDArray[np.uint8] | None:
    """What the first frame should show, None where it is not known."""
    try:
        return fitted(facts.clip.first_picture(facts.height, facts.width), shape)
    except (ConsistI2VError, OSError, ValueError):
        return None


def _prompt(sample: _Sample) -> str:
    """Of the first clip that tells one."""
    prompts = (facts.clip.recipe.prompt for facts in sample if facts.clip.recipe)
    return next((prompt for prompt in prompts if prompt), "")


def _write_index(study: _Study, plan: Iterable[_Drawn], folder: Path) -> None:
    page = filled("rating", {"data": script_data(study.page(plan))}, media="'self' file:")
    (folder / "index.html").write_text(page, encoding="utf-8", newline="\n")
    for path in folder.iterdir():
        os.utime(path, (_WHEN, _WHEN))
