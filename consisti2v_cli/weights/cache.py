"""The hub cache on this machine. Its layout is huggingface_hub's, so that other programs find what we fetch:

`models--OWNER--NAME/` holds `blobs/HASH`, `snapshots/COMMIT/...` with links to them, and `refs/BRANCH` with a commit.
A repository is `owner/name`, or one of the hub's spaces, which are programs beside their files, `spaces/owner/name`.
Files that we make (conversions, copies in half precision) stand in the snapshots themselves, with a hash inside.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from consisti2v_cli.errors import ConsistI2VError, RequestError, WeightsError
from consisti2v_cli.state import locks_folder, state_folder

from .store import own_hash_holds, read_header

if TYPE_CHECKING:
    from hashlib import _Hash

OnBytes = Callable[[int], object]  # bytes more than at the last call

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)*")
_FORGOTTEN = ".forgotten"
_CLASS = "VideoLDMUNet3DConditionModel"  # what the released model's network calls itself
_CHUNK = 1 << 22
_SPACES = "spaces/"
ELLIPSIS = "..."


def hub_cache() -> Path:
    """The folder of the cache: HF_HUB_CACHE, or `hub` in HF_HOME."""
    from huggingface_hub import constants

    try:
        return Path(constants.HF_HUB_CACHE).expanduser()
    except RuntimeError:  # a user without a home: a place that can be neither read nor made
        return Path(os.devnull, "huggingface")


def typed(repo: str) -> tuple[str, str]:
    """Of which type a repository is, as the hub calls it, `model` or `space`; and its `owner/name`."""
    return ("space", repo.removeprefix(_SPACES)) if repo.startswith(_SPACES) else ("model", repo)


def storage(repo: str) -> Path:
    """A repository's folder in the cache, which need not exist."""
    kind, name = typed(repo)
    return hub_cache() / f"{kind}s--{name.replace('/', '--')}"


def repositories() -> Iterator[tuple[str, Path]]:
    """The repositories of models in the cache, with their folders, by name."""
    cache = hub_cache()
    for place in sorted(cache.glob("models--*--*")) if cache.is_dir() else []:
        if place.is_dir():
            yield place.name.removeprefix("models--").replace("--", "/"), place


def snapshot(repo: str, revision: str) -> Path | None:
    """The folder of a repository at a branch, tag or commit; None where it is not in the cache.

    Looked up by hand: `snapshot_download(local_files_only=True)` refuses a snapshot of which only some files are here,
    and of a repository only those that are needed are.

    Raises:
        RequestError: no revision is named like that.
    """
    check_revision(revision)
    commit = read_reference(storage(repo) / "refs" / revision) or revision
    place = storage(repo) / "snapshots" / commit
    return place if place.is_dir() else None


def snapshots(place: Path) -> list[Path]:
    """The folders of all revisions of a repository that are in its folder in the cache."""
    folder = place / "snapshots"
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def is_model(folder: Path) -> bool:
    """Whether a snapshot is a model of our kind; of one that is not all here, as far as it can be told."""
    if not (folder / "unet").is_dir():
        return False
    try:
        config = json.loads((folder / "unet" / "config.json").read_bytes())
    except (OSError, ValueError):
        return True
    if not isinstance(config, dict):  # damaged, as above
        return True
    return "n_temp_heads" in config or config.get("_class_name") in (None, _CLASS)


def check_revision(revision: str) -> None:
    """RequestError for what is no name of a branch, tag or commit: it becomes part of a path."""
    if not _REVISION.fullmatch(revision):
        raise RequestError(f"The revision {revision!r} is no name of a branch, tag or commit.")


def read_reference(file: Path) -> str | None:
    """The commit that a branch or tag stands for; None where its file is absent or damaged."""
    commit = file.read_text(encoding="ascii", errors="replace").strip() if file.is_file() else ""
    return commit if _COMMIT.fullmatch(commit) else None


def write_reference(repo: str, revision: str, commit: str) -> None:
    """Note which commit a branch or tag stands for."""
    if revision == commit:
        return
    reference = storage(repo) / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    temporary = reference.with_name(f".{reference.name}.part")
    temporary.write_text(commit)
    os.replace(temporary, reference)


def link(entry: Path, blob: Path) -> None:
    """Make a snapshot's entry for a blob: a relative link, or where the file system has none, a hard link or a copy."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    temporary = entry.with_name(f".{entry.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(os.path.relpath(blob, entry.parent))
    except OSError:
        try:
            os.link(blob, temporary)
        except OSError:
            shutil.copyfile(blob, temporary)
    os.replace(temporary, entry)


def hub_hash(entry: Path) -> str | None:
    """The hash that the hub gave of a snapshot's entry: the name of the blob behind it. None for other files."""
    if not entry.is_symlink():
        return None
    name = Path(os.readlink(entry)).name
    return name if _HASH.fullmatch(name) else None


