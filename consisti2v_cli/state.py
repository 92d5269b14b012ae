"""What is remembered from one call to the next: the last clip, where sources lie, what files were made of. No torch.

Every record is a small file of its own, written under a temporary name and renamed: several processes may write at the
same time, and one that is killed leaves nothing half-written. To remember is a convenience: a state folder that is
read-only, full or damaged never fails a run.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consisti2v_cli.recipe import Recipe, to_json
from consisti2v_cli.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

APPLICATION = "consisti2v"
KEPT_RECORDS = 2000  # of sources
KEPT_FILES_FOR = 180 * 86_400  # seconds that a file is remembered which stays where it was written
KEPT_LATENTS = 500
LEFTOVER_AGE = 86_400  # seconds after which a temporary file can only be a killed process's

_FILES = ("files", "expected")  # records of files that were written, and of those about to get their names


def state_folder() -> Path:
    """Where things are remembered: the environment's CONSISTI2V_STATE, else the user's folder for such. Not made."""
    if named := os.environ.get("CONSISTI2V_STATE"):
        return Path(named).absolute()
    from platformdirs import user_state_path

    return _of_user(user_state_path)


def cache_folder() -> Path:
    """Where things lie that can be lost: the environment's CONSISTI2V_CACHE, else the user's folder. Not made."""
    if named := os.environ.get("CONSISTI2V_CACHE"):
        return Path(named).absolute()
    from platformdirs import user_cache_path

    return _of_user(user_cache_path)


def _of_user(find: Callable[..., Path]) -> Path:
    """A folder of the user's; for a user who has no home, one that can be neither read nor made."""
    nowhere = Path(os.devnull, APPLICATION)
    try:
        folder = find(APPLICATION, appauthor=False)
    except RuntimeError:
        return nowhere
    return folder if folder.is_absolute() else nowhere


def locks_folder() -> Path:
    """The folder for lock files, made if it is not there. OSError where it cannot be: locks are no convenience."""
    folder = state_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def remember(path: Path | str, recipe: Recipe, source: Path | str | bytes | None) -> None:
    """Note a file that was written. Never fails.

    Args:
        path: the file, or for PNG the folder.
        recipe: resolved; kept so that a file without metadata is known again.
        source: the file that it was made from, if that was one.
    """
    path = Path(path).absolute()
    with suppress(OSError, ValueError):
        _write("files", _name(path), {"path": str(path), "mark": _mark(path), "recipe": to_json(recipe)})
        (state_folder() / "expected" / _name(path)).unlink(missing_ok=True)
    if isinstance(source, (str, Path)) and recipe.input_sha256:
        with suppress(OSError, ValueError):
            _write("sources", recipe.input_sha256, {"path": str(Path(source).absolute())})


def expect(path: Path | str, made: Path, recipe: Recipe) -> None:
    """Note a file that is whole and about to get its name: should the process be killed before it can `remember` the
    file, that is known nevertheless. Never fails.

    What else is remembered of the name stays, for the file that may have it now.

    Args:
        path: the name.
        made: the file, or for PNG the folder, that is moved there as it is.
        recipe: resolved.
    """
    path = Path(path).absolute()
    with suppress(OSError, ValueError):
        mark = _mark(made, path.name)
        _write("expected", _name(path), {"path": str(path), "mark": mark, "recipe": to_json(recipe)})


def remember_last(path: Path | str) -> None:
    """Note the clip to go on with: once all files of a run are there, so that a killed run begins as before, and not
    with what itself wrote. Never fails.
    """
    with suppress(OSError, ValueError):
        _write("last", "clip", {"path": str(Path(path).absolute())})


def last_clip() -> Path | None:
    """The clip that was made last, be it still there or not; None where none is remembered."""
    record = _read("last", "clip")
    return Path(record["path"]) if record else None


def find_source(sha256: str) -> Path | None:
    """Where the file with this hash lies, if it was used once, is still there, and has not changed."""
    record = _read("sources", sha256) if sha256.isalnum() else None
    if record is None:
        return None
    path = Path(record["path"])
    try:
        return path if path.exists() and content_sha256(path) == sha256 else None
    except OSError:
        return None


def recipe_of(path: Path | str) -> str | None:
    """The recipe, as JSON, of a file that was written on this machine and has not changed since; with its metadata
    left out, too.

    A file counts as unchanged while its size and time of modification are; of a folder of PNG, those of each file.
    """
    path = Path(path).absolute()
    records = [record for kind in _FILES if (record := _read(kind, _name(path)))]
    try:
        mark = _mark(path) if records else None
    except OSError:
        return None
    recipe = next((record.get("recipe") for record in records if record.get("mark") == mark), None)
    return recipe if isinstance(recipe, str) else None


