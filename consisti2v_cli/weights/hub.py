"""Find models on this machine, without a network; and bring those here that are not, from the hub."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from consisti2v_cli.errors import RequestError, WeightsError

from . import fetching
from .cache import check_revision, full_disk_in_words, hub_cache, locked, snapshot, storage
from .download import UnreachableError
from .folder import HALVES, STEMS, ModelFolder, convertible, file_names, missing
from .registry import BUNDLED, FULL, MODELS, SMALL, hub_repo, local_folder

Progress = Callable[[str, int, int], None]  # stage, bytes done of all files, bytes of all files
Notice = Callable[[str], None]

DEFAULT_REVISION = "main"
DTYPES = ("fp32", *HALVES)


def find(model: str, revision: str | None = None) -> ModelFolder | None:
    """The folder of a model if all of it is on this machine. Never asks the network, imports no torch.

    Args:
        model: a name of `MODELS`, a folder, or a hub repository `owner/name`.
        revision: branch, tag or commit of a hub repository; its main branch by default.
    """
    folder = locate(model, revision)
    return folder if folder and not missing(folder.path) else None


def require(model: str, revision: str | None = None) -> ModelFolder:
    """Like `find`, but what is not here is an error.

    Raises:
        RequestError: `model` is no name, no folder and no repository.
        WeightsError: it is not on this machine, or not all of it: says what is missing and how to get it.
    """
    folder = locate(model, revision)
    if folder is None:
        raise WeightsError(f"The weights of {model} are not on this machine; run: {fetch_command(model, revision)}")
    lacking = missing(folder.path)
    if not lacking:
        return folder
    bins = [f"{part}/{name}" for part in STEMS for name in convertible(file_names(folder.path / part), part)]
    if bins:
        raise WeightsError(
            f"The model {model} has {', '.join(bins)}, which rendering does not read; "
            f"convert to safetensors once: {fetch_command(model, revision)}"
        )
    if folder.path == BUNDLED:
        raise WeightsError(f"The bundled model lacks {', '.join(lacking)}: install consisti2v-cli again.")
    what = f"The model {model} is not complete: {', '.join(lacking)} missing"
    if hub_repo(model) and local_folder(model) is None:
        raise WeightsError(f"{what}; run: {fetch_command(model, revision)}")
    raise WeightsError(f"{what} in {folder.path}.")


def choose() -> str:
    """The model to use where none was asked for: the released one if its weights are here, else the bundled one."""
    return FULL if find(FULL) else SMALL


def locate(model: str, revision: str | None = None) -> ModelFolder | None:
    """Where a model lies, complete or not; None for a repository that is not in the cache.

    Raises:
        RequestError: `model` is no name, no folder and no repository, or the revision no name of one.
    """
    folder = local_folder(model)
    if folder is not None:
        return ModelFolder(folder, model if model in MODELS else folder.resolve().name)
    place = snapshot(repository(model), revision or DEFAULT_REVISION)
    return ModelFolder(place, model, place.name) if place else None


def repository(model: str) -> str:
    """The hub repository that a name stands for. RequestError where it is none."""
    repo = hub_repo(model)
    if repo is None:
        names = ", ".join(MODELS)
        raise RequestError(
            f"The model {model!r} is neither a name ({names}), nor a folder, nor a hub repository owner/name."
        )
    return repo


def fetch(
    model: str,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    drop_originals: bool = False,
    on_progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> ModelFolder:
    """Bring a model here, whole and right: download what is missing, check what there is, convert what is `.bin`.

    A folder on this machine is only converted. With all of a repository in the cache, the hub need not be reached.
    A download that was killed goes on where it stopped.

    Args:
        model, revision: as in `find`.
        dtype: `fp16` or `bf16`: keep network and text encoder in half precision too, as the hub has them or made
            here. `fp32`: the originals, even where they were dropped. By default what the hub has in full precision,
            and nothing again that was dropped.
        drop_originals: remove the full precision of what is kept in half precision.
        on_progress: called with the stage (`checking`, `downloading`, `halving`), the bytes done of all its files,
            and the bytes of all its files.
        on_notice: called with a sentence about anything out of the ordinary, such as a wait or a conversion.

    Raises:
        RequestError: `model` is no name, no folder and no repository, or the rest does not suit it.
        WeightsError: the hub cannot be reached, does not give the model out, or the model lacks a part; or it is
            damaged, and comes damaged again.
        ConsistI2VError: the disk is full, or the cache cannot be written.
    """
    report, notice = on_progress or _ignore, on_notice or _ignore
    _check_request(model, revision, dtype, drop_originals)
    folder, here = local_folder(model), find(model, revision)
    half = dtype if dtype in HALVES else None
    if folder and here and half is None:
        return here
    if here and half is None and not os.access(hub_cache(), os.W_OK) and not fetching.in_other(here.path, dtype):
        notice(f"The cache {hub_cache()} cannot be written; what it has of {model} is used.")
        return here
    waiting = f"Another process is fetching {model}; waiting for it."
    with locked(_lock_name(model), lambda: notice(waiting), cached=folder is None), full_disk_in_words():
        if folder:
            fetching.check_space_for_copies(folder, half)
        place = folder or _bring(model, revision, dtype, report, notice)
        fetching.convert(place, notice)
        if half:
            fetching.halve(place, half, report, notice)
        if half and drop_originals:
            fetching.drop(place, half, notice)
    return require(model, revision)


def find_files(repo: str, revision: str, names: Iterable[str]) -> Path | None:
    """The folder in the cache that has all of some files of a repository. Never asks the network, imports no torch."""
    place = snapshot(repo, revision)
    return place if place and all((place / name).is_file() for name in names) else None


def fetch_files(
    name: str,
    repo: str,
    revision: str,
    hashes: Mapping[str, str],
    *,
    on_progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> Path:
    """Bring some files of a repository here, right, as `fetch` does with a model's.

    Args:
        name: what a person calls them, and fetches them by.
        repo, revision: `owner/name`; branch, tag or commit.
        hashes: for each file the sha256 that it must have; "" where the hub's own hash decides.
        on_progress, on_notice: as in `fetch`.

    Returns:
        The snapshot's folder, which may have other files too.

    Raises:
        WeightsError: as in `fetch`; or a file is not the one that is known. It does not stay here.
        ConsistI2VError: as in `fetch`.
    """
    report, notice = on_progress or _ignore, on_notice or _ignore
    here = find_files(repo, revision, hashes)
    if here and not os.access(hub_cache(), os.W_OK):
        notice(f"The cache {hub_cache()} cannot be written; what it has of {name} is used.")
        return here
    waiting = f"Another process is fetching {name}; waiting for it."
    with locked(storage(repo).name, lambda: notice(waiting)), full_disk_in_words():
        here = find_files(repo, revision, hashes)
        try:
            return fetching.bring_files(repo, revision, hashes, here is None, report, notice)
        except UnreachableError as error:
            place = _whole(name, fetch_command(name), here, error, report)
            notice(f"{error}. The cache has all of {name}; that is used.")
            return place


def _bring(model: str, revision: str | None, dtype: str | None, report: Progress, notice: Notice) -> Path:
    """The folder of a repository in the cache, from the hub; or what is there already, where the hub is not reached."""
    here = find(model, revision)
    try:
        return fetching.bring(repository(model), revision or DEFAULT_REVISION, dtype, here is None, report, notice)
    except UnreachableError as error:
        again = fetch_command(model, revision)
        place = _whole(model, again, here.path if here else None, error, report)
        if parts := fetching.in_other(place, dtype):
            what = f"{' and '.join(parts)} of {model} cannot be had in {dtype} from what is in the cache"
            raise WeightsError(f"{what}, and {error}; to go on, run: {again} --dtype {dtype}") from None
        notice(f"{error}. The cache has all of {model}; that is used.")
        return place


def _whole(name: str, again: str, here: Path | None, error: UnreachableError, report: Progress) -> Path:
    """The folder in the cache, where the hub is not reached. WeightsError where it is not all there, and right."""
    if here is None:
        raise WeightsError(f"{name} is not all in the cache, and {error}; to go on, run: {again}") from None
    if damaged := fetching.check_cached(here, report):
        raise WeightsError(f"{name} has damaged files ({', '.join(damaged)}), and {error}.") from None
    return here


def _check_request(model: str, revision: str | None, dtype: str | None, drop_originals: bool) -> None:
    """RequestError for what does not go together, before anything is asked or written."""
    if dtype not in (None, *DTYPES):
        raise RequestError(f"dtype is {dtype!r}; possible: {', '.join(DTYPES)}.")
    if drop_originals and dtype not in HALVES:
        raise RequestError(f"Originals are dropped only where copies are kept; name a dtype: {', '.join(HALVES)}.")
    folder = local_folder(model)
    if folder is None:
        repository(model)
        check_revision(revision or DEFAULT_REVISION)
    elif revision:
        raise RequestError(f"{model} is a folder on this machine: it has no revision {revision!r}.")
    elif folder == BUNDLED and dtype:
        raise RequestError(f"{model} is part of the package and stays as it is; dtype {dtype} is for other models.")
    elif drop_originals:
        raise RequestError(f"{model} is a folder of your own: nothing in it is removed. Do so by hand.")


def _lock_name(model: str) -> str:
    """Under which the cache is locked while a model is worked on; the same for all names of it."""
    folder = local_folder(model)
    if folder is None:
        return storage(repository(model)).name
    return "folder--" + hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]


def fetch_command(model: str, revision: str | None = None) -> str:
    """What a person types to bring a model here."""
    other = revision not in (None, DEFAULT_REVISION)
    return f"consisti2v fetch-weights {model}" + (f" --revision {revision}" if other else "")


def mend_command(folder: ModelFolder) -> str:
    """What a person types to check a model of the cache, and to fetch again what is damaged."""
    main = locate(folder.name)
    return fetch_command(folder.name, None if main and main.revision == folder.revision else folder.revision)


def _ignore(*_: object) -> None:
    pass