def new_digest(hash: str, size: int) -> _Hash:
    """What computes a hash like the given one, of a file of `size` bytes: sha256, or git's own."""
    return hashlib.sha256() if len(hash) == 64 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def hash_holds(path: Path, hash: str, on_bytes: OnBytes) -> bool:
    """Whether a file has the hash that the hub gave of it; reads all of it."""
    with path.open("rb") as file:
        digest = new_digest(hash, os.fstat(file.fileno()).st_size)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest() == hash


def is_known(entry: Path, sha256: str, on_bytes: OnBytes = lambda count: None) -> bool:
    """Whether a file is the one that is known; what the hub gave under that hash was compared when it came.

    Args:
        sha256: as in `same_hash`.
    """
    given = hub_hash(entry)
    if ELLIPSIS not in sha256:
        return given == sha256 or hash_holds(entry, sha256, on_bytes)
    if given:
        return same_hash(given, sha256) and hash_holds(entry, given, on_bytes)
    with entry.open("rb") as file:
        return same_hash(hashlib.file_digest(file, "sha256").hexdigest(), sha256)


def same_hash(found: str, known: str) -> bool:
    """Whether a file's sha256 is a known one, of which the middle may be left out: `07d32e92...0ee8f`."""
    begins, middle, ends = known.partition(ELLIPSIS)
    return found == known if not middle else len(found) == 64 and found.startswith(begins) and found.endswith(ends)


def is_damaged(entry: Path, on_bytes: OnBytes) -> bool | None:
    """Whether a file differs from what it was, by the hub's hash or its own; None where it has neither.

    Raises:
        OSError: it cannot be read.
    """
    if hash := hub_hash(entry):
        return not hash_holds(entry, hash, on_bytes)
    if entry.suffix != ".safetensors":
        return None
    try:
        header = read_header(entry)
    except WeightsError:
        return True
    return not own_hash_holds(entry, header, on_bytes) if header.is_ours else None


def forget(entry: Path) -> int:
    """Remove a snapshot's entry, and the blob behind it where no other entry needs it. Returns the bytes freed.

    The entry is renamed before its blob goes: killed in between, `finish_forgetting` still knows the blob.
    """
    size = entry.stat().st_size
    forgotten = entry.with_name(f".{entry.name}{_FORGOTTEN}")
    os.replace(entry, forgotten)
    blob = _blob_behind(forgotten)
    needed = bool(blob) and any(_blob_behind(other) == blob for other in _links(forgotten, blob))
    if blob and not needed:
        blob.unlink(missing_ok=True)
    forgotten.unlink()
    return 0 if needed else size


def finish_forgetting(place: Path) -> None:
    """Go on where a process was killed that forgot entries of this snapshot."""
    for forgotten in list(place.rglob(f".*{_FORGOTTEN}")):
        entry = forgotten.with_name(forgotten.name[1:].removesuffix(_FORGOTTEN))
        os.replace(forgotten, entry)
        if entry.exists():
            forget(entry)
        else:
            entry.unlink()


def _blob_behind(entry: Path) -> Path | None:
    """The blob that an entry is a link to, there or not."""
    if not entry.is_symlink():
        return None
    target = Path(os.path.normpath(entry.parent / os.readlink(entry)))
    return target if target.parent.name == "blobs" else None  # else somebody's own link


def _links(but: Path, blob: Path | None) -> Iterator[Path]:
    """The entries of all snapshots, but for one."""
    if blob:
        yield from (entry for entry in (blob.parents[1] / "snapshots").rglob("*") if entry != but)


@contextmanager
def locked(name: str, on_wait: Callable[[], object], *, cached: bool = True) -> Iterator[None]:
    """Let only one process at a time work on something.

    Args:
        name: of what is locked.
        on_wait: called where another process has it, before waiting for that.
        cached: whether it lies in the cache; a person's own folder is locked in the state folder.

    Raises:
        ConsistI2VError: the cache, or the state folder, cannot be written.
    """
    from filelock import FileLock, Timeout

    place, variable = (hub_cache(), "HF_HOME") if cached else (state_folder(), "CONSISTI2V_STATE")
    kind = "cache" if cached else "state folder"
    try:
        file = place / ".locks" / name / "consisti2v.lock" if cached else locks_folder() / f"{name}.lock"
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file, mode=0o664)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
    except OSError as error:
        raise ConsistI2VError(
            f"The {kind} {place} cannot be written ({error.strerror}); {variable} names another place for it."
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def full_disk_in_words() -> Iterator[None]:
    """Turn the system's word that no more can be written into a ConsistI2VError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ConsistI2VError(
            f"The disk of {error.filename or hub_cache()} is full: free some space, and run the same again to go on."
        ) from None
