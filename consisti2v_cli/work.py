"""Long clips that are not done yet: the work folders that hold their finished chunks. No torch.

A work folder belongs to one film: its name comes from all that its frames depend on. Chunks appear in it whole, one
file each for latents and frames, so that a process may be killed at any moment; files that turn out to be damaged are
as good as missing. One process at a time works on a film; it holds a lock that ends with the process.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from consisti2v_cli.errors import ConsistI2VError, RequestError
from consisti2v_cli.recipe import Recipe, from_json, to_dict, to_json
from consisti2v_cli.state import locks_folder, state_folder
from consisti2v_cli.version import __version__
from consisti2v_cli.weights.folder import STEMS, ModelFolder, weight_files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KEPT_FOR = 30 * 86_400  # seconds after which nobody is expected to come back for an unfinished film
NOTES = "film.json"
WAITING = 0.5  # seconds between two looks at another process's lock

_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, SyntaxError)  # what unreadable chunks raise
# Fields that change the file, and not the frames; the command's own defaults stand for them in the folder's name.
_OF_THE_FILE = ("fps", "smooth", "quality", "max_size", "join", "audio")

OnNotice = Callable[[str], None]


@dataclass(frozen=True)
class Unfinished:
    """A long clip that was begun, and not yet ended."""

    folder: Path
    recipe: Recipe
    done: int  # chunks
    touched: float  # when its last chunk was finished, in seconds since 1970
    size: int  # bytes
    first_seed: int  # of the run that it belongs to; that of its first variation


class Work:
    """The finished chunks of one film. Made by `working`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def latents(self, chunk: int) -> NDArray[np.float32] | None:
        """The latents `c f h w` of a chunk, counted from 1; None where there are none that can be read."""
        import numpy as np

        try:
            with np.load(self._path(chunk, "latents.npz"), allow_pickle=False) as stored:
                latents: NDArray[np.float32] = stored["latents"]
        except _DAMAGED:
            return None
        return latents

    def keep_latents(self, chunk: int, latents: NDArray[np.float32]) -> None:
        """Keep a chunk's latents, `c f h w`. ConsistI2VError where that cannot be."""
        with self._appearing(self._path(chunk, "latents.npz")) as file:
            _write_array(file, latents)

    def frames(self, chunk: int) -> list[bytes] | None:
        """The frames of a chunk as lossless WebP, for `read_frame`; None where there are none that can be read."""
        try:
            with zipfile.ZipFile(self._path(chunk, "frames.zip")) as stored:
                return [stored.read(name) for name in stored.namelist()]
        except _DAMAGED:
            return None

    def keep_frames(self, chunk: int, frames: Sequence[bytes]) -> None:
        """Keep a chunk's frames, from `packed_frame`. ConsistI2VError where that cannot be."""
        with self._appearing(self._path(chunk, "frames.zip")) as file, zipfile.ZipFile(file, "w") as stored:
            for number, frame in enumerate(frames, start=1):
                stored.writestr(zipfile.ZipInfo(f"{number:04}.webp"), frame)  # without the clock: ZIP begins in 1980

    def done(self) -> int:
        """How many chunks are there, from the first one on without a gap."""
        count = 0
        while self._path(count + 1, "latents.npz").is_file():
            count += 1
        return count

    def outputs(self, request: str) -> list[Path] | None:
        """The files that were chosen for this film when the same was asked for, `request`, before; None without."""
        notes = _read_notes(self.folder) or {}
        paths = notes.get("outputs")
        if notes.get("request") != request or not isinstance(paths, list):
            return None
        return [Path(path) for path in paths]

    def note(self, recipe: Recipe, *, first_seed: int, request: str, outputs: Sequence[Path]) -> None:
        """Write down what is being made here.

        Args:
            recipe: of the film, resolved.
            first_seed: that of the run's first variation.
            request: what was asked for in the way of files, as text.
            outputs: the files that were chosen for it.

        Raises:
            ConsistI2VError: that cannot be written.
        """
        notes = {
            "recipe": to_json(recipe),
            "first_seed": first_seed,
            "request": request,
            "outputs": [str(path) for path in outputs],
        }
        with self._appearing(self.folder / NOTES) as file:
            file.write(json.dumps(notes).encode())

    def clear(self) -> None:
        """The film is done: its chunks are not needed any more. The notes stay. Never fails."""
        with suppress(OSError):
            for file in list(self.folder.iterdir()):
                if file.name != NOTES:
                    with suppress(OSError):
                        file.unlink()

    def remove(self) -> None:
        """Nothing of it is needed any more. Never fails."""
        _remove(self.folder)

    def _path(self, chunk: int, kind: str) -> Path:
        return self.folder / f"{chunk:05}.{kind}"

    @contextmanager
    def _appearing(self, path: Path) -> Iterator[IO[bytes]]:
        """A file that appears under its name only when it is whole."""
        temporary = path.with_name(f".{secrets.token_hex(4)}.part")
        try:
            with temporary.open("wb") as file:
                yield file
            os.replace(temporary, path)
        except OSError as error:
            raise ConsistI2VError(
                f"The chunks of the film cannot be kept in {self.folder}: {error.strerror}. CONSISTI2V_STATE names "
                "another folder for them; those that are finished are kept, and the same command goes on from there."
            ) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _write_array(file: IO[bytes], latents: NDArray[np.float32]) -> None:
    """What `numpy.savez` writes, without the clock's time: ZIP begins in 1980."""
    from numpy.lib.format import write_array

    with (
        zipfile.ZipFile(file, "w") as stored,
        stored.open(zipfile.ZipInfo("latents.npy"), "w", force_zip64=True) as entry,
    ):
        write_array(entry, latents, allow_pickle=False)


