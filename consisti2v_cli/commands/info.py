"""`consisti2v info`: the recipe that a file carries, and what the file is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from consisti2v_cli.commands.inputs import printable
from consisti2v_cli.commands.options import config_options, option, talk_options
from consisti2v_cli.commands.parsing import PATH
from consisti2v_cli.errors import RequestError
from consisti2v_cli.kinds import of_file
from consisti2v_cli.recipe import Recipe, from_json, spelled, to_dict

if TYPE_CHECKING:
    from consisti2v_cli.commands.console import Console

FILE, MACHINE = "file", "this machine"  # where a recipe is known from
NOT_INSIDE = "  (the recipe is not in the file, but remembered on this machine)"

EXAMPLES = """\b
Examples:
  consisti2v info boat.mp4
  consisti2v info clips/*.gif --json | jq .recipe.seed
"""


@dataclass(frozen=True)
class Facts:
    """What a file is, whoever made it."""

    format: str  # mp4, gif, ...; png for a folder of frames
    width: int  # pixels
    height: int  # pixels
    frames: int
    fps: float | None  # frames a second; None where nothing says
    bytes: int


@click.command(epilog=EXAMPLES, short_help="Print the recipe in a file.")
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE...")
@option("--json", "as_json", is_flag=True, default_text="off", help="Print one JSON object a line.")
@config_options
@talk_options
def info(files: tuple[str, ...], as_json: bool, quiet: bool, verbose: int) -> int:
    """Print how each FILE was made, and what it is. FILE is a clip of any format, or a folder of PNG frames.

    A file without its recipe that was made on this machine, and has not changed since, is still known here; that is
    said. `consisti2v redo FILE` makes the recipe again.
    """
    from consisti2v_cli.commands.console import Console

    console = Console(quiet=quiet, verbosity=verbose)
    bad = 0
    for number, file in enumerate(files):
        try:
            known, (recipe, where) = look(Path(file)), _recipe(file, console)
        except RequestError as error:
            if len(files) == 1:
                raise
            console.error(printable(str(error) if file in str(error) else f"{file}: {error}"))
            bad += 1
            continue
        if as_json:
            told = {"recipe": recipe and to_dict(recipe), "recipe_from": where}
            console.result(json.dumps({"path": file, **asdict(known), **told}))
        else:
            blank = "\n" if number > bad else ""
            facts = [f"{printable(file)}: {_described(known)}", *([NOT_INSIDE] if where == MACHINE else ())]
            console.result(blank + "\n".join([*facts, *(_lines(recipe) if recipe else ())]))
    return 1 if bad else 0


def look(path: Path) -> Facts:
    """What a film, an image or a folder of frames is. RequestError if it is none."""
    from consisti2v_cli.media.image import read_size
    from consisti2v_cli.media.video import kind_of, probe, read_timing

    if kind_of(path) == "image":
        return Facts(format_of(path), *read_size(path), frames=1, fps=None, bytes=path.stat().st_size)
    header, count = probe(path), len(read_timing(path).starts)
    size = sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size
    return Facts(format_of(path), header.width, header.height, count, header.fps, size)


def format_of(path: Path) -> str:
    """The format of a file by its content, else by its suffix; png for a folder."""
    if path.is_dir():
        return "png"
    kind = of_file(path)
    return kind.key if kind else path.suffix[1:].lower() or "unknown"


def carried(path: Path) -> Recipe | None:
    """The recipe in a file, or the one that is remembered for it where it carries none; None without either.

    Raises:
        RequestError: the file is missing or no film, or holds another version's recipe.
    """
    return known_recipe(path)[0]


def known_recipe(path: Path) -> tuple[Recipe | None, str | None]:
    """The recipe as `carried` has it, and where it is known from: `FILE` or `MACHINE`; None without one."""
    from consisti2v_cli.media.metadata import read_recipe
    from consisti2v_cli.state import recipe_of

    text = read_recipe(path)
    if text and text.lstrip().startswith("{"):  # else a comment of another program
        return from_json(text), FILE
    text = recipe_of(path)
    return (from_json(text), MACHINE) if text else (None, None)


def _recipe(file: str, console: Console) -> tuple[Recipe | None, str | None]:
    """The recipe in a file, and where it is known from, with a notice where there is none."""
    try:
        recipe, where = known_recipe(Path(file))
    except RequestError as error:
        console.notice(printable(f"{file} carries no recipe that can be read: {error}"))
        return None, None
    if recipe is None:
        console.notice(
            printable(f"{file} carries no recipe: it was not made by consisti2v, or elsewhere with --no-metadata.")
        )
    return recipe, where


def _described(known: Facts) -> str:
    """The facts in a line."""
    size = f"{known.bytes / 1e6:.1f} MB" if known.bytes >= 1e6 else f"{known.bytes / 1e3:.0f} kB"
    frames = f"{known.frames} frame{'s' if known.frames > 1 else ''}"
    timing = f"{frames} at {known.fps:.4g} a second, {known.frames / known.fps:.2f} s" if known.fps else frames
    return f"{known.format}, {known.width}x{known.height}, {timing}, {size}"


def _lines(recipe: Recipe) -> Iterator[str]:
    """A recipe for a person: names as the options have them, aligned; what is empty is left out."""
    entries = dict(_entries(recipe))
    width = max(map(len, entries))
    return (f"  {name:<{width}}  {value}" for name, value in entries.items())


def _entries(recipe: Recipe) -> Iterator[tuple[str, str]]:
    for name, value in to_dict(recipe).items():
        if name == "width" and value:
            yield "size", f"{value}x{recipe.height}"
        elif name == "center_x":
            yield "center", f"{value:g},{recipe.center_y:g}"
        elif name == "seed" and recipe.layout_only:
            continue  # of no noise
        elif name not in ("height", "center_y") and value not in ("", None, {}):
            yield spelled(name), _shown(value)


def _shown(value: Any) -> str:
    """A value as text that does nothing to a terminal: recipes come from anywhere."""
    if isinstance(value, dict):
        value = ", ".join(f"{key}: {item}" for key, item in value.items())
    if isinstance(value, bool):
        value = "yes" if value else "no"
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(value))
