"""Find models on this machine, without a network; and fetch those that are not here from the hub."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from consisti2v_cli.errors import RequestError, WeightsError

from .folder import STEMS, TOKENIZER_FILES, ModelFolder, convertible, missing, pick_weights
from .registry import BUNDLED, FULL, MODELS, SMALL, hub_repo, local_folder

Progress = Callable[[str, int, int], None]  # file, bytes done of all files, bytes of all files
Notice = Callable[[str], None]

DEFAULT_REVISION = "main"


class _UnreachableError(Exception):
    """The hub was not reached, or not to the end."""


def find(model: str, revision: str | None = None) -> ModelFolder | None:
    """The folder of a model if all of it is on this machine. Never asks the network, imports no torch.

    Args:
        model: a name of `MODELS`, a folder, or a hub repository `owner/name`.
        revision: branch, tag or commit of a hub repository; its main branch by default.
    """
    folder = _place(model, revision)
    return folder if folder and not missing(folder.path) else None


def require(model: str, revision: str | None = None) -> ModelFolder:
    """Like `find`, but what is not here is an error.

    Raises:
        RequestError: `model` is no name, no folder and no repository.
        WeightsError: it is not on this machine, or not all of it: says what is missing and how to get it.
    """
    folder = _place(model, revision)
    if folder is None:
        raise WeightsError(f"The weights of {model} are not on this machine; run: {_fetch_command(model, revision)}")
    lacking = missing(folder.path)
    if not lacking:
        return folder
    bins = [f"{part}/{name}" for part in STEMS for name in convertible(_names(folder.path / part), part)]
    if bins:
        raise WeightsError(
            f"The model {model} has {', '.join(bins)}, which rendering does not read; "
            f"convert to safetensors once: {_fetch_command(model, revision)}"
        )
    if folder.path == BUNDLED:
        raise WeightsError(f"The bundled model lacks {', '.join(lacking)}: install consisti2v-cli again.")
    what = f"The model {model} is not complete: {', '.join(lacking)} missing"
    if hub_repo(model) and local_folder(model) is None:
        raise WeightsError(f"{what}; run: {_fetch_command(model, revision)}")
    raise WeightsError(f"{what} in {folder.path}.")


def choose() -> str:
    """The model to use where none was asked for: the released one if its weights are here, else the bundled one."""
    return FULL if find(FULL) else SMALL


def fetch(
    model: str,
    *,
    revision: str | None = None,
    on_progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> ModelFolder:
    """Download what is missing of a model into the hub cache, and convert parts that exist only as `.bin`.

    A folder on this machine is only converted. Files in the cache are not downloaded again; with all of them there,
    the hub need not be reached.

    Args:
        model, revision: as in `find`.
        on_progress: called with a file's name, the bytes done of all files, and the bytes of all files.
        on_notice: called with a sentence about anything out of the ordinary, such as a conversion.

    Raises:
        RequestError: `model` is no name, no folder and no repository.
        WeightsError: the hub cannot be reached, has no such model, or the model lacks a part.
    """
    notice = on_notice or _ignore
    if local_folder(model) is None:
        try:
            _download(model, revision or DEFAULT_REVISION, on_progress or _ignore)
        except _UnreachableError as error:
            if find(model, revision) is None:
                raise WeightsError(str(error)) from error
            notice(f"{error} The cache has all of it; that is used.")
    folder = _place(model, revision)
    if folder is None:
        raise WeightsError(f"{model} was downloaded but is not in the cache; is HF_HUB_CACHE writable?")
    _convert(folder.path, notice)
    return require(model, revision)


def _place(model: str, revision: str | None) -> ModelFolder | None:
    """Where a model lies or would lie; None for a repository that is not in the cache. RequestError for nonsense."""
    folder = local_folder(model)
    if folder is not None:
        return ModelFolder(folder, model if model in MODELS else folder.resolve().name)
    repo = hub_repo(model)
    if repo is None:
        raise RequestError(
            f"--model {model} is neither a name ({', '.join(MODELS)}), nor a folder, nor a hub repository owner/name."
        )
    snapshot = _snapshot(repo, revision or DEFAULT_REVISION)
    return ModelFolder(snapshot, model, snapshot.name) if snapshot else None


def _snapshot(repo: str, revision: str) -> Path | None:
    """A repository's folder in the hub cache: `models--owner--name/snapshots/COMMIT`, `refs/BRANCH` names the commit.

    Looked up by hand: `snapshot_download(local_files_only=True)` refuses a snapshot of which only some files are here,
    and of a repository only those that are needed are.
    """
    from huggingface_hub import constants

    storage = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    reference = storage / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = storage / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def _download(model: str, revision: str, on_progress: Progress) -> None:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    repo = hub_repo(model)
    if repo is None:
        _place(model, revision)  # raises
        return
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it speaks through `on_progress`
    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        wanted = needed_files(sizes)
        counter = _Counter(sum(sizes[name] for name in wanted), on_progress)
        for name in wanted:
            hf_hub_download(repo, name, revision=revision, tqdm_class=counter.bar(name))
            counter.complete(name, sizes[name])
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise _UnreachableError(f"{model} cannot be fetched: {_first_line(error)}") from error
    except HfHubHTTPError as error:
        raise WeightsError(f"The hub does not give out {repo} at {revision}: {_first_line(error)}") from error
    except WeightsError:
        raise
    except Exception as error:  # whatever the hub client's HTTP library raises, which changes between its versions
        message = f"{model} cannot be fetched ({_first_line(error)}); run the same again to go on."
        raise _UnreachableError(message) from error


def needed_files(names: Iterable[str]) -> list[str]:
    """Of all files of a repository, those that rendering needs. WeightsError naming the parts that it lacks."""
    folders: dict[str, list[str]] = {}
    for name in names:
        place, _, file = name.rpartition("/")
        folders.setdefault(place, []).append(file)
    wanted = [file for file in folders.get("", []) if file in ("consisti2v.json", "model_index.json")]
    lacking = []
    for part in STEMS:
        inside = folders.get(part, [])
        weights = pick_weights(inside, part) or pick_weights(inside, part, "bin")
        if not weights or "config.json" not in inside:
            lacking.append(part)
        wanted += [f"{part}/{file}" for file in ("config.json", *weights)]
    inside = folders.get("tokenizer", [])
    if not any(files <= set(inside) for files in TOKENIZER_FILES):
        lacking.append("tokenizer")
    if lacking:
        raise WeightsError(f"The repository is no whole model: {', '.join(lacking)} missing.")
    wanted += [f"tokenizer/{file}" for file in inside if file.endswith((".json", ".txt"))]
    wanted += [f"scheduler/{file}" for file in folders.get("scheduler", []) if file.endswith(".json")]
    return wanted


class _Counter:
    """Adds up the bytes of several downloads, each of which the hub client reports to a progress bar of its own."""

    def __init__(self, total: int, on_progress: Progress) -> None:
        self.total = total
        self.on_progress = on_progress
        self.finished = 0

    def bar(self, name: str) -> type[Any]:
        """A class of progress bars that report to this counter."""
        from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

        counter = self

        class Bar(tqdm):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **(kwargs | {"disable": True}))  # type: ignore[no-untyped-call]
                self.bytes = int(kwargs.get("initial") or 0)

            def update(self, n: float | None = 1) -> None:
                self.bytes += int(n or 0)
                counter.on_progress(name, counter.finished + self.bytes, counter.total)

        return Bar

    def complete(self, name: str, size: int) -> None:
        """Note that a file is here, downloaded now or before."""
        self.finished += size
        self.on_progress(name, self.finished, self.total)


def _convert(folder: Path, on_notice: Notice) -> None:
    """Write safetensors beside the `.bin` files of the parts that have nothing else."""
    for part in STEMS:
        bins = convertible(_names(folder / part), part)
        if bins:
            from .convert import convert_part

            written = convert_part(folder / part, part, bins)
            on_notice(f"Converted {part}/{', '.join(bins)} to safetensors: {', '.join(written)}")


def _names(place: Path) -> Sequence[str]:
    return [entry.name for entry in place.iterdir()] if place.is_dir() else []


def _fetch_command(model: str, revision: str | None) -> str:
    other = revision not in (None, DEFAULT_REVISION)
    return f"consisti2v fetch-weights {model}" + (f" --revision {revision}" if other else "")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _ignore(*_: object) -> None:
    pass