def packed_frame(frame: NDArray[np.uint8]) -> bytes:
    """A frame `h w 3` as lossless WebP: less than half of its bytes, in a few milliseconds."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, "WEBP", lossless=True, quality=0, method=0)
    return buffer.getvalue()


def read_frame(packed: bytes) -> NDArray[np.uint8]:
    """The frame `h w 3` of `packed_frame`."""
    import numpy as np
    from PIL import Image

    with Image.open(BytesIO(packed)) as image:
        return np.asarray(image.convert("RGB"))


@contextmanager
def working(recipe: Recipe, model: ModelFolder, notice: OnNotice | None = None) -> Iterator[Work]:
    """The work folder of a film, made if it is not there, for this process alone until the block ends.

    Args:
        recipe: of the film, resolved.
        model: that makes it.
        notice: called with a sentence if another process is at work on the same film, and has to be waited for.

    Where the state folder cannot be written, it is a temporary folder, and that is said.
    """
    from filelock import FileLock, Timeout

    name = work_name(recipe, model)
    folder = chunks_folder() / name
    say = notice or _ignore
    with ExitStack() as stack:
        try:
            lock = FileLock(locks_folder() / f"chunks-{name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                say("Another process is making this film; waiting for it to end.")
                lock.acquire(poll_interval=WAITING)
            stack.callback(lock.release)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.callback(_remove_empty, folder)
        except OSError as error:
            say(
                f"The chunks cannot be kept in {folder} ({error.strerror or error}): an interrupted clip has to be "
                "made anew. CONSISTI2V_STATE names another folder for them."
            )
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="consisti2v-")))
        yield Work(folder)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _ignore(_: str) -> None:
    pass


def chunks_folder() -> Path:
    """Where the work folders are. Not made."""
    return state_folder() / "chunks"


def work_name(recipe: Recipe, model: ModelFolder) -> str:
    """The name of a film's work folder: a hash of all that its frames depend on but the seed, and the seed."""
    return f"{_hash(recipe, model)}-{recipe.seed}"


def find_unfinished(recipe: Recipe, model: ModelFolder) -> Unfinished | None:
    """The unfinished film that differs from a recipe in nothing but the seed, and that no process works on: the newest
    one.
    """
    same = f"{_hash(recipe, model)}-"
    found = [film for film in unfinished() if film.folder.name.startswith(same) and not _in_use(film.folder)]
    return max(found, key=lambda film: film.touched, default=None)


def unfinished() -> list[Unfinished]:
    """The long clips that were begun and not ended, those that are being made now included; the newest first."""
    films: list[Unfinished] = []
    with suppress(OSError):
        for folder in chunks_folder().iterdir():
            if not folder.name.startswith("."):
                with suppress(OSError, RequestError):
                    films += _described(folder)
    return sorted(films, key=lambda film: -film.touched)


