"""Where clips go: names from templates, formats, and free numbers."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Sequence
from pathlib import Path

from consisti2v_cli.commands.options import FORMATS
from consisti2v_cli.errors import RequestError
from consisti2v_cli.recipe import Recipe

FIELDS = ("name", "seed", "prompt", "command", "n")
STANDARD_OUTPUT = "-"


class Outputs:
    """Hands out the output files of one run, no name twice."""

    def __init__(self, output: str, formats: Sequence[str], *, overwrite: bool, metadata: bool = True) -> None:
        """
        Args:
            output: file, folder, template or `-`, as given with -o.
            formats: as given with -f; none: by the suffix of `output`.
            overwrite: existing files may be replaced; else the next free number is added.
            metadata: the files carry their recipe.

        Raises:
            RequestError: unknown template field, unknown suffix, several formats to standard output.
        """
        self.to_stdout = output == STANDARD_OUTPUT
        self.overwrite = overwrite
        self.metadata = metadata
        self._given: dict[Path, str] = {}  # file: its name without number and suffix
        self._clips = 0
        if self.to_stdout:
            if len(formats) > 1:
                raise RequestError(f"-o - takes one format, not {len(formats)}: {', '.join(formats)}.")
            self.template, self.formats = "{name}", list(formats) or [FORMATS[0]]
            return
        if Path(output).is_dir() or output.endswith(("/", os.sep)):
            output = os.path.join(output, "{name}")
        _check_fields(output)
        self.template, self.formats = _split_suffix(output, formats)

    def check_use(self, clips: int, *, as_json: bool) -> None:
        """Raise RequestError if standard output cannot take what is made."""
        if self.to_stdout and clips > 1:
            raise RequestError(f"-o - takes one clip, not {clips}; name a folder or a template.")
        if self.to_stdout and as_json:
            raise RequestError("-o - and --json both want standard output; leave one of them out.")

    def next_clip(self, recipe: Recipe, name: str) -> list[Path]:
        """The files for the next clip, one a format. `name` is the input's, without suffix."""
        self._clips += 1
        stem = self.template.format(
            name=name,
            seed=recipe.seed,
            prompt=slug(recipe.prompt),
            command=recipe.command,
            n=self._clips,
        )
        return self._free(stem, self.formats)

    def still_free(self, paths: Sequence[Path]) -> list[Path]:
        """Files of `next_clip`; if one of them exists meanwhile, those with the next free number instead."""
        if not any(map(self._exists, paths)):
            return list(paths)
        return self._free(self._given[paths[0]], [path.suffix.removeprefix(".") for path in paths])

    def _free(self, stem: str, formats: Sequence[str]) -> list[Path]:
        """One file a format, all with the same number: the first that is free for each of them."""
        paths, number = _spelled(stem, formats), 1
        while any(path in self._given or self._exists(path) for path in paths):
            number += 1
            paths = _spelled(f"{stem}-{number}", formats)
        self._given |= dict.fromkeys(paths, stem)
        if not self.to_stdout:
            _check_writable(paths[0])
        return paths

    def _exists(self, path: Path) -> bool:
        return not self.to_stdout and (path.is_dir() or (path.exists() and not self.overwrite))


def _spelled(stem: str, formats: Sequence[str]) -> list[Path]:
    return [Path(f"{stem}.{format}") for format in formats]


def _check_writable(path: Path) -> None:
    """RequestError where the file could never be written, before anything is made for it."""
    place = next(parent for parent in path.absolute().parents if parent.exists())
    if not place.is_dir():
        raise RequestError(f"{path} cannot be written: {place} is no folder.")
    if not os.access(place, os.W_OK):
        raise RequestError(f"{path} cannot be written: no permission in {place}.")


def _check_fields(template: str) -> None:
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
        if unknown := [field for field in fields if field not in FIELDS]:
            raise RequestError(
                f"-o {template}: unknown field {{{unknown[0]}}}; possible: "
                + " ".join(f"{{{name}}}" for name in FIELDS)
            )
        template.format(name="", seed=0, prompt="", command="", n=0)
    except ValueError as error:
        raise RequestError(f"-o {template}: not a template ({error}).") from None


def _split_suffix(output: str, formats: Sequence[str]) -> tuple[str, list[str]]:
    """The template without its suffix, and the formats to write."""
    stem, suffix = os.path.splitext(output)
    named = suffix.removeprefix(".").lower()
    if named in FORMATS:
        return stem, list(dict.fromkeys(formats)) or [named]
    if suffix and not formats and "{" not in suffix:
        raise RequestError(f"-o {output}: unknown format {suffix}; possible: {', '.join(FORMATS)}.")
    return output, list(dict.fromkeys(formats)) or [FORMATS[0]]


def slug(text: str, longest: int = 60) -> str:
    """Text for a file name: 'The boat, left!' -> 'the-boat-left'."""
    return "-".join(re.findall(r"\w+", text.lower()))[:longest].rstrip("-") or "clip"
