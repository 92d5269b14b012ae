"""The files that `consisti2v evaluate` reads and writes beside clips: results, pages, words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consisti2v_cli.errors import RequestError, TakenError
from consisti2v_cli.text import read_text_file

if TYPE_CHECKING:
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.evaluation.run import Words

STANDARD_OUTPUT = "-"


def check_file(file: str | None, flag: str, suffix: str, inputs: Iterable[str | None] = ()) -> Path | None:
    """Where a result goes; None where none is wanted, or to standard output.

    Args:
        file: as given.
        flag: with which.
        suffix: of such a file, for the message.
        inputs: files that the command reads, which are never overwritten.

    Raises:
        RequestError: it cannot go there.
    """
    from consisti2v_cli.commands.output import check_writable
    from consisti2v_cli.evaluation.clips import SUFFIXES
    from consisti2v_cli.media.scratch import check_free

    if file is None or file == STANDARD_OUTPUT:
        return None
    path = Path(file)
    if path.is_dir():
        raise RequestError(f"{file} is a folder; {flag} names a file.")
    if path.suffix.lower() in SUFFIXES:
        raise RequestError(f"{file} has the name of a film; {flag} writes text, such as scores{suffix}.")
    if path.exists() and any(known and os.path.exists(known) and path.samefile(known) for known in inputs):
        raise RequestError(f"{file} is read by this command; name another file with {flag}.")
    check_writable(path)
    check_free(path, overwrite=True, folder=False)  # refuses what is never replaced: devices, pipes
    return path


def write_result(path: Path, write: Callable[[Path], object], *, overwrite: bool) -> Path:
    """Write a file, whole or not at all, under the next number that is free; returns where it is.

    Args:
        write: is given a place of its own to write to.
    """
    from consisti2v_cli.media.scratch import appearing

    number, place = 1, path
    while True:
        try:
            with appearing(place, overwrite=overwrite, folder=False) as made:
                write(made)
        except TakenError:
            number += 1
            place = path.with_stem(f"{path.stem}-{number}")
        else:
            return place


def show_result(told: Any, lines: list[str], options: dict[str, Any], path: Path | None, console: Console) -> None:
    """Print a result, as a table or as one line of JSON, and write it where it is wanted."""
    if options["json_file"] == STANDARD_OUTPUT:
        console.result(json.dumps(told, ensure_ascii=False, allow_nan=False))
    else:
        console.result("\n".join(lines))
    if path:
        text = json.dumps(told, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
        place = write_result(path, lambda made: made.write_text(text, encoding="utf-8"), overwrite=options["overwrite"])
        console.result(str(place))


def read_words(file: str | None) -> Words:
    """What should be seen in clips, by their names. RequestError for a file that does not tell that."""
    if file is None:
        return {}
    try:
        told = json.loads(read_text_file(file))
    except (OSError, ValueError) as error:
        raise RequestError(f"--labels {file} cannot be read: {error}.") from error
    good = isinstance(told, dict) and all(
        isinstance(words, dict) and all(isinstance(word, str) for word in words.values()) for words in told.values()
    )
    if not good:
        raise RequestError(f'--labels {file} is not like {{"a.mp4": {{"object": "dog", "scene": "sea beach"}}}}.')
    if strange := [key for words in told.values() for key in words if key not in ("object", "scene")]:
        raise RequestError(f"--labels {file} names {strange[0]!r}; possible: object, scene.")
    return dict(told)