def remove_ended(folder: Path) -> None:
    """Remove the work folder of a film that is done, unless another process begins it anew. Never fails."""
    with suppress(OSError), _held(folder.name) as held:
        if held and [file.name for file in folder.iterdir()] == [NOTES]:
            _remove(folder)


def remove_forgotten(older_than: float = KEPT_FOR) -> None:
    """Remove unfinished films that nobody came back for within so many seconds, and their locks. Never fails."""
    limit = time.time() - older_than
    with suppress(OSError):
        for folder in list(chunks_folder().iterdir()):
            with suppress(OSError):
                if folder.name.startswith("."):
                    _remove(folder)
                elif _touched(folder) < limit:
                    with _held(folder.name) as held:
                        if held and _touched(folder) < limit:  # still: it may just have been gone on with
                            _remove(folder)
    with suppress(OSError):
        for lock in list((state_folder() / "locks").glob("chunks-*.lock")):
            with suppress(OSError):
                name = lock.name[len("chunks-") : -len(".lock")]
                if lock.stat().st_mtime < limit and not (chunks_folder() / name).exists():
                    with _held(name) as held:
                        if held and not (chunks_folder() / name).exists():
                            lock.unlink()


def _described(folder: Path) -> Iterator[Unfinished]:
    notes = _read_notes(folder)
    if notes is not None:
        size = sum(file.stat().st_size for file in folder.iterdir())
        recipe = from_json(notes["recipe"])
        yield Unfinished(folder, recipe, Work(folder).done(), _touched(folder), size, notes["first_seed"])


def _read_notes(folder: Path) -> dict[str, Any] | None:
    try:
        notes = json.loads((folder / NOTES).read_bytes())
    except (OSError, ValueError):
        return None
    whole = isinstance(notes, dict) and isinstance(notes.get("recipe"), str) and type(notes.get("first_seed")) is int
    return notes if whole else None


def _touched(folder: Path) -> float:
    return max((file.stat().st_mtime for file in folder.iterdir()), default=folder.stat().st_mtime)


def _in_use(folder: Path) -> bool:
    with _held(folder.name) as held:
        return not held


@contextmanager
def _held(name: str) -> Iterator[bool]:
    """The lock of a work folder, held until the block ends; False if another process has it, or it cannot be had."""
    from filelock import FileLock, Timeout

    try:
        lock = FileLock(locks_folder() / f"chunks-{name}.lock")
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _remove(folder: Path) -> None:
    """First out of the way, in one go: half of a work folder is never taken for a whole one."""
    doomed = folder.with_name(f".{secrets.token_hex(8)}.removed")
    with suppress(OSError):
        os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _hash(recipe: Recipe, model: ModelFolder) -> str:
    """Of all that frames depend on but the seed: the recipe, the model's files, the libraries and the machine."""
    plain = Recipe(prompt="", seed=0)
    recipe = replace(recipe, versions={}, seed=0, **{name: getattr(plain, name) for name in _OF_THE_FILE})
    known = [to_dict(recipe), _weights(model), _machine()]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:24]


def _weights(model: ModelFolder) -> list[Any]:
    """What tells a model's files from those of another model, or of another version of it."""
    files = [file for part in STEMS for file in weight_files(model, part)]
    return [str(model.path.resolve()), *([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files)]


def _machine() -> list[Any]:
    """What the last bits of a result depend on: libraries, processors, and how many threads share the work."""
    libraries = [__version__, *(version(package) for package in ("torch", "diffusers", "transformers", "pillow"))]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = [os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")]
    return [libraries, platform.system(), platform.machine(), _processors(), cores, threads]


def _processors() -> list[str]:
    """The names of the processor and of the graphics cards, where the system tells them."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        names = {line for line in lines if line.startswith(("model name", "CPU part"))}
        cards = Path("/proc/driver/nvidia/gpus").glob("*/information")
        models = [line for card in cards for line in card.read_text().splitlines() if line.startswith("Model")]
        return [*sorted(names), *models]
    return [platform.processor(), platform.node()]
