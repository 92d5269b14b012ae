"""Films get their names when they are whole: made in a hidden folder beside, then moved, never over another."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from consisti2v_cli.errors import ConsistI2VError, RequestError, TakenError

FRAME_NAME = re.compile(r"\d{4,}\.png")  # the files of a folder of frames

_HIDDEN = re.compile(r"\..*-(?P<place>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.part")
_FORGOTTEN = 24 * 3600  # seconds after which nobody writes any more: other machines' processes cannot be seen
_MACHINE = Path("/etc/machine-id")  # host names are often the same, and so are process namespaces outside of containers
_OLD = "old"  # the folder inside the hidden one that keeps what is being replaced


@contextmanager
def appearing(path: Path, *, overwrite: bool, folder: bool) -> Iterator[Path]:
    """A place to make a file, or a folder of frames; it gets its name when the block ends well.

    Args:
        path: the name. Its folder is made where it is missing.
        overwrite: what is there already may be replaced: with its mode, and where it is a link, what that leads to.
        folder: a folder of frames is made, not a file.

    Yields:
        `made.part` in a hidden folder of the same file system, free for other things too, gone after the block.

    Raises:
        RequestError: something stands there that is never replaced.
        TakenError: the name is taken, perhaps since the block began.
        ConsistI2VError: the disk is full, the folder gone, or the like.
    """
    check_free(path, overwrite=overwrite, folder=folder)
    if overwrite and path.is_symlink():
        path = Path(os.path.realpath(path))  # the link stays
    _make_folder(path.parent)
    remove_leftovers(path.parent)
    name = f".{path.name[:40]}-{_place()}-{os.getpid()}-{secrets.token_hex(4)}.part"
    hidden = path.with_name(name)
    try:
        hidden.mkdir()
        made = hidden / "made.part"
        yield made
        check_free(path, overwrite=overwrite, folder=folder)
        if overwrite:
            with suppress(FileNotFoundError):
                made.chmod(stat.S_IMODE(path.stat().st_mode))
        if folder:
            _move_folder(made, path, overwrite=overwrite)
        else:
            _move_file(made, path, overwrite=overwrite)
    except OSError as error:
        raise ConsistI2VError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def check_free(path: Path, *, overwrite: bool, folder: bool) -> None:
    """Raise RequestError, or TakenError, if a film cannot get that name."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise RequestError(f"{path} is a link to something that is not there; name another output.") from None
        return
    except OSError as error:
        raise ConsistI2VError(f"{path} cannot be written: {error.strerror}.") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise RequestError(f"{path} is a device or a pipe, no file; name another output.")
    if not overwrite or (stat.S_ISDIR(mode) and not folder):
        raise TakenError(f"{path} exists already and is not overwritten.")
    if folder and stat.S_ISREG(mode):
        raise RequestError(f"{path} is a file, and frames need a folder; name another output.")
    if folder and (stranger := next((name for name in os.listdir(path) if not FRAME_NAME.fullmatch(name)), None)):
        raise RequestError(f"{path} holds {stranger}, which is no numbered frame; it is not overwritten.")


def remove_leftovers(folder: Path | str) -> None:
    """Remove what writers that were killed left in a folder, and put back what they were about to replace.

    A writer on this machine is gone when its process is; others after a day without a change.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        hidden = [entry.path for entry in entries if entry.name.startswith(".") and _HIDDEN.fullmatch(entry.name)]
        for path in map(Path, hidden):
            if not _is_abandoned(path):
                continue
            for kept in sorted((path / _OLD).glob("*")):
                if not os.path.lexists(path.with_name(kept.name)):
                    kept.rename(path.with_name(kept.name))
            shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(hidden: Path) -> bool:
    named = _HIDDEN.fullmatch(hidden.name)
    assert named
    if named["place"] == _place() and not _is_running(int(named["process"])):
        return True
    touched = max(entry.stat().st_mtime for entry in (hidden, *hidden.iterdir()))
    return time.time() - touched > _FORGOTTEN


def _is_running(process: int) -> bool:
    if sys.platform == "win32":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@cache
def _place() -> str:
    """Eight characters for the machine, or the container, whose process numbers are ours."""
    numbers = machine = ""
    with suppress(OSError):
        numbers = os.readlink("/proc/self/ns/pid")
    with suppress(OSError):
        machine = _MACHINE.read_bytes().hex()
    return hashlib.sha256(f"{platform.node()} {numbers} {machine}".encode()).hexdigest()[:8]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConsistI2VError(f"{folder} cannot be made: {error.strerror}.") from error


def _move_file(made: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        os.replace(made, path)
        return
    try:
        os.link(made, path)  # unlike a renaming it never replaces what another process put there
    except FileExistsError:
        raise TakenError(f"{path} exists already and is not overwritten.") from None
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        check_free(path, overwrite=False, folder=False)
        os.rename(made, path)


def _move_folder(made: Path, path: Path, *, overwrite: bool) -> None:
    """What stands there is kept in the hidden folder until the new one has its name."""
    old = made.parent / _OLD / path.name
    if overwrite and path.exists():
        old.parent.mkdir()
        os.rename(path, old)
    try:
        os.rename(made, path)  # fails where another process was faster: its folder is not empty
    except OSError:
        if path.exists():
            raise TakenError(f"{path} exists already and is not overwritten.") from None
        if old.exists():
            os.rename(old, path)
        raise


def frame_files(folder: Path) -> list[Path]:
    """The numbered PNG frames in a folder, in their order. RequestError where there are none."""
    try:
        names = [name for name in os.listdir(folder) if FRAME_NAME.fullmatch(name)]
    except OSError as error:
        raise RequestError(f"{folder} cannot be read: {error.strerror}.") from error
    if not names:
        raise RequestError(f"{folder} is a folder without frames (0001.png, 0002.png, ...).")
    return [folder / name for name in sorted(names, key=lambda name: int(name.removesuffix(".png")))]
