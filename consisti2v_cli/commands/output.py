"""Where clips go: names from templates, formats, and free numbers."""

from __future__ import annotations

import glob
import os
import re
import string
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import IO

from consisti2v_cli.commands.inputs import printable
from consisti2v_cli.commands.options import FORMATS
from consisti2v_cli.errors import ConsistI2VError, RequestError
from consisti2v_cli.recipe import Recipe

FIELDS = ("name", "seed", "prompt", "command", "n")
STANDARD_OUTPUT = "-"
FOLDERS = ("png",)  # formats that are folders, whose names have no suffix
_STDOUT_NAMES = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
_DESCRIPTORS = re.compile(r"/dev/std(out|err)|/dev/fd/\d+|/proc/self/fd/\d+")
_WIDTH = re.compile(r"0?[1-9]\d?d?")  # of {seed} and {n} in a template
LONGEST_NAME = 250  # bytes of a file's name: a number may have to follow, and 255 is what file systems take
LONGEST = 220  # bytes of one that is made of a template: a number and a suffix follow


@dataclass
class Names:
    """The names that one run has handed out."""

    given: dict[Path, tuple[str, str]] = field(default_factory=dict)  # its name without number and suffix; its format
    keys: set[str] = field(default_factory=set)  # the same names as any file system compares them
    numbers: dict[tuple[str, tuple[str, ...]], int] = field(default_factory=dict)  # the last one by stem and formats
    clips: int = 0
    inputs: set[tuple[int, int]] = field(default_factory=set)  # what the run reads: device and inode

    def forget(self) -> None:
        """Hand all names out anew."""
        self.given.clear()
        self.keys.clear()
        self.numbers.clear()
        self.clips = 0

    def add(self, paths: Sequence[Path], stem: str, formats: Sequence[str]) -> None:
        """Hand out one file a format."""
        self.given |= {path: (stem, format) for path, format in zip(paths, formats, strict=True)}
        self.keys |= set(map(key, paths))


