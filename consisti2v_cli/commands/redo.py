"""`consisti2v redo`: the recipe in a clip again, with changes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from consisti2v_cli.commands.inputs import looks_like
from consisti2v_cli.commands.options import (
    BOUNDED,
    FORMATS,
    camera_options,
    config_options,
    extend_options,
    machine_options,
    model_options,
    option,
    output_options,
    pan_options,
    picture_options,
    result_options,
    sampling_options,
    seed_options,
    talk_options,
    together,
    zoom_options,
)
from consisti2v_cli.commands.parsing import PATH
from consisti2v_cli.errors import RequestError
from consisti2v_cli.recipe import OWN, Recipe

if TYPE_CHECKING:
    from consisti2v_cli.commands.console import Console

STANDARD_INPUT = STANDARD_OUTPUT = "-"
FIELDS = {"zoom_in": "zoom", "center": "center_x"}  # of the recipe, for the parameters with another name

EXAMPLES = """\b
Examples:
  consisti2v redo boat.mp4 --seed +1
  consisti2v redo boat.mp4 --frames 24 --steps 50 -o boat-long.mp4
  consisti2v redo boat.mp4 --prompt "the boat drifts right" --input photos/boat.jpg
"""

again_options = together(
    option(
        "--prompt",
        metavar="TEXT",
        default=None,
        default_text="the recipe's",
        help="Another prompt; @FILE reads it from a file.",
    ),
    option(
        "--input",
        metavar="PATH",
        type=PATH,
        default=None,
        default_text="the recipe's, where it was used last, here, or beside FILE",
        help="What to make it from; - for standard input.",
    ),
)


@click.command(epilog=EXAMPLES, short_help="Make a clip's recipe again, with changes.")
@click.argument("file", type=PATH, metavar="FILE")
@again_options
@pan_options
@zoom_options
@camera_options
@extend_options
@output_options
@model_options
@seed_options
@picture_options
@sampling_options
@machine_options
@result_options
@config_options
@talk_options
@click.pass_context
def redo(context: click.Context, /, file: str, input: str | None, prompt: str | None, **options: Any) -> int:
    """Make the recipe in FILE again. What is not given stays as it was, the seed too.

    FILE is a clip that consisti2v made, or its recipe in a JSON file. What it was made from is looked for where it was
    used last, in the current folder, and beside FILE, there under any name; its content must be the same. The new clip
    is named after FILE.
    """
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.commands.making import make_clips
    from consisti2v_cli.commands.values import asked_for

    recipe = _read(file)
    asked = asked_for(context) - {"file", "input", "prompt"}
    _check_command(context, recipe, file)
    _check_model(recipe, asked, file)
    console = Console(quiet=options["quiet"], verbosity=options["verbose"])
    source = _given(input, recipe, console) if input else _find(recipe, file)
    formats = _formats(options, file)
    recipe = _within_reach(recipe, formats, asked)
    output = _own_name(file, formats) if options["output"] == "{name}" else options["output"]
    options = {**options, "output": output, "format": formats, "recipe": None, "manifest": None, "shard": None}
    if recipe.command == "extend":
        from consisti2v_cli.commands.extend import extend_film

        return extend_film(source, prompt, options, asked, base=recipe)
    return make_clips(recipe.command, [source], prompt, options, asked, base=recipe)


def _read(file: str) -> Recipe:
    """The recipe in a clip or a JSON file, or the one that is remembered for a clip without. RequestError if none."""
    from consisti2v_cli.commands.info import carried
    from consisti2v_cli.commands.values import read_base

    found = None
    if Path(file).suffix.lower() != ".json":
        with suppress(RequestError):
            found = carried(Path(file))
    return found or read_base(file)  # which says what is wrong


def _check_command(context: click.Context, recipe: Recipe, file: str) -> None:
    """RequestError for an option on the command line that means something to other commands only."""
    for parameter in context.command.params:
        name = parameter.name or ""
        owners = OWN.get(FIELDS.get(name, name), (recipe.command,))
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and recipe.command not in owners:
            spelled = "/".join((*parameter.opts, *parameter.secondary_opts))
            raise RequestError(f"{spelled} belongs to {' and '.join(owners)}; {file} was made by {recipe.command}.")


def _check_model(recipe: Recipe, asked: set[str], file: str) -> None:
    """RequestError where the recipe's model is a folder of which only the name is known."""
    from consisti2v_cli.weights.registry import hub_repo, local_folder

    known = recipe.layout_only or "model" in asked or hub_repo(recipe.model) or local_folder(recipe.model)
    if not known:
        raise RequestError(f"{file} was made with the model in a folder {recipe.model}; say where it is with --model.")


