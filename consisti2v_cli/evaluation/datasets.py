"""Data sets in the folders that they were published in: which of their videos, frames and captions clips are made of.

Everything that is drawn comes from a seed by hashes of names: the same on every machine, in whatever order files are
listed. No video is opened before its frames are asked for.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consisti2v_cli.errors import RequestError
from consisti2v_cli.kinds import suffixes
from consisti2v_cli.media.image import read_image
from consisti2v_cli.media.video import read_frames
from consisti2v_cli.text import read_text_file

Frames = NDArray[np.uint8]

FILMS = (*suffixes("video"), ".gif")
PICTURES = tuple(suffix for suffix in suffixes("picture") if suffix not in FILMS)
UCF101_PROMPTS = Path(__file__).parent / "data" / "ucf101_prompts.txt"  # appendix B.1, in the order of the classes
UCF101_LISTS = ("trainTestlist", "ucfTrainTestlist")  # folders with the names of all videos
MSRVTT_FILES = ("MSRVTT_data.json", "test_videodatainfo.json")
FILE_KEYS, PROMPT_KEYS = ("file", "video", "image", "path", "name"), ("prompt", "caption", "text")
I2V_BENCH_LAYOUT = (
    "videos or pictures, at best in a folder for each category, with NAME.txt beside NAME.mp4, or with a JSON, JSON "
    f"lines or CSV file at the top that maps files to prompts (columns {'/'.join(FILE_KEYS)} and "
    f"{'/'.join(PROMPT_KEYS)})"
)


@dataclass(frozen=True)
class Sample:
    """What one clip of a protocol is made of."""

    name: str  # of the clip, without suffix; with / between folders
    source: Path  # video or picture
    draw: float  # where in the video the first frame lies, 0 to below 1; its index is known when it is decoded
    prompt: str
    category: str
    seed: int  # of the clip's noise


def class_shares(counts: Mapping[str, int], total: int) -> dict[str, int]:
    """How many of each class make up `total`, by the classes' frequencies, rounded by largest remainders."""
    parts = {name: divmod(count * total, sum(counts.values())) for name, count in counts.items()}
    lacking = total - sum(whole for whole, _ in parts.values())
    more = sorted(parts, key=lambda name: -parts[name][1])[:lacking]  # sorting is stable: equals in the given order
    return {name: whole + (name in more) for name, (whole, _) in parts.items()}


def draw(seed: int, *words: str) -> float:
    """A number from 0 to below 1 that depends on nothing but a seed and words."""
    digest = hashlib.sha256("\0".join([str(seed), *words]).encode(errors="surrogateescape")).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53


def ucf101(folder: Path, seed: int, clips: int) -> list[Sample]:
    """Videos of UCF-101, each class as often as its share of all: `[UCF-101/]CLASS/*.avi`.

    Prompts are the sentences of appendix B.1. Where a folder of `UCF101_LISTS` is there, so must be all that it lists.

    Raises:
        RequestError: not 101 classes, fewer videos than `clips`, or not those that are listed.
    """
    root = folder / "UCF-101" if (folder / "UCF-101").is_dir() else folder
    prompts = UCF101_PROMPTS.read_text(encoding="utf-8").splitlines()
    found = {place.name: sorted(place.glob("*.avi")) for place in root.iterdir() if place.is_dir()}
    videos = {name: found[name] for name in sorted(found, key=str.casefold) if found[name]}  # the data set's order
    if len(videos) != len(prompts):
        raise RequestError(
            f"{root} has {len(videos)} folders with .avi files; UCF-101 has {len(prompts)}, one a class, such as "
            "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi."
        )
    _check_lists(root, {f"{name}/{path.name}" for name, paths in videos.items() for path in paths})
    counts = {name: len(paths) for name, paths in videos.items()}
    if sum(counts.values()) < clips:
        raise RequestError(f"{root} has {sum(counts.values())} videos; {clips} are drawn, of 13,320 in UCF-101.")
    shares = class_shares(counts, clips)
    samples = []
    for prompt, (name, paths) in zip(prompts, videos.items(), strict=True):
        drawn = sorted(paths, key=lambda path: draw(seed, "video", path.stem))[: shares[name]]
        samples += [_sample(seed, path.stem, path, prompt, name) for path in drawn]
    return samples