class Outputs:
    """Hands out the output files of one run, no name twice."""

    def __init__(
        self,
        output: str,
        formats: Sequence[str],
        *,
        overwrite: bool,
        metadata: bool = True,
        names: Names | None = None,
        asked: bool = True,
    ) -> None:
        """
        Args:
            output: file, folder, template, `-`, or a device or pipe, as given with -o.
            formats: as given with -f; none: by the suffix of `output`.
            overwrite: earlier results may be replaced, and a file that is no clip where `output` names just that; else
                the next free number is added. What the run reads is never replaced.
            metadata: the files carry their recipe.
            names: those that the run has handed out by other outputs.
            asked: whether a person gave `output`.

        Raises:
            RequestError: unknown template field, unknown suffix, several formats to a stream.
        """
        self.stream = output if output == STANDARD_OUTPUT or _is_stream(output) else None
        self.overwrite = overwrite
        self.metadata = metadata
        self.names = names or Names()
        self.asked = asked
        self.notices: list[str] = []  # what a person should know about the names
        self.suffixes: dict[str, str] = {}  # of a format, as -o has it: MP4
        if self.stream:
            self.template, self.formats = "{name}", _streamed(self.stream, formats)
            return
        if not output.strip():
            raise RequestError("-o is empty; name a file, a folder, a template, or - for standard output.")
        if os.altsep:
            output = output.replace(os.altsep, os.sep)
        if os.path.isdir(output) or output.endswith(("/", os.sep)):
            output = os.path.join(output, "{name}")
        _check_fields(output)
        self.template, self.formats = _split_suffix(output, formats)
        suffix = output.removeprefix(self.template)[1:]
        self.suffixes = {suffix.lower(): suffix}
        if suffix and suffix.lower() not in self.formats:
            made = ", ".join(path.name for path in self._spelled(self.template, 1, self.formats))
            self.notices.append(f"-f {' -f '.join(self.formats)} wins over the suffix of -o {output}: writing {made}.")

    def of_row(self, inside: str | None, output: str, formats: Sequence[str], *, metadata: bool) -> Outputs:
        """Outputs of the same run for a row of a manifest.

        Args:
            inside: the row's own template, in the folder of -o; None where it has none.
            output, formats, metadata: as given with -o, -f and --metadata, or by the row.

        Raises:
            RequestError: the template would leave the folder, or is none.
        """
        if inside is not None:
            if self.stream:
                raise RequestError(
                    f"output is {printable(inside)}, but -o {self.stream} is a stream; leave one of them out."
                )
            _check_inside(inside)
            parts = self.template.split(os.sep)[:-1]
            known = next((index for index, part in enumerate(parts) if "{" in part), len(parts))
            output = os.sep.join([*parts[:known], inside])
        elif list(dict.fromkeys(formats)) == self.formats and metadata == self.metadata:
            return self
        return Outputs(output, formats, overwrite=self.overwrite, metadata=metadata, names=self.names, asked=self.asked)

    def protect(self, sources: Iterable[Path | bytes]) -> None:
        """Never replace these files and folders, which the run reads, under whatever name they are written to."""
        for source in sources:
            if isinstance(source, Path):
                with suppress(OSError, ValueError):  # ValueError: a zero byte in a name
                    self.names.inputs.add(_identity(source))

    def check_use(self, clips: int, *, as_json: bool) -> None:
        """Raise RequestError if standard output cannot take what is made."""
        if self.stream and clips > 1:
            raise RequestError(f"-o {self.stream} takes one clip, not {clips}; name a folder or a template.")
        if self.is_stdout and as_json:
            raise RequestError(f"-o {self.stream} and --json both want standard output; leave one of them out.")

    @property
    def is_stdout(self) -> bool:
        """Whether the clip goes to standard output."""
        return self.stream in (STANDARD_OUTPUT, *_STDOUT_NAMES)

    @contextmanager
    def opened_stream(self) -> Iterator[IO[bytes]]:
        """The stream that takes the clip. ConsistI2VError, RequestError: it cannot be written to."""
        assert self.stream
        if self.is_stdout:
            if sys.stdout is None:
                raise RequestError(f"-o {self.stream} writes to standard output, which is closed.")
            yield sys.stdout.buffer
            return
        try:
            with open(self.stream, "wb") as stream:
                yield stream
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ConsistI2VError(f"{self.stream} cannot be written: {error.strerror}.") from error

    def numbering(self, clips: int) -> str | None:
        """A sentence for a person whose -o names one file, and who gets so many clips; None where it does not."""
        if self.stream or clips < 2 or any(map(_has_fields, self.template.split(os.sep))):
            return None
        first, second, *_ = (self._spelled(self.template, number, self.formats[:1])[0] for number in (1, 2))
        advice = f"write {self.template}/ for a folder, or use {{name}}"
        return printable(f"{clips} clips, and -o names one file: they are numbered, {first}, {second}, ...; {advice}.")

    def reserve(self, recipe: Recipe, name: str) -> list[Path]:
        """The files for the next clip, one a format, by the run's own order, whatever exists: on all machines the same.

        `name` is the input's, without suffix.
        """
        return self._free(self._stem(recipe, name), self.formats, blind=True)

    def still_free(self, paths: Sequence[Path]) -> list[Path]:
        """Files of `reserve`; if one of them exists meanwhile, those with the next free number instead."""
        taken = any(self._exists(path, self.names.given[path][1]) for path in paths)
        return self.following(paths) if taken else list(paths)

    def listed(self, paths: Sequence[Path]) -> list[str]:
        """Files of `reserve` as they would be written now; none where standard output takes the clip."""
        return [] if self.stream else list(map(str, self.still_free(paths)))

    def following(self, paths: Sequence[Path]) -> list[Path]:
        """Files of `reserve` -> those with the next free number."""
        stem = self.names.given[paths[0]][0]
        return self._free(stem, [self.names.given[path][1] for path in paths])

    def pattern(self, recipe: Recipe, name: str) -> str:
        """The pattern, for `glob`, of what `reserve` gave to a clip in its first format, had it another seed."""
        values = {"name": safe(name), "prompt": slug(recipe.prompt), "command": recipe.command}
        stem = ""
        for literal, entry, spec, _ in string.Formatter().parse(self.template):
            stem += glob.escape(literal)
            if entry in ("seed", "n"):
                stem += "*"
            elif entry is not None:
                stem += glob.escape(format(values[entry], spec or ""))
        (path,) = self._spelled(stem, 1, self.formats[:1])
        return str(path)

    def _stem(self, recipe: Recipe, name: str) -> str:
        self.names.clips += 1
        values = {
            "name": safe(name),
            "prompt": slug(recipe.prompt),
            "seed": recipe.seed,
            "command": recipe.command,
            "n": self.names.clips,
        }
        parts = self.template.split(os.sep)
        longest = [LONGEST_NAME] * (len(parts) - 1) + [LONGEST]
        return os.sep.join(
            _within(part, part.format(**values), most) for part, most in zip(parts, longest, strict=True)
        )

    def format_of(self, path: Path) -> str:
        """The format of a file that was handed out."""
        return self.names.given[path][1]

    def claimed_name(self, path: Path) -> Path:
        """What the files of one clip have in common: the name without suffix."""
        return path if self.format_of(path) in FOLDERS else path.with_suffix("")

    def _free(self, stem: str, formats: Sequence[str], *, blind: bool = False) -> list[Path]:
        """One file a format, all with the same number: the first that is free for each of them."""
        alike = (stem, tuple(formats))
        number = self.names.numbers.get(alike, 0) + 1 if blind else 1
        while not self._are_free(paths := self._spelled(stem, number, formats), formats, blind=blind):
            number += 1
        if blind:
            self.names.numbers[alike] = number
            for name in (part for path in paths for part in path.parts):
                _check_length(name)
        self.names.add(paths, stem, formats)
        if not self.stream:
            check_writable(paths[0])
        return paths

    def _spelled(self, stem: str, number: int, formats: Sequence[str]) -> list[Path]:
        """The files of a clip, one a format; the first number is not written."""
        numbered = stem if number == 1 else f"{stem}-{number}"
        return [
            Path(numbered) if format in FOLDERS else Path(f"{numbered}.{self.suffixes.get(format, format)}")
            for format in formats
        ]

    def _are_free(self, paths: Sequence[Path], formats: Sequence[str], *, blind: bool) -> bool:
        """Whether neither this run has handed the files out nor, unless `blind`, anything stands in their way."""
        if not self.names.keys.isdisjoint(map(key, paths)):
            return False
        return blind or not any(map(self._exists, paths, formats))

    def _exists(self, path: Path, format: str) -> bool:
        """Whether something stands in the way of a file, if only on systems that take some names for the same."""
        if self.stream:
            return False
        if self.overwrite:
            return path.exists() and not self._may_replace(path, format)
        if os.path.lexists(path):
            return True
        try:
            return same_name(path.name) in map(same_name, os.listdir(path.parent))
        except OSError:
            return False

    def _may_replace(self, path: Path, format: str) -> bool:
        """Whether -y replaces what is there: a clip that was made here, or what -o names; never what the run reads."""
        from consisti2v_cli.commands.made import recipe_in

        if _identity(path) in self.names.inputs or path.is_dir() is not (format in FOLDERS):
            return False
        is_named = self.asked and not any(map(_has_fields, self.template.split(os.sep)))
        return (is_named and path in self._spelled(self.template, 1, self.formats)) or recipe_in(path) is not None


