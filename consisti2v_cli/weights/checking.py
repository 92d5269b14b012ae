"""Read every file of a model, and find out whether it is right."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from consisti2v_cli.errors import WeightsError

from .cache import ELLIPSIS, hash_holds, hub_hash, is_known
from .folder import (
    HALVES,
    SETTINGS_FILE,
    STEMS,
    ModelFolder,
    check_configurations,
    missing,
    read_json,
    read_object,
    weight_files,
)
from .hub import locate, require
from .store import own_hash_holds, read_header

Progress = Callable[[str, int, int], None]  # stage, bytes done, bytes in all
OnBytes = Callable[[int], None]

CHECKING = "checking"  # the stage that `Progress` hears of
HUB_HASH, OWN_HASH, KNOWN_HASH, NUMBERS, READ = "hub hash", "own hash", "known hash", "numbers", "read"  # how

_MISSING = "it is missing"
_FOLDERS = (*STEMS, "tokenizer", "scheduler")


@dataclass(frozen=True)
class CheckedFile:
    """A file of a model, and whether it is right."""

    file: str  # with its folder
    by: str  # how that was found out: `HUB_HASH`, ...
    problem: str | None = None  # what is wrong, in words


def check_model(model: str, revision: str | None = None, on_progress: Progress | None = None) -> Iterator[CheckedFile]:
    """Read every file of a model, and compare it with the hub's hash, or our own where we made it.

    The weights of other folders have no hash: there, that the tensors are those of the network and all numbers finite.

    Args:
        model, revision: as in `find`.
        on_progress: called with the stage, the bytes read, and the bytes of all files.

    Raises:
        RequestError, WeightsError: the model is not on this machine.
    """
    folder = locate(model, revision) or require(model, revision)
    entries = _entries(folder)
    count = _meter(sum(entry.stat().st_size for entry in entries if entry.is_file()), on_progress)
    unhashed = []
    for entry in entries:
        checked = _check_file(entry, folder.path, count)
        if checked.by == NUMBERS and not checked.problem:
            unhashed.append(entry)
        else:
            yield checked
    if unhashed:
        yield from _check_numbers(folder.path, unhashed, count)
    for lacking in missing(folder.path):
        yield CheckedFile(lacking, READ, _MISSING)


def check_files(folder: Path, hashes: Mapping[str, str], on_progress: Progress | None = None) -> Iterator[CheckedFile]:
    """Read some files of a folder, and compare each with the sha256 that is known of it, else with the hub's hash.

    Args:
        folder: a snapshot, or any other.
        hashes: for each file the sha256 that it must have; "" where none is known.
        on_progress: as in `check_model`.
    """
    here = [name for name in hashes if (folder / name).is_file()]
    count = _meter(sum((folder / name).stat().st_size for name in here), on_progress)
    for name, hash in hashes.items():
        checked = _check_file(folder / name, folder, count, hash) if name in here else CheckedFile(name, READ, _MISSING)
        yield replace(checked, by=READ) if checked.by == NUMBERS else checked  # nobody says which numbers are right


def check_headers(folder: Path) -> None:
    """Find out whether a model is right as far as its settings, its configurations and the headers tell.

    The schedule is computed where torch is loaded already.

    Raises:
        WeightsError: it is not: names a file.
    """
    check_configurations(folder)
    if "torch" in sys.modules:
        from .load import read_schedule

        read_schedule(folder)
    for part in STEMS:
        for file in weight_files(folder, part):
            read_header(file)


def _entries(folder: ModelFolder) -> list[Path]:
    """The files to check: all of a snapshot; of another folder those that belong to the layout."""
    if folder.revision is None:
        found = [entry for place in _FOLDERS for entry in (folder.path / place).glob("*")]
        found += [folder.path / name for name in (SETTINGS_FILE, "model_index.json")]
    else:
        found = list(folder.path.rglob("*"))
    return sorted(entry for entry in found if (entry.is_file() or entry.is_symlink()) and entry.name[0] != ".")


def _check_file(entry: Path, folder: Path, count: OnBytes, known: str = "") -> CheckedFile:
    """Check a file by its hash; weights that have none are read to the end by `_check_numbers`."""
    name = entry.relative_to(folder).as_posix()
    try:
        if known:
            right = is_known(entry, known, count) if ELLIPSIS in known else hash_holds(entry, known, count)
            return CheckedFile(name, KNOWN_HASH, None if right else "it is not the file that is known")
        if hash := hub_hash(entry):
            right = hash_holds(entry, hash, count)
            return CheckedFile(name, HUB_HASH, None if right else "its hash is not the hub's")
        if entry.suffix == ".safetensors":
            header = read_header(entry)
            if not header.is_ours:
                return CheckedFile(name, NUMBERS)
            right = own_hash_holds(entry, header, count)
            return CheckedFile(name, OWN_HASH, None if right else "its hash is not what it was")
        if entry.suffix == ".json":
            read_json(entry) if entry.parent.name == "tokenizer" else read_object(entry)
        count(len(entry.read_bytes()))
    except OSError as error:
        return CheckedFile(name, READ, error.strerror or type(error).__name__)
    except WeightsError as error:
        return CheckedFile(name, READ, str(error))
    return CheckedFile(name, READ)


def _check_numbers(folder: Path, entries: Sequence[Path], count: OnBytes) -> Iterator[CheckedFile]:
    """Check weights without a hash, part by part, by what loading demands of them."""
    from .load import check_part

    left = set(entries)
    for part in STEMS:
        for dtype in (None, *HALVES):
            try:
                files = weight_files(folder, part, dtype)
            except WeightsError:  # said already, as missing
                continue
            if not left.intersection(files):
                continue
            left.difference_update(files)
            try:
                check_part(folder, part, files, count)
                problem = None
            except WeightsError as error:
                problem = str(error)
            yield from (CheckedFile(file.relative_to(folder).as_posix(), NUMBERS, problem) for file in files)
    yield from (CheckedFile(file.relative_to(folder).as_posix(), READ) for file in sorted(left))  # loaded by nobody


def _meter(total: int, report: Progress | None) -> OnBytes:
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if report:
            report(CHECKING, done, total)

    return count
