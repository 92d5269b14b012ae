"""The steps of fetching a model: download and check, convert, halve, drop. `hub.fetch` knows their order."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from consisti2v_cli.errors import ConsistI2VError, WeightsError

from .cache import (
    finish_forgetting,
    forget,
    hash_holds,
    hub_cache,
    is_damaged,
    is_known,
    link,
    same_hash,
    storage,
    write_reference,
)
from .download import INCOMPLETE, HubFile, Repository
from .folder import (
    HALVED,
    HALVES,
    SETTINGS_FILE,
    STEMS,
    TOKENIZER_FILES,
    convertible,
    copy_name,
    file_names,
    is_half,
    is_stale,
    pick_weights,
    variant_of,
    weight_files,
)
from .store import is_ours, size_in_words

Progress = Callable[[str, int, int], None]  # stage, bytes done of all files, bytes of all files
Notice = Callable[[str], None]

# The stages that `Progress` hears of
CHECKING, CHECKING_COPIES, DOWNLOADING, HALVING = "checking", "checking copies", "downloading", "halving"


def bring(repo: str, revision: str, dtype: str | None, patient: bool, report: Progress, notice: Notice) -> Path:
    """Have all that is needed of a repository in the cache, and right.

    Args:
        repo: `owner/name`.
        revision: branch, tag or commit.
        dtype: see `hub.fetch`.
        patient: try again where the hub is not reached at once.
        report, notice: see `hub.fetch`.

    Returns:
        The snapshot's folder.

    Raises:
        UnreachableError: the hub was not reached, or not to the end.
        WeightsError, ConsistI2VError: see `hub.fetch`.
    """
    hub = Repository(repo, revision, patient=patient, on_notice=notice)
    place = _tidied(hub)
    _check_own(place, report, notice)
    wanted = needed_files(hub.names, dtype, _kept(place, hub.names, dtype))
    return _complete(hub, place, wanted, dtype, report, notice)


def bring_files(
    repo: str, revision: str, hashes: Mapping[str, str], patient: bool, report: Progress, notice: Notice
) -> Path:
    """Have some files of a repository in the cache, and right; what is not the file that is known does not stay.

    Args:
        repo, revision, patient, report, notice: as in `bring`.
        hashes: for each file's name the sha256 that it must have; "" where the hub's own hash decides.

    Returns:
        The snapshot's folder.

    Raises:
        UnreachableError: the hub was not reached, or not to the end.
        WeightsError: the repository lacks a file, or has another one under its name; and as in `bring`.
        ConsistI2VError: see `hub.fetch`.
    """
    hub = Repository(repo, revision, patient=patient, on_notice=notice)
    if lacking := [name for name in hashes if name not in hub.names]:
        raise WeightsError(f"{repo} has no {', '.join(lacking)} at {revision}.")
    place = _tidied(hub)
    for name, hash in hashes.items():
        listed = hub.file(name).hash
        if hash and len(listed) == 64 and not same_hash(listed, hash):
            _refuse(place / name, repo, hash)
    _complete(hub, place, list(hashes), None, report, notice)
    for name, hash in hashes.items():
        if hash and not is_known(place / name, hash):
            _refuse(place / name, repo, hash)
    return place


def _refuse(entry: Path, repo: str, hash: str) -> NoReturn:
    """Remove a file that is not the one that is known, and say so."""
    if entry.is_file():
        forget(entry)
    raise WeightsError(f"{entry.name} of {repo} is not the file that is known (sha256 {hash}), and is not used.")


def _tidied(hub: Repository) -> Path:
    """A repository's folder at its commit, which need not exist, without what processes left that were killed."""
    place = storage(hub.repo) / "snapshots" / hub.commit
    finish_forgetting(place)
    for left in list(place.rglob(".*.part")):
        left.unlink()
    return place


def _complete(
    hub: Repository, place: Path, wanted: Iterable[str], dtype: str | None, report: Progress, notice: Notice
) -> Path:
    """Check what a snapshot has of the files that are wanted, and download the others. Returns its folder."""
    blobs = storage(hub.repo) / "blobs"
    files = {place / name: hub.file(name) for name in sorted(wanted, key=_by_kind)}
    _check(files, blobs, report, notice)
    lacking = {entry: file for entry, file in files.items() if not entry.is_file()}
    _check_space(place, blobs, files, lacking, dtype)
    count = _meter(DOWNLOADING, sum(file.size for file in lacking.values()), report)
    for entry, file in lacking.items():
        if (blobs / file.hash).is_file():  # two files are the same
            count(file.size)
        else:
            hub.download(file, blobs / file.hash, count)
        link(entry, blobs / file.hash)
    write_reference(hub.repo, hub.revision, hub.commit)
    for left in blobs.glob(f"*{INCOMPLETE}"):  # of files that are no longer needed
        left.unlink()
    return place