def keep_latent(path: Path | str, latent: NDArray[np.float32] | None, recipe: Recipe) -> None:
    """Keep the exact last latent of a clip that was written, for `extend` to go on from. Never fails.

    Args:
        path: the finished file, or folder of PNG; its content is the key, so that it may be moved and renamed.
        latent: of the last frame, `c h w`; None where there is none to keep.
        recipe: resolved.
    """
    if latent is None:
        return
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save

    with suppress(OSError, ValueError, SafetensorError):
        content = save({"latent": np.ascontiguousarray(latent, np.float32)}, _maker(recipe))
        folder = cache_folder() / "latents"
        _put(folder / f"{content_sha256(path)}.safetensors", content)
        prune(folder, KEPT_LATENTS)


def kept_latent(path: Path | str, recipe: Recipe) -> NDArray[np.float32] | None:
    """The exact last latent of a file, `c h w`, if it was kept, and was made by the recipe's model at its size."""
    from safetensors import SafetensorError, safe_open

    try:
        stored = cache_folder() / "latents" / f"{content_sha256(path)}.safetensors"
        with safe_open(stored, framework="np") as file:
            if (file.metadata() or {}) != _maker(recipe):
                return None
            latent: NDArray[np.float32] = file.get_tensor("latent")
    except (OSError, SafetensorError):
        return None
    return latent if latent.ndim == 3 and latent.dtype == "float32" else None


def content_sha256(path: Path | str) -> str:
    """The hash of a file's bytes; of a folder, of its files' names and bytes. In hexadecimal digits."""
    path = Path(path)
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for entry in sorted(path.iterdir()):
        if entry.is_file():
            whole.update(f"{entry.name}:{content_sha256(entry)}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()


def prune(folder: Path, keep: int, remove: Callable[[Path], None] = Path.unlink) -> None:
    """Remove all but the newest files of a folder, and what killed processes left there. Never fails."""
    with suppress(OSError):
        entries = []
        for entry in os.scandir(folder):
            with suppress(OSError):  # another process removed it
                entries.append((entry.stat().st_mtime, Path(entry.path)))
        oldest_first = sorted(entries)
        spare = [path for _, path in oldest_first[: max(0, len(oldest_first) - keep)]]
        leftovers = [p for age, p in entries if p.name.startswith(".") and age < time.time() - LEFTOVER_AGE]
        for path in {*spare, *leftovers}:
            with suppress(OSError):
                remove(path)


def _maker(recipe: Recipe) -> dict[str, str]:
    """What a latent's meaning depends on. The bundled model goes with the package's version."""
    known = (recipe.model, recipe.revision, __version__, recipe.width, recipe.height)
    return dict(zip(("model", "revision", "version", "width", "height"), map(str, known), strict=True))


def _mark(path: Path, name: str = "") -> list[list[Any]]:
    """What changes when a file does: its size and time of modification; of a folder, those of its files. Moving it
    changes neither. `name`: that a file is going to have, if it has another one yet."""
    files = [(file.name, file) for file in sorted(path.iterdir())] if path.is_dir() else [(name or path.name, path)]
    return [[name, file.stat().st_size, file.stat().st_mtime_ns] for name, file in files]


def _name(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:32]


def _read(kind: str, name: str) -> dict[str, Any] | None:
    """A record; None where there is none, or a damaged one."""
    try:
        record = json.loads((state_folder() / kind / name).read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("path"), str) else None


def _write(kind: str, name: str, record: dict[str, Any]) -> None:
    folder = state_folder() / kind
    _put(folder / name, json.dumps(record).encode())
    if kind in _FILES:
        _forget_files()
    else:
        prune(folder, KEPT_RECORDS)


def _forget_files() -> None:
    """Remove what is remembered of files that are gone, or that were written long ago. A run may write any number of
    them and must know them all, so none goes for their number. They are looked through once a day.
    """
    now, stamp = time.time(), state_folder() / "looked-through"
    with suppress(FileNotFoundError):
        if now - stamp.stat().st_mtime < LEFTOVER_AGE:
            return
    stamp.touch()
    for kind in _FILES:
        with suppress(FileNotFoundError):
            for entry in list(os.scandir(state_folder() / kind)):
                with suppress(OSError):  # another process removed it
                    age = now - entry.stat().st_mtime
                    # a young one may be of a file that is just getting its name
                    if age > KEPT_FILES_FOR or (age > LEFTOVER_AGE and not _is_of_a_file(kind, entry.name)):
                        os.unlink(entry.path)


def _is_of_a_file(kind: str, name: str) -> bool:
    """Whether there is a file at the place that a record is about."""
    record = None if name.startswith(".") else _read(kind, name)
    return record is not None and os.path.lexists(record["path"])


def _put(path: Path, content: bytes) -> None:
    """Write a file that appears under its name only when it is whole."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
