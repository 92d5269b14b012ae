"""`consisti2v evaluate --rate` and `--ratings`: a page on which people rate clips, and what they said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consisti2v_cli.commands.inputs import printable
from consisti2v_cli.errors import RequestError

if TYPE_CHECKING:
    from consisti2v_cli.commands.console import Console


def write_page_of(folders: Sequence[str], options: Mapping[str, Any], console: Console) -> int:
    """Write the page and its key. Returns the exit code: 1 where clips had to be left out that cannot be read."""
    from consisti2v_cli.evaluation.rating import write_rating

    if not folders:
        raise RequestError("--rate needs a FOLDER of clips, or several.")
    place, key = _free(Path(options["rate"]), options["key"])
    with console.progress(printable(str(place))) as bar:
        written = write_rating(
            [Path(folder) for folder in folders], place, key, on_sample=lambda done, total: bar("samples", done, total)
        )
    for problem in written.left_out:
        console.error(printable(f"Left out: {problem}"))
    if written.without_picture:
        console.notice(f"Without the picture they began with: {printable(', '.join(written.without_picture))}")
    if written.alone:
        console.notice(f"Without a partner: {printable(', '.join(written.alone))}")
    console.notice(f"Open {place / 'index.html'} in a browser; keep {key} away from those who rate.")
    console.result(str(place))
    console.result(str(key))
    return 1 if written.left_out else 0


def _free(wanted: Path, key: str | None) -> tuple[Path, Path]:
    """The page's folder and its key, with the next number that is free for both."""
    for number in count(1):
        more = "" if number == 1 else f"-{number}"
        place = wanted.with_name(wanted.name + more)
        file = Path(key).with_stem(Path(key).stem + more) if key else place.with_name(f"{place.name}-key.json")
        if not place.exists() and not file.exists():
            break
    return place, file


def count_ratings(folders: Sequence[str], options: Mapping[str, Any], console: Console) -> int:
    """Print what people said. Returns the exit code."""
    from consisti2v_cli.commands.evaluate import STANDARD_OUTPUT, free_file, write_text
    from consisti2v_cli.evaluation.tally import read_tally, tally_lines

    if folders:
        raise RequestError(f"--ratings counts files, and needs no FOLDER such as {folders[0]}.")
    if not options["key"]:
        raise RequestError("--ratings needs --key FILE, which --rate wrote beside the page.")
    json_file = free_file(options["json_file"], "--json", ".json", overwrite=options["overwrite"])
    found = read_tally([Path(file) for file in options["ratings"]], Path(options["key"]))
    text = json.dumps(asdict(found), ensure_ascii=False, allow_nan=False, indent=1)
    console.result(text if options["json_file"] == STANDARD_OUTPUT else "\n".join(map(printable, tally_lines(found))))
    if json_file:
        write_text(json_file, text)
        console.result(str(json_file))
    return 0