def check_cached(place: Path, report: Progress) -> list[str]:
    """The files of a snapshot that are damaged, by their hashes."""
    entries = sorted(entry for entry in place.rglob("*") if entry.is_file() and not entry.name.startswith("."))
    count = _meter(CHECKING, sum(entry.stat().st_size for entry in entries), report)
    return [entry.relative_to(place).as_posix() for entry in entries if is_damaged(entry, count)]


def needed_files(names: Iterable[str], dtype: str | None = None, kept: Collection[str] = ()) -> list[str]:
    """Of all files of a repository, those that rendering needs.

    Args:
        names: of all files.
        dtype: of which network and text encoder are preferred, where there are several.
        kept: parts of which a copy in half precision is here, so that their originals are not needed.

    Raises:
        WeightsError: it is no whole model: names the parts that it lacks.
    """
    folders = _by_folder(names)
    wanted = [file for file in folders.get("", []) if file in (SETTINGS_FILE, "model_index.json")]
    lacking = []
    for part in STEMS:
        inside = folders.get(part, [])
        weights = _offered(inside, part, dtype)
        if not weights or "config.json" not in inside:
            lacking.append(part)
        wanted += [f"{part}/{file}" for file in ("config.json", *(() if part in kept else weights))]
    inside = folders.get("tokenizer", [])
    if not any(files <= set(inside) for files in TOKENIZER_FILES):
        lacking.append("tokenizer")
    if lacking:
        raise WeightsError(f"The repository is no whole model: {', '.join(lacking)} missing.")
    wanted += [f"tokenizer/{file}" for file in inside if file.endswith((".json", ".txt"))]
    wanted += [f"scheduler/{file}" for file in folders.get("scheduler", []) if file.endswith(".json")]
    return wanted


def convert(folder: Path, notice: Notice) -> None:
    """Write safetensors beside the `.bin` files of the parts that have nothing else."""
    for part in STEMS:
        bins = convertible(file_names(folder / part), part)
        if bins:
            from .convert import convert_part

            written = convert_part(folder / part, part, bins)
            notice(f"Converted {part}/{', '.join(bins)} to safetensors: {', '.join(written)}")


def halve(folder: Path, dtype: str, report: Progress, notice: Notice) -> None:
    """Write copies in half precision of the parts that have none yet, or none that is right."""
    wanted = [part for part in HALVED if not _has_half(folder / part, part, dtype, notice)]
    if not wanted:
        return
    from .convert import halve_part

    originals = [folder / part / name for part in wanted for name in pick_weights(file_names(folder / part), part)]
    total, done = sum(file.stat().st_size for file in originals), 0
    for part in wanted:
        written = halve_part(folder, part, dtype, _meter(HALVING, total, report, done))
        done += sum(file.stat().st_size for file in originals if file.parent.name == part)
        report(HALVING, done, total)  # what is no tensor counts too
        if written:
            size = (folder / part / written).stat().st_size
            notice(f"Kept a copy of {part} in {dtype}: {written}, {size_in_words(size)}.")
        else:
            notice(f"{part} is in half precision as it is.")


def in_other(folder: Path, dtype: str | None) -> list[str]:
    """The parts that are here in another half precision alone than was asked for, so that the hub is needed."""
    if dtype is None:
        return []
    files = {part: weight_files(folder, part, dtype)[0].name for part in HALVED}
    return [part for part, name in files.items() if variant_of(name, STEMS[part]) not in (None, "", dtype)]


def drop(folder: Path, dtype: str, notice: Notice) -> None:
    """Remove the full precision of the parts that are here in half precision, from a snapshot and from the blobs."""
    freed = 0
    dropped = []
    for part in HALVED:
        names = file_names(folder / part)
        half = pick_weights(names, part, dtype=dtype)
        originals = [*pick_weights(names, part), *pick_weights(names, part, "bin")]
        originals = [name for name in originals if not is_half(name, part)]
        if originals and half and is_half(half[0], part):
            freed += sum(forget(folder / part / name) for name in reversed(originals))  # an index behind its shards
            dropped.append(part)
    if dropped:
        notice(f"Removed the originals of {' and '.join(dropped)}: {size_in_words(freed)} freed.")


def _by_folder(names: Iterable[str]) -> dict[str, list[str]]:
    """The files of each folder of a repository; without names that could mean another place on this machine."""
    folders: dict[str, list[str]] = {}
    for name in names:
        place, _, file = name.rpartition("/")
        if file.isprintable() and "\\" not in file and ":" not in file:
            folders.setdefault(place, []).append(file)
    return folders


def _offered(inside: Sequence[str], part: str, dtype: str | None) -> list[str]:
    """The weights that a repository offers of a part: safetensors, or else `.bin`."""
    wanted = dtype if part in HALVED else None
    return pick_weights(inside, part, dtype=wanted) or pick_weights(inside, part, "bin")


