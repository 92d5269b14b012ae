"""What clips are made from: files, the images of folders, and standard input, each with its prompt."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from consisti2v_cli.commands.parsing import prompt_text
from consisti2v_cli.errors import RequestError
from consisti2v_cli.kinds import by_name, listed_pictures, of_file

STANDARD_INPUT = "-"
LARGEST = 500_000_000  # bytes that standard input may hold
LONGEST_PROMPT = 100_000  # bytes of a file that are looked at to tell text from something else
LISTS = (".csv", ".tsv", ".jsonl", ".ndjson")
_TEXTS = (".txt", *LISTS)  # prompts and lists beside pictures
NAMED = 3  # files in a notice, before the rest is only counted
PIPE = "pipe"  # the name of what comes through one, such as <(cat photo.jpg)

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Input:
    """One image to make clips from."""

    name: str  # file name, or "stdin", as the recipe has it
    shown: str  # as it was given, for messages
    source: Path | bytes  # the file, or what came by standard input
    prompt: str | None  # what happens in it; None where nobody said
    prompt_file: Path | None = None  # where another prompt stands that wins over `prompt`
    problem: RequestError | None = None  # why there is no image; the other inputs do not suffer from it

    @property
    def stem(self) -> str:
        """The name without its suffix, for the output's name."""
        return Path(self.name).stem

    def read_prompt(self) -> str | None:
        """The prompt of this image: its own text file's, where it has one. RequestError if that is unreadable."""
        return read_text(f"@{self.prompt_file}") if self.prompt_file else self.prompt


def split_arguments(images: Sequence[str], prompt: str | None, *, needed: bool) -> tuple[list[str], str | None]:
    """Tell IMAGE... from PROMPT, which is the last argument.

    Args:
        images, prompt: as the command line has them.
        needed: a prompt must be given. Else the last argument may be an image too, if it looks like one.

    Returns:
        Images, and the prompt's text, None where none was given.

    Raises:
        RequestError: the last argument cannot be a prompt, or names a file that cannot be read.
    """
    if prompt is None:
        return list(images), None
    if not needed and (prompt == STANDARD_INPUT or looks_like(prompt) or _is_there_to_read(prompt)):
        return [*images, os.path.expanduser(prompt)], None
    if not images and os.path.isdir(prompt):  # whose images may have prompts of their own
        return [prompt], None
    if why := _no_prompt(prompt):
        raise RequestError(f"The last argument is the prompt, but {printable(prompt)} is {why}.")
    return list(images), read_text(prompt)


def _is_there_to_read(path: str) -> bool:
    """Whether a folder, a pipe, or a picture under any name is there."""
    place = Path(os.path.expanduser(path))
    with suppress(OSError, ValueError):  # ValueError: a zero byte
        if place.is_file():
            kind = of_file(place)
            return kind is not None and kind.family == "picture"
        return place.is_dir() or place.is_fifo()
    return False


def looks_like(text: str) -> str | None:
    """'image' or 'film' for what is named as one; None for anything else."""
    kind = by_name(text)
    return None if kind is None else "film" if kind.family == "video" else "image"


def _no_prompt(path: str) -> str | None:
    """What was given in the place of the prompt, and what to do; None for a prompt."""
    kind, shown = looks_like(path), printable(path)
    if kind == "film":
        return "a film; consisti2v extend goes on from a film"
    if kind == "image":
        return "an image; add what happens in the clip"
    if os.path.isdir(path):
        return "a folder; add what happens in the clips of its images"
    if not os.path.isfile(path):
        return None
    if path.lower().endswith(LISTS):
        return f"a file; --manifest {shown} makes the clips that it lists"
    return f"a file; write @{shown} to take it from there" if _is_text(path) else "a file that holds no text"


def _is_text(path: str) -> bool:
    with suppress(OSError, UnicodeDecodeError), open(path, "rb") as file:
        return "\0" not in file.read(LONGEST_PROMPT).decode()
    return False


def gather(images: Sequence[str], prompt: str | None, on_notice: Notice | None = None) -> list[Input]:
    """The inputs that IMAGE... names, folders opened; what cannot be opened is one with a `problem`.

    Args:
        images: paths, and `-`.
        prompt: of all of them.
        on_notice: called with a sentence about what is left out of folders.

    Raises:
        RequestError: `-` twice, an empty name.
    """
    absent = [image for image in images if not os.path.lexists(image) and re.fullmatch(r"\w+", image)]
    if len(images) > 1 and absent and absent[-1] is images[-1] and prompt is not None:
        raise RequestError(
            f"There is no image {printable(absent[0])}. If it belongs to the prompt, put the whole prompt in quotes."
        )
    if "" in images:
        raise RequestError("An image is named by an empty argument; is a variable of the shell not set?")
    if images.count(STANDARD_INPUT) > 1:
        raise RequestError("- for standard input can be given once only.")
    return [entry for image in images for entry in open_image(image, prompt, on_notice=on_notice)]