def key(path: Path) -> str:
    """The same for paths that some file system takes for the same."""
    return same_name(os.path.abspath(path))


def same_name(name: str) -> str:
    """The same for names that some file system takes for the same: but for case, and in both Unicode forms."""
    return unicodedata.normalize("NFC", name).casefold()


def slug(text: str, longest: int = 60) -> str:
    """Text for a file name: 'The boat, left!' -> 'the-boat-left'."""
    words = re.findall(r"\w+", unicodedata.normalize("NFC", text).lower())
    return "-".join(words)[:longest].rstrip("-") or "clip"


def safe(name: str) -> str:
    """A name that is part of a file's name, and no more: no folders, nothing that moves a terminal's cursor."""
    plain = printable(unicodedata.normalize("NFC", name)).replace("\N{REPLACEMENT CHARACTER}", "_")
    plain = re.sub(r"[/\\]", "_", plain)
    return re.sub(r"^\.+$", lambda dots: "_" * len(dots[0]), plain) or "clip"


def cut(text: str, longest: int) -> str:
    """As much of a text as fits into so many bytes of a file's name."""
    while len(os.fsencode(text)) > longest:
        text = text[:-1]
    return text


def _streamed(stream: str, formats: Sequence[str]) -> list[str]:
    """The format for a stream."""
    if len(formats) > 1:
        raise RequestError(f"-o {stream} takes one format, not {len(formats)}: {', '.join(formats)}.")
    if folders := [format for format in formats if format in FOLDERS]:
        raise RequestError(f"{folders[0]} is a folder of frames, and no stream; name a folder with -o.")
    return list(formats) or [FORMATS[0]]