def _check_lists(root: Path, found: set[str]) -> None:
    """RequestError where the published lists name videos that are not there."""
    folders = [place / name for place in (root, root.parent) for name in UCF101_LISTS]
    lists = [path for folder in folders for path in sorted(folder.glob("*list0[1-3].txt"))]
    listed = {line.split()[0] for path in lists for line in read_text(path).splitlines() if line.strip()}
    if missing := sorted(listed - found):
        raise RequestError(f"{len(missing)} of {len(listed)} listed videos are not in {root}, such as {missing[0]}.")


def msrvtt(folder: Path, seed: int) -> list[Sample]:
    """The test clips of MSR-VTT with one caption each: a file of `MSRVTT_FILES` and `video*.mp4` below the folder.

    Raises:
        RequestError: no such file, one of another form, or test clips without video or caption.
    """
    files = [path for name in MSRVTT_FILES for path in sorted(folder.rglob(name))]
    if not files:
        raise RequestError(f"{folder} has no {' and no '.join(MSRVTT_FILES)}, which name the test clips of MSR-VTT.")
    tested, captions = _read_msrvtt(files[0])
    videos = {path.stem: path for path in sorted(folder.rglob("video*")) if path.suffix.lower() in FILMS}
    for known, what in ((videos.keys(), "video"), (captions.keys(), "caption")):
        if lacking := sorted(tested.keys() - known):
            raise RequestError(
                f"{files[0].name} lists {len(tested)} test clips; {len(lacking)} of them have no {what} in {folder}, "
                f"such as {lacking[0]}."
            )
    samples = []
    for name, category in tested.items():
        texts = captions[name]
        prompt = texts[int(draw(seed, "caption", name) * len(texts))]
        samples.append(_sample(seed, name, videos[name], prompt, category))
    return samples