def open_image(image: str, prompt: str | None, *, folder: str = "", on_notice: Notice | None = None) -> list[Input]:
    """The inputs that a path names: itself, or those of a folder; or one with a `problem`.

    Args:
        image: a path, or `-`.
        prompt: of the inputs.
        folder: what a relative path begins from.
        on_notice: as in `gather`.
    """
    place = image if image == STANDARD_INPUT else os.path.join(folder, image)
    try:
        return list(_images(place, prompt, on_notice or _ignore))
    except RequestError as error:
        problem = error
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        problem = RequestError(f"{printable(place)} cannot be read: {reason}.")
    return [bad(image, problem, prompt)]


def bad(name: str, problem: RequestError, prompt: str | None = None) -> Input:
    """An input that cannot be read, with the reason."""
    return Input(printable(os.path.basename(name)), printable(name), b"", prompt, problem=problem)


def read_text(prompt: str) -> str:
    """A prompt's text, of `@FILE` what is in it; halves of characters cannot be written as UTF-8 and are replaced."""
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", prompt_text(prompt))


def printable(text: str) -> str:
    """Text without what would move a terminal's cursor, start a new line, or cannot be written as UTF-8."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _moves(character) else character for character in text)


def _moves(character: str) -> bool:
    """Control characters, halves of characters, line ends, and what turns the direction of writing."""
    category = unicodedata.category(character)
    return category in ("Cc", "Cs", "Zl", "Zp") or character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def _images(image: str, prompt: str | None, notice: Notice) -> Iterator[Input]:
    path = Path(image)
    if image == STANDARD_INPUT:
        yield Input("stdin", "stdin", _standard_input(), prompt)
    elif path.is_fifo():
        yield Input(PIPE, printable(image), _read_pipe(path, printable(image)), prompt)
    elif path.is_dir():
        yield from _images_in(path, image, prompt, notice)
    else:
        yield _input(path, image, prompt)


def _images_in(folder: Path, given: str, prompt: str | None, notice: Notice) -> Iterator[Input]:
    """The pictures in a folder, told by their content; what else is there is said."""
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    wanted = [file for file in files if _is_wanted(file)]
    if not wanted:
        raise RequestError(f"The folder {printable(given)} holds no images ({listed_pictures()}).")
    texts = {file.name.casefold(): file for file in files if file.suffix.lower() == ".txt" and file.is_file()}
    left_out = [file for file in files if _is_left_out(file) and file not in set(wanted)]
    if left_out:
        names = ", ".join(printable(file.name) for file in left_out[:NAMED])
        more = f" and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
        what = "1 file is" if len(left_out) == 1 else f"{len(left_out)} files are"
        notice(f"{printable(given)}: {what} left out, being no pictures that can be read: {names}{more}.")
    for file in wanted:
        yield _input(file, os.path.join(given, file.name), prompt, texts.get(f"{file.stem}.txt".casefold()))


def _input(path: Path, given: str, prompt: str | None, text: Path | None = None) -> Input:
    return Input(printable(path.name), printable(given), path, prompt, text)


def _is_wanted(file: Path) -> bool:
    """Whether a folder's file is a picture by its content, or should be one by its name: said when it is read.

    Clips that were made here are none, be they GIF or WebP.
    """
    if file.suffix.lower() in _TEXTS:
        return False
    named = by_name(file.name)
    is_named = named is not None and named.family == "picture"
    if not file.is_file():
        return is_named and file.is_symlink() and not file.exists()  # a link to nothing is an image that lacks
    try:
        kind = of_file(file)
    except OSError:
        return is_named
    if kind is None:
        return is_named
    return kind.family == "picture" and not (kind.key in ("gif", "webp") and _is_clip(file))


def _is_left_out(file: Path) -> bool:
    """Whether a person may have expected a file that is not wanted among the pictures: no text, no clip of ours."""
    return file.is_file() and file.suffix.lower() not in _TEXTS and not _is_clip(file)


def _is_clip(file: Path) -> bool:
    from consisti2v_cli.commands.info import carried

    try:
        return carried(file) is not None
    except RequestError:  # a damaged image: said when it is read
        return False


def _standard_input() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise RequestError("- reads an image from standard input, where there is none; pipe one in.")
    return _read_all(sys.stdin.buffer, "standard input")


def _read_pipe(path: Path, name: str) -> bytes:
    """All that comes through a pipe; one into which nobody writes is empty, and not waited for."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    os.set_blocking(descriptor, True)
    with open(descriptor, "rb") as pipe:
        return _read_all(pipe, name)


def _read_all(stream: IO[bytes], name: str) -> bytes:
    """All that comes through a pipe; RequestError where that is nothing, or more than any picture has."""
    data = stream.read(LARGEST + 1)
    if not data:
        raise RequestError(f"An image is to be read from {name}, which is empty.")
    if len(data) > LARGEST:
        raise RequestError(f"An image is to be read from {name}, which holds more than {LARGEST // 10**6} MB.")
    return data


def _ignore(_: str) -> None:
    pass
