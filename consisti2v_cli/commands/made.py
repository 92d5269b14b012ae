"""Which clips of a run are made already: files under the run's names that carry the planned recipe."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from consisti2v_cli.commands.options import FORMATS
from consisti2v_cli.commands.output import FOLDERS, key, same_name
from consisti2v_cli.commands.plan import Job, Order, Settler
from consisti2v_cli.errors import ConsistI2VError
from consisti2v_cli.recipe import Recipe, same_clip

Groups = dict[tuple[str, str], list[str]]  # name without number and suffix, format: the names, lowest numbers first


@dataclass(frozen=True)
class Found:
    """A file that is made already."""

    path: Path
    recipe: Recipe  # in it


@dataclass
class Made:
    """Finds what is made already. A file stands for one clip of the run only."""

    since: float | None = None  # only files written after that time count: where everything is made again
    _taken: dict[Path, Path] = field(default_factory=dict)  # file: the first name of the clip that it stands for
    _folders: dict[Path, Groups] = field(default_factory=dict)

    def look(self, job: Job, *, again: bool = False) -> dict[str, Found]:
        """The files of a clip that are there, by format.

        Args:
            job: settled, with all of its reserved paths.
            again: look into the folder anew: others may have written to it.
        """
        found = {}
        for path in job.paths:
            format = job.outputs.names.given[path][1]
            for candidate in self._candidates(path, format, job, again=again):
                recipe = self._recipe(candidate)
                if recipe is not None and same_clip(recipe, job.recipe, any_seed=job.wish.any_seed):
                    found[format] = Found(candidate, recipe)
                    self._taken[candidate] = job.paths[0]
                    break
        return found

    def _candidates(self, path: Path, format: str, job: Job, *, again: bool) -> Iterator[Path]:
        """Files with a clip's name and any number, but those that other clips of the run have."""
        names = job.outputs.names
        stem = Path(names.given[path][0])
        own = set(map(key, job.paths))
        for name in self._listing(stem.parent, again=again).get((same_name(stem.name), _suffix(format)), []):
            candidate = stem.with_name(name)
            is_given = key(candidate) in names.keys and key(candidate) not in own
            if not is_given and self._taken.get(candidate, job.paths[0]) == job.paths[0]:
                yield candidate

    def _listing(self, folder: Path, *, again: bool) -> Groups:
        if again or folder not in self._folders:
            groups: dict[tuple[str, str], list[tuple[int, str]]] = {}
            with suppress(OSError):
                for name in os.listdir(folder):
                    for stem, number, format in _readings(name):
                        groups.setdefault((same_name(stem), format), []).append((number, name))
            self._folders[folder] = {group: [name for _, name in sorted(names)] for group, names in groups.items()}
        return self._folders[folder]

    def _recipe(self, path: Path) -> Recipe | None:
        with suppress(OSError):
            if self.since is None or path.stat().st_mtime >= self.since:
                return recipe_in(path)
        return None


def seed_before(orders: Sequence[Order], settler: Settler) -> int | None:
    """The seed with which an earlier start of the same run began, from a clip that it left; None where it left none."""
    for order in orders:
        if order.draft is None or not order.wish.any_seed:
            continue
        outputs = order.wish.outputs
        for path in map(Path, glob.iglob(outputs.pattern(order.draft, order.wish.input.stem))):
            recipe = recipe_in(path)
            with suppress(ConsistI2VError):
                if recipe and same_clip(recipe, settler.settle(order, thorough=False).recipe, any_seed=True):
                    seed = recipe.seed - (order.draft.seed - int(order.wish.values["seed"]))
                    if seed >= 0:
                        return seed
    return None


def recipe_in(path: Path) -> Recipe | None:
    """The recipe of a file that may be anything; None where it has none. Read again only when it changes."""
    with suppress(OSError):
        state = path.stat()
        return _recipe_at(path, state.st_mtime_ns, state.st_size, state.st_ino)
    return None


@lru_cache(maxsize=100_000)
def _recipe_at(path: Path, *_state: int) -> Recipe | None:
    """The recipe of a file in a state of it."""
    from consisti2v_cli.commands.info import carried

    with suppress(ConsistI2VError, OSError):
        return carried(path)
    return None


def _readings(name: str) -> Iterator[tuple[str, int, str]]:
    """What a file's name may be: 'boat-2.mp4' is number 2 of boat, or number 1 of boat-2."""
    stem, _, suffix = name.rpartition(".")
    format = suffix.lower()
    if not stem or format not in FORMATS or format in FOLDERS:
        stem, format = name, ""
    yield stem, 1, format
    if numbered := re.fullmatch(r"(.+)-([1-9]\d{0,8})", stem):
        yield numbered[1], int(numbered[2]), format


def _suffix(format: str) -> str:
    return "" if format in FOLDERS else format