def _kept(place: Path, names: Iterable[str], dtype: str | None) -> set[str]:
    """The parts that are here in half precision, made by us, without the originals: they were dropped."""
    if dtype == "fp32":
        return set()
    folders = _by_folder(names)
    kept = set()
    for part in HALVED:
        copies = [copy_name(part, half) for half in ([dtype] if dtype else HALVES)]
        originals = _offered(folders.get(part, []), part, dtype)
        here = all((place / part / name).is_file() for name in originals)
        if not here and any(is_ours(place / part / copy) for copy in copies):
            kept.add(part)
    return kept


def _by_kind(name: str) -> tuple[bool, str]:
    """Small files first: with them, a download that is killed can be told what it belongs to."""
    return name.endswith((".safetensors", ".bin")), name


def _check_own(place: Path, report: Progress, notice: Notice) -> None:
    """Remove what we made in a snapshot and what is damaged now, so that it is made again."""
    files = [
        file for file in sorted(place.glob("*/*.safetensors")) if not (file.is_symlink() or file.name.startswith("."))
    ]
    count = _meter(CHECKING_COPIES, sum(file.stat().st_size for file in files), report)
    for file in files:
        if is_damaged(file, count):
            notice(f"{file.relative_to(place)} is damaged (its hash is not what it was); making it again.")
            file.unlink()


def _check(files: dict[Path, HubFile], blobs: Path, report: Progress, notice: Notice) -> None:
    """Link what the cache has of a snapshot's files, and remove what is damaged, so that it is fetched again."""
    for entry, file in files.items():
        if not entry.is_file() and (blobs / file.hash).is_file():  # of another revision, or a run that was killed
            link(entry, blobs / file.hash)
    present = {entry: file for entry, file in files.items() if entry.is_file()}
    count = _meter(CHECKING, sum(entry.stat().st_size for entry in present), report)
    for entry, file in present.items():
        if not entry.is_file():  # its blob was another's too, and went with that
            entry.unlink()
        elif entry.stat().st_size != file.size or not hash_holds(entry, file.hash, count):
            notice(f"{file.name} is damaged (its hash is not the hub's); fetching it again.")
            entry.unlink()
            (blobs / file.hash).unlink(missing_ok=True)


def _check_space(
    place: Path, blobs: Path, files: dict[Path, HubFile], lacking: dict[Path, HubFile], dtype: str | None
) -> None:
    """ConsistI2VError where the disk has too little space for what is missing, and for what is made of it."""
    needed = 0
    for file in {file.hash: file for file in lacking.values()}.values():
        begun = blobs / (file.hash + INCOMPLETE)
        needed += max(0, file.size - (begun.stat().st_size if begun.is_file() else 0))
    for part in STEMS:
        weights = [file for file in files.values() if file.name.startswith(f"{part}/") and _by_kind(file.name)[0]]
        size = sum(file.size for file in weights)
        names = [file.name.rpartition("/")[2] for file in weights]
        if names and not pick_weights([*names, *file_names(place / part)], part):
            needed += size  # a conversion
        if dtype in HALVES and part in HALVED and not any(is_half(name, part) for name in names):
            needed += 0 if (place / part / copy_name(part, dtype)).is_file() else size // 2
    _check_free(place, needed, hub_cache(), "free some space, or set HF_HOME to a folder on another disk")


def check_space_for_copies(folder: Path, dtype: str | None) -> None:
    """ConsistI2VError where the disk has too little space for what is made of a folder's weights."""
    needed = 0
    for part in STEMS:
        names = file_names(folder / part)
        bins = convertible(names, part)
        size = sum((folder / part / name).stat().st_size for name in bins or pick_weights(names, part))
        needed += size if bins else 0
        if dtype in HALVES and part in HALVED and copy_name(part, dtype) not in names:
            needed += size // 2
    _check_free(folder, needed, folder, "free some space")


def _check_free(place: Path, needed: int, shown: Path, advice: str) -> None:
    """ConsistI2VError where the disk of a folder, which need not exist, has less than so many bytes free."""
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        has = f"which has {size_in_words(free)} free"
        raise ConsistI2VError(f"This needs {size_in_words(needed)} on the disk of {shown}, {has}; {advice}.")


def _has_half(place: Path, part: str, dtype: str, notice: Notice) -> bool:
    """Whether a part is in its folder in half precision, and no older than its originals."""
    half = pick_weights(file_names(place), part, dtype=dtype)[:1]
    if not half or variant_of(half[0], STEMS[part]) != dtype:
        return False
    if is_stale(place, part, half[0]):
        notice(f"{part}/{half[0]} is older than what it was made from; making it again.")
        return False
    return True


def _meter(stage: str, total: int, report: Progress, done: int = 0) -> Callable[[int], None]:
    """Counts bytes, and reports them."""
    if total:
        report(stage, done, total)

    def count(more: int) -> None:
        nonlocal done
        done += more
        report(stage, done, total)

    return count