def _given(path: str, recipe: Recipe, console: Console) -> str:
    """The input that --input names, with a notice if it is not the recipe's. What cannot be read is said elsewhere."""
    if path != STANDARD_INPUT and recipe.input_sha256 and os.path.exists(path) and not _is_source(path, recipe):
        console.notice(f"{path} is not the {recipe.input_name or 'input'} that the recipe was made from; it is used.")
    return path


def _find(recipe: Recipe, file: str) -> str:
    """The recipe's input on this machine, preferably under the recipe's name. RequestError if it is not found."""
    found = [path for path in _candidates(recipe, file) if _is_source(path, recipe)]
    found = found or [path for path in _beside(file) if recipe.input_sha256 and _is_source(path, recipe)]
    if not found:
        known = f" (sha256 {recipe.input_sha256[:12]}...)" if recipe.input_sha256 else ""
        raise RequestError(
            f"{file} was made from {recipe.input_name or 'an image without a name'}{known}, which is not found; "
            "say where it is with --input."
        )
    same_name = [path for path in found if path.name == recipe.input_name]
    return str((same_name or found)[0])


def _candidates(recipe: Recipe, file: str) -> Iterator[Path]:
    from consisti2v_cli.state import find_source

    name = Path(recipe.input_name).name  # never outside of these folders, whatever a recipe says
    if name not in ("", ".", ".."):
        yield Path(name)
        yield Path(file).parent / name
    remembered = find_source(recipe.input_sha256) if recipe.input_sha256 else None
    if remembered:
        yield remembered


def _beside(file: str) -> Iterator[Path]:
    """The images and films in the folder of a clip: its input may have another name by now."""
    with suppress(OSError):
        yield from (path for path in sorted(Path(file).parent.iterdir()) if looks_like(path.name) and path.is_file())


def _is_source(path: str | Path, recipe: Recipe) -> bool:
    """Whether a file, or folder of frames, has the content that a recipe names; where it names none, any file."""
    from consisti2v_cli.state import content_sha256

    try:
        if not recipe.input_sha256:
            return os.path.isfile(path)
        return os.path.exists(path) and content_sha256(path) == recipe.input_sha256
    except OSError:
        return False


def _own_name(file: str, formats: tuple[str, ...]) -> str:
    """The template that names what is made after FILE, in the current folder; after its input for a mere recipe."""
    path = Path(file)
    if path.suffix.lower() == ".json":
        return "{name}"
    name = path.resolve().name if path.is_dir() else path.stem
    suffix = f".{formats[0]}" if formats else ""  # without one, a folder of that name would be where the clip goes
    return name.replace("{", "{{").replace("}", "}}") + suffix


def _formats(options: Mapping[str, Any], file: str) -> tuple[str, ...]:
    """The formats to write: as FILE, where neither -f nor -o say another; none where that is an error."""
    from consisti2v_cli.commands.info import format_of

    output, path = options["output"], Path(file)
    if options["format"]:
        return tuple(options["format"])
    if suffix := os.path.splitext(output)[1]:
        named = suffix[1:].lower()
        return (named,) if named in FORMATS else ()
    own = "" if path.suffix.lower() == ".json" else format_of(path)
    return (own,) if own in FORMATS and not (output == STANDARD_OUTPUT and own == "png") else ()


def _within_reach(recipe: Recipe, formats: tuple[str, ...], asked: set[str]) -> Recipe:
    """The recipe without its largest size where no format that is written now can keep to one."""
    unbounded = formats and not set(formats) & set(BOUNDED)
    return replace(recipe, max_size=None) if unbounded and "max_size" not in asked else recipe