def _read_msrvtt(file: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Names of the test clips with their categories, and captions by name."""
    captions: dict[str, list[str]] = defaultdict(list)
    try:
        told = json.loads(read_text(file))
        tested = {str(v["video_id"]): str(v.get("category", "")) for v in told["videos"] if v["split"] == "test"}
        for sentence in told["sentences"]:
            if text := str(sentence["caption"]).strip():
                captions[sentence["video_id"]].append(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"{file} is not MSR-VTT's: `videos` with a `split`, and `sentences`, are expected."
        ) from error
    if not tested:
        raise RequestError(f"{file} lists no clip of the split `test`, of which MSR-VTT has 2990.")
    return tested, dict(captions)


def i2v_bench(folder: Path, seed: int) -> list[Sample]:
    """The clips of I2V-Bench, whose layout the paper does not tell: `I2V_BENCH_LAYOUT`, at any depth.

    The category is the file's, or the name of the folder that the clip lies in. A picture takes the place of a video
    of the same name: it is its first frame. First frames are the videos' first ones.

    Raises:
        RequestError: nothing is found, clips without a prompt, or prompts without a clip.
    """
    files = {}
    for path in sorted(folder.rglob("*"), key=lambda path: path.suffix.lower() in PICTURES):
        inside = path.relative_to(folder)
        if path.suffix.lower() in FILMS + PICTURES and not any(part.startswith(".") for part in inside.parts):
            files[inside.with_suffix("").as_posix()] = path
    if not files:
        raise RequestError(f"{folder} has no clips; expected of I2V-Bench: {I2V_BENCH_LAYOUT}.")
    told = _told_prompts(folder, files)
    samples, bare = [], []
    for name, path in sorted(files.items()):
        prompt, category = told.get(name, ("", ""))
        prompt = _prompt_beside(path) or prompt
        if prompt:
            category = category or (path.parent.name if path.parent != folder else "")
            samples.append(_sample(seed, name, path, prompt, category, moving=False))
        else:
            bare.append(name)
    if bare:
        raise RequestError(
            f"{len(bare)} of {len(files)} clips in {folder} have no prompt, such as {bare[0]}; expected of I2V-Bench: "
            f"{I2V_BENCH_LAYOUT}."
        )
    return samples


def _prompt_beside(path: Path) -> str:
    text = path.with_suffix(".txt")
    return read_text(text).strip() if text.is_file() else ""


def read_text(path: Path) -> str:
    """A file's text. RequestError: it cannot be read, or is not UTF-8."""
    try:
        return read_text_file(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not in UTF-8"
        raise RequestError(f"{path} cannot be read: {reason}.") from error


def _told_prompts(folder: Path, files: Mapping[str, Path]) -> dict[str, tuple[str, str]]:
    """Prompt and category by a clip's name, from the files at the top. RequestError: clips that are not there."""
    by_last: dict[str, list[str]] = defaultdict(list)
    for name in files:
        by_last[PurePosixPath(name).name].append(name)
    told, strange = {}, []
    listings = [path for path in folder.iterdir() if path.suffix.lower() in (".csv", ".json", ".jsonl")]
    for listing in sorted(path for path in listings if path.is_file()):
        for file, prompt, category in _entries(listing):
            place = PurePosixPath(file.replace("\\", "/"))
            name = (place.with_suffix("") if place.suffix.lower() in FILMS + PICTURES else place).as_posix()
            alike = [name] if name in files else by_last.get(PurePosixPath(name).name, [])
            if len(alike) == 1:
                told[alike[0]] = (prompt, category)
            else:
                strange.append(f"{listing.name}: {file}")
    if strange:
        raise RequestError(f"{len(strange)} listed clips are not, or not once, in {folder}, such as {strange[0]}.")
    return told


def _entries(listing: Path) -> Iterator[tuple[str, str, str]]:
    """Each file that a listing names, with its prompt and category; nothing where it lists no prompts."""
    try:
        text = read_text(listing)
        if listing.suffix.lower() == ".csv":
            told: Any = list(csv.DictReader(io.StringIO(text, newline="")))
        elif listing.suffix.lower() == ".jsonl":
            told = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            told = json.loads(text)
    except (ValueError, csv.Error) as error:
        raise RequestError(f"{listing} cannot be read: {error}.") from error
    if isinstance(told, dict):
        told = [
            {"file": name, **(entry if isinstance(entry, dict) else {"prompt": entry})} for name, entry in told.items()
        ]
    for entry in told if isinstance(told, list) else []:
        if isinstance(entry, dict):
            file_name, prompt = (_first(entry, keys) for keys in (FILE_KEYS, PROMPT_KEYS))
            if file_name and prompt:
                yield file_name, prompt, _first(entry, ("category",))


def _first(entry: Mapping[Any, Any], keys: Sequence[str]) -> str:
    return next((entry[key].strip() for key in keys if isinstance(entry.get(key), str)), "")


def _sample(seed: int, name: str, source: Path, prompt: str, category: str, *, moving: bool = True) -> Sample:
    place = draw(seed, "frame", name) if moving else 0.0
    return Sample(name, source, place, prompt, category, int(draw(seed, "noise", name) * 2**32))


def first_index(sample: Sample) -> int:
    """The index of a sample's first frame in its video, which is decoded to know how many frames there are."""
    if not sample.draw:
        return 0
    return int(sample.draw * sum(1 for _ in read_frames(sample.source)))


def first_frame(sample: Sample, size: int) -> Frames:
    """What a sample's clip begins with, `size size 3`. RequestError: it cannot be read."""
    if sample.source.suffix.lower() in PICTURES:
        return square(read_image(sample.source), size)
    index = first_index(sample)
    return square(next(islice(read_frames(sample.source), index, None)), size)


def real_clip(sample: Sample, size: int, frames: int) -> Frames:
    """The real clip that a made one is held against, `frames size size 3`.

    Consecutive frames from the sample's first one on; the last of the video where fewer are left. Where it has fewer
    in all, its last one is repeated.

    Raises:
        RequestError: it cannot be read, or is a picture.
    """
    if sample.source.suffix.lower() in PICTURES:
        raise RequestError(f"{sample.source} is a picture, where a real clip is needed.")
    count = sum(1 for _ in read_frames(sample.source))
    start = max(0, min(int(sample.draw * count), count - frames))
    taken = [square(frame, size) for frame in islice(read_frames(sample.source), start, start + frames)]
    return np.stack([*taken, *[taken[-1]] * (frames - len(taken))])


def square(frame: Frames, size: int) -> Frames:
    """The middle square of a frame `h w 3`, as `size size 3`: each pixel is the mean of the area that it covers."""
    side = min(frame.shape[:2])
    top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    part = frame[top : top + side, left : left + side].astype(np.float64)
    weights = _area_weights(side, size)
    rows = np.tensordot(weights, part, axes=(1, 0))
    return np.rint(np.tensordot(weights, rows, axes=(1, 1)).swapaxes(0, 1)).astype(np.uint8)


@lru_cache(maxsize=8)
def _area_weights(before: int, after: int) -> NDArray[np.float64]:
    """How much each of the pixels before has of each one after, `after before`; rows add up to 1."""
    edges = np.arange(after + 1) * (before / after)
    cells = np.arange(before)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    weights: NDArray[np.float64] = overlap.clip(0, None) * (after / before)
    return weights
