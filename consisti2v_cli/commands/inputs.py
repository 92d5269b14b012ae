"""What is animated: files, the images of folders, and standard input, each with its prompt."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from consisti2v_cli.commands.options import prompt_text
from consisti2v_cli.errors import RequestError

SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Input:
    """One image to animate."""

    name: str  # file name, or "stdin"
    source: Path | bytes  # the file, or what came by standard input
    prompt: str  # what happens in it
    prompt_file: Path | None = None  # where another prompt stands that wins over `prompt`
    problem: RequestError | None = None  # why there is no image; the other inputs do not suffer from it

    @property
    def stem(self) -> str:
        """The name without its suffix, for the output's name."""
        return Path(self.name).stem

    def read_prompt(self) -> str:
        """The prompt of this image: its own text file's, where it has one. RequestError if that is unreadable."""
        return prompt_text(f"@{self.prompt_file}") if self.prompt_file else self.prompt


def gather(images: Sequence[str], prompt: str) -> list[Input]:
    """The inputs that IMAGE... and PROMPT name, folders opened; what cannot be opened is one with a `problem`.

    Raises:
        RequestError: `-` twice, an image instead of the prompt, unreadable @FILE.
    """
    if images.count(STANDARD_INPUT) > 1:
        raise RequestError("- for standard input can be given once only.")
    if prompt.lower().endswith(SUFFIXES):
        raise RequestError(f"The last argument is the prompt, but {prompt} is an image; add what happens in the clip.")
    prompt = prompt_text(prompt)
    return [entry for image in images for entry in _open(image, prompt)]


def _open(image: str, prompt: str) -> list[Input]:
    try:
        return list(_images(image, prompt))
    except RequestError as error:
        problem = error
    except OSError as error:
        problem = RequestError(f"{image} cannot be read: {error.strerror}.")
    return [Input(image, b"", prompt, problem=problem)]


def _images(image: str, prompt: str) -> Iterator[Input]:
    if image == STANDARD_INPUT:
        yield Input("stdin", _standard_input(), prompt)
        return
    path = Path(image)
    if not path.is_dir():
        yield Input(path.name, path, prompt)
        return
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise RequestError(f"The folder {image} holds no images ({', '.join(SUFFIXES)}).")
    for file in files:
        text = file.with_suffix(".txt")
        yield Input(file.name, file, prompt, text if text.is_file() else None)


def _standard_input() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise RequestError("- reads an image from standard input, where there is none; pipe one in.")
    data = sys.stdin.buffer.read()
    if not data:
        raise RequestError("- reads an image from standard input, which is empty.")
    return data
