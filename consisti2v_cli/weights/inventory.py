"""What is on this machine: list the models, and remove them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from consisti2v_cli.errors import ConsistI2VError, RequestError, WeightsError

from .cache import forget, hub_cache, is_model, locked, read_reference, repositories, snapshot, snapshots, storage
from .folder import STEMS, ModelFolder, missing
from .hub import repository
from .registry import BUNDLED, MODELS, SMALL, local_folder
from .store import read_header


@dataclass(frozen=True)
class Inventoried:
    """A model on this machine."""

    model: str  # what --model takes
    path: Path
    bytes: int  # of the files in its folder
    dtypes: dict[str, tuple[str, ...]]  # of each part's weights: fp32, fp16, ...; empty for what is no model
    missing: tuple[str, ...]  # what it lacks to be whole
    repository: str | None = None
    revision: str | None = None  # the commit
    references: tuple[str, ...] = ()  # branches and tags that stand for it here


def list_models() -> list[Inventoried]:
    """The bundled model, and every one in the cache, complete or not."""
    found = [_inventory(SMALL, BUNDLED)]
    for repo, place in repositories():
        references = _references(place)
        name = next((name for name, known in MODELS.items() if known == repo), repo)
        for folder in filter(is_model, snapshots(place)):
            found.append(_inventory(name, folder, repo, references.get(folder.name, [])))
    return found


def describe(folder: ModelFolder) -> Inventoried:
    """A model that was found, as `list_models` has it."""
    if folder.revision is None:
        return _inventory(folder.name, folder.path)
    repo = repository(folder.name)
    return _inventory(folder.name, folder.path, repo, _references(storage(repo)).get(folder.revision))


def describe_files(name: str, folder: Path, wanted: Sequence[str], repo: str | None, commit: str | None) -> Inventoried:
    """Some files of a folder, as `list_models` has a model's: one in the snapshot of a commit, or (None) a person's."""
    here = [file for file in wanted if (folder / file).is_file()]
    return Inventoried(
        model=name,
        path=folder,
        bytes=sum((folder / file).stat().st_size for file in here),
        dtypes={},
        missing=tuple(file for file in wanted if file not in here),
        repository=repo if commit else None,
        revision=commit,
        references=tuple(_references(storage(repo)).get(commit, ())) if repo and commit else (),
    )


def remove_model(model: str, revision: str | None = None, on_notice: Callable[[str], None] = print) -> tuple[Path, int]:
    """Delete a model from the cache: all of it, or one revision and what no other needs.

    Returns:
        Its folder in the cache, and the bytes freed.

    Raises:
        RequestError: it is no repository, but a folder or part of the package.
        WeightsError: it is not in the cache.
        ConsistI2VError: not all of it could be removed.
    """
    if local_folder(model) is not None:
        why = "is part of the package" if model in MODELS else "is a folder of your own"
        raise RequestError(f"{model} {why}: only what is in the cache is removed.")
    return _remove_repository(model, repository(model), revision, on_notice)


def remove_files(
    name: str, repo: str, revision: str, files: Iterable[str], on_notice: Callable[[str], None] = print
) -> tuple[Path, int]:
    """Delete files of a repository's revision from the cache, and what then is empty; `name`: what a person calls them.

    Returns and raises as `remove_model`.
    """
    whole, place = storage(repo), snapshot(repo, revision)
    entries = [place / file for file in files if (place / file).is_file()] if place else []
    with locked(whole.name, lambda: on_notice(f"Another process is fetching {name}; waiting for it.")):
        freed = sum(forget(entry) for entry in entries)
        if place and not _has_files(place):
            shutil.rmtree(place, ignore_errors=True)
    if whole.is_dir() and not _has_files(whole / "snapshots"):  # at most what was never fetched to its end
        return place or whole, freed + _remove_repository(name, repo, None, on_notice)[1]
    if place is None or not entries:
        raise WeightsError(f"{name} is not in the cache.")
    return place, freed


def _has_files(folder: Path) -> bool:
    return any(entry.is_file() for entry in folder.rglob("*"))


def _remove_repository(
    name: str, repo: str, revision: str | None, on_notice: Callable[[str], None]
) -> tuple[Path, int]:
    """Delete a repository from the cache, all of it or one revision. Returns and raises as `remove_model`."""
    place = storage(repo)
    folder = snapshot(repo, revision) if revision else place
    if folder is None or not folder.is_dir():
        raise WeightsError(f"{name}{f' at {revision}' if revision else ''} is not in the cache.")
    with locked(place.name, lambda: on_notice(f"Another process is fetching {name}; waiting for it.")):
        freed = _delete(place, [folder.name] if revision else [entry.name for entry in snapshots(place)])
        if not revision:
            freed += _size(place)
            shutil.rmtree(place, ignore_errors=True)
    if folder.exists():
        raise ConsistI2VError(f"Not all of {folder} could be removed; is it yours?")
    return folder, freed


def _delete(place: Path, commits: list[str]) -> int:
    """Delete revisions as huggingface_hub does, which knows what several of them share. Returns the bytes freed."""
    from huggingface_hub import scan_cache_dir

    cache = scan_cache_dir(hub_cache())
    ours = frozenset(repo for repo in cache.repos if repo.repo_path == place.resolve())
    known = {revision.commit_hash for repo in ours for revision in repo.revisions}
    if not known.intersection(commits):
        return 0
    parts = _size(place, "*.incomplete") if known.issubset(commits) else 0
    strategy = replace(cache, repos=ours).delete_revisions(*known.intersection(commits))  # forks share commits
    strategy.execute()
    return parts + int(strategy.expected_freed_size)


def _size(place: Path, pattern: str = "*") -> int:
    files = place.rglob(pattern) if place.is_dir() else iter(())
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def _references(place: Path) -> dict[str, list[str]]:
    """For each commit, the branches and tags that stand for it."""
    found: dict[str, list[str]] = {}
    for file in sorted((place / "refs").rglob("*")):
        if not file.name.startswith(".") and (commit := read_reference(file)):
            found.setdefault(commit, []).append(file.relative_to(place / "refs").as_posix())
    return found


def _inventory(name: str, folder: Path, repo: str | None = None, references: list[str] | None = None) -> Inventoried:
    files = [entry for entry in folder.rglob("*") if entry.is_file() and not entry.name.startswith(".")]
    weights = {part: [file for file in files if file.parent == folder / part] for part in STEMS}
    return Inventoried(
        model=name,
        path=folder,
        bytes=sum(file.stat().st_size for file in files),
        dtypes={part: _precisions(files) for part, files in weights.items()},
        missing=tuple(missing(folder)),
        repository=repo,
        revision=folder.name if repo else None,
        references=tuple(references or ()),
    )


def _precisions(files: list[Path]) -> tuple[str, ...]:
    found: set[str] = set()
    for file in files:
        if file.suffix == ".safetensors":
            try:
                found |= read_header(file).precisions
            except WeightsError:
                found.add("damaged")
    return tuple(sorted(found, reverse=True))