def _is_stream(output: str) -> bool:
    """Whether an output is a device, a pipe, or an open file of the process, such as /dev/stdout or /dev/fd/63."""
    is_special = os.path.exists(output) and not os.path.isdir(output) and not os.path.isfile(output)
    return is_special or (_DESCRIPTORS.fullmatch(output) is not None and os.path.exists(output))


def _identity(path: Path) -> tuple[int, int]:
    """The same for all names of a file or folder: links, and other spellings where case does not count."""
    state = path.stat()
    return state.st_dev, state.st_ino


def _check_inside(output: str) -> None:
    """RequestError for an output that leaves its folder, or would on another system."""
    parts = re.split(r"[/\\]", output)
    if printable(output) != output:
        raise RequestError(f"output {printable(output)!r} has characters that are not printed.")
    if not output.strip() or ".." in parts or output.startswith(("/", "\\", "~")) or PureWindowsPath(output).drive:
        raise RequestError(f"output {output!r} must be a name inside the folder of -o, without .. and the like.")


def _within(part: str, name: str, longest: int) -> str:
    """A name of a template's part: shortened where the part has fields; a person's own stays as it is."""
    return cut(name, longest) if _has_fields(part) else name


def _has_fields(part: str) -> bool:
    return any(entry[1] is not None for entry in string.Formatter().parse(part))


def _check_length(name: str) -> None:
    """RequestError for a name that is longer than file systems take."""
    if (length := len(os.fsencode(name))) > LONGEST_NAME:
        start = printable(name[:20])
        raise RequestError(f"-o: the name {start}... has {length} bytes; possible: up to {LONGEST_NAME}.")


def check_writable(path: Path) -> None:
    """RequestError where the file could never be written, before anything is made for it."""
    place = next(parent for parent in path.absolute().parents if parent.exists())
    if not place.is_dir():
        raise RequestError(f"{path} cannot be written: {place} is no folder.")
    if not os.access(place, os.W_OK):
        raise RequestError(f"{path} cannot be written: no permission in {place}.")


def _check_fields(template: str) -> None:
    try:
        fields = [entry[1:] for entry in string.Formatter().parse(template) if entry[1] is not None]
        if unknown := [field for field, _, _ in fields if field not in FIELDS]:
            raise RequestError(
                f"-o {template}: unknown field {{{unknown[0]}}}; possible: "
                + " ".join(f"{{{name}}}" for name in FIELDS)
            )
        for field, spec, conversion in fields:  # any other could spell "..", "/", or fill the memory
            if conversion or (spec and not (field in ("seed", "n") and _WIDTH.fullmatch(spec))):
                raise RequestError(
                    f"-o {printable(template)}: not a template: only {{seed}} and {{n}} take a width, such as {{n:03}}."
                )
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
