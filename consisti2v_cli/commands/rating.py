"""`consisti2v evaluate --rate` and `--ratings`: a page on which people rate clips, and what they said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consisti2v_cli.commands.inputs import printable
from consisti2v_cli.commands.written import check_file, show_result
from consisti2v_cli.errors import RequestError

if TYPE_CHECKING:
    from consisti2v_cli.commands.console import Console


def write_rating_page(folders: Sequence[str], options: Mapping[str, Any], console: Console) -> int:
    """Write the page and its key. Returns the exit code: 1 where clips had to be left out that cannot be read."""
    from consisti2v_cli.evaluation.rating import write_rating

    if not folders:
        raise RequestError("--rate needs a FOLDER of clips, or several.")
    place, key = _free(options["rate"], options["key"])
    with console.progress(printable(str(place))) as bar:
        written = write_rating(
            [Path(folder) for folder in folders], place, key, on_sample=lambda done, total: bar("samples", done, total)
        )
    for problem in written.left_out:
        console.error(printable(f"Left out: {problem}"))
    shape = written.shape
    console.notice(
        f"All play {shape.frames} frames of {shape.width}x{shape.height} at {shape.fps:g} a second, which is what they "
        "have in common: larger and longer ones are cropped and cut."
    )
    if written.without_picture:
        console.notice(f"Without the picture they began with: {printable(', '.join(written.without_picture))}")
    if written.alone:
        console.notice(f"Without a partner: {printable(', '.join(written.alone))}")
    console.notice(f"Open {place / 'index.html'} in a browser; keep {key} away from those who rate.")
    console.result(str(place))
    console.result(str(key))
    return 1 if written.left_out else 0


def _free(wanted: str, key: str | None) -> tuple[Path, Path]:
    """The page's folder and its key, with the next number that is free for both. RequestError: no names."""
    for flag, given in (("--rate", wanted), ("--key", key)):
        if given is not None and Path(given).name in ("", ".."):
            raise RequestError(f"{flag} {given} is no name for something new.")
    for number in count(1):
        more = "" if number == 1 else f"-{number}"
        place = Path(wanted).with_name(Path(wanted).name + more)
        file = Path(key).with_stem(Path(key).stem + more) if key else place.with_name(f"{place.name}-key.json")
        if not place.exists() and not file.exists():
            break
    return place, file


def count_ratings(folders: Sequence[str], options: dict[str, Any], console: Console) -> int:
    """Print what people said. Returns the exit code."""
    from consisti2v_cli.evaluation.tally import read_tally, tally_lines

    if not options["key"]:
        raise RequestError("--ratings needs --key FILE, which --rate wrote beside the page.")
    files = [*options["ratings"], *folders]  # a shell's `ratings-*.json` gives the option the first one alone
    json_file = check_file(options["json_file"], "--json", ".json", [*files, options["key"]])
    found = read_tally([Path(file) for file in files], Path(options["key"]))
    show_result(asdict(found), list(map(printable, tally_lines(found))), options, json_file, console)
    return 0
