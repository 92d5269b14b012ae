"""What was asked for: options, environment, recipe and configuration, in the order in which they win."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from consisti2v_cli.commands.options import BOUNDED
from consisti2v_cli.errors import RequestError
from consisti2v_cli.recipe import FAST, OF_MODEL, RANGES, Recipe, check, from_json, own_fields
from consisti2v_cli.text import read_text_file

AUTO = "auto"
FOUND_OUT = {"command", "input_name", "input_sha256", "versions", "start"}  # fields that are not asked for
ELSEWHERE = {"prompt"}  # an argument of the command, which is read with the inputs

_ASKED = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def asked_for(context: click.Context) -> set[str]:
    """The names of the parameters that were given as an option or in the environment, be it with their defaults."""
    return {name for name in context.params if context.get_parameter_source(name) in _ASKED}


def requested_values(
    command: str, options: Mapping[str, Any], asked: set[str], base: Recipe | None = None
) -> dict[str, Any]:
    """The recipe's fields that are settled by what was asked for; the others are left to the model.

    What was asked for wins over the base recipe, and that over configured and built-in defaults.

    Args:
        command: that makes the clip.
        options: the command's parameters, by name.
        asked: from `asked_for`.
        base: the recipe of --recipe, or that is made again.

    Returns:
        Values by field, `command`, `seed`, `device` and `dtype` always among them; the last two may be `auto`.

    Raises:
        RequestError: a value that no model can render.
    """
    own = own_fields(command) - FOUND_OUT - ELSEWHERE
    written = _fields(options, own)
    if base is None:
        values = {name: value for name, value in written.items() if value is not None}
    else:
        known = own_fields(base.command) - (OF_MODEL if base.layout_only else frozenset())
        kept = {name: getattr(base, name) for name in own & known}
        given = _fields({name: value for name, value in options.items() if name in asked}, own)
        if "model" in given:
            kept.pop("revision", None)
        values = {name: value for name, value in written.items() if value is not None} | kept | given
        if base.start == "frame" and command == base.command:
            values["start"] = base.start  # what was encoded again is so once more
        if "chunks" in given and "prompt_at" not in given:  # those of chunks that are no more
            values["prompt_at"] = {n: text for n, text in base.prompt_at.items() if int(n) <= values["chunks"]}
    if options.get("fast"):
        values |= _fast(
            values, _fields({name: value for name, value in options.items() if name in asked}, own), asked, base
        )
    values["seed"] = _seed(values.get("seed"), base)
    values["command"] = command
    _check(values)
    return values


def _fast(values: Mapping[str, Any], given: Mapping[str, Any], asked: set[str], base: Recipe | None) -> dict[str, Any]:
    """What --fast settles: all that is not given beside it; configured, what no recipe and no configuration settles."""
    if "fast" in asked:
        return {name: value for name, value in FAST.items() if given.get(name) is None}
    if base is not None:
        return {}
    return {name: value for name, value in FAST.items() if name not in values}


def _fields(options: Mapping[str, Any], own: frozenset[str] | set[str]) -> dict[str, Any]:
    """Options as fields of the recipe: sizes, points and the like taken apart."""
    values = {name: value for name, value in options.items() if name in own}
    if options.get("size"):
        values["width"], values["height"] = options["size"]
    if "zoom" in own and "zoom_in" in options:
        values["zoom"] = "in" if options["zoom_in"] else "out"
    if "center_x" in own and "center" in options:
        values["center_x"], values["center_y"] = options["center"]
    if "guidance_begin" in own and options.get("guidance_interval"):
        values["guidance_begin"], values["guidance_end"] = options["guidance_interval"]
    if "prompt_at" in values:
        values["prompt_at"] = {str(chunk): text for chunk, text in values["prompt_at"]}
    return values


def _seed(asked: int | str | None, base: Recipe | None) -> int:
    """The seed itself: random where none was asked for, counted from the recipe's for +N and -N."""
    if asked is None:
        return secrets.randbelow(2**32)
    if isinstance(asked, int):
        return asked
    if base is None:
        possible = f"possible without a recipe: {RANGES['seed'][0]} to {RANGES['seed'][1]}"
        raise RequestError(f"seed is {asked}, which counts from the seed of a recipe (--recipe, redo); {possible}.")
    seed = base.seed + int(asked)
    if not RANGES["seed"][0] <= seed <= RANGES["seed"][1]:
        raise RequestError(
            f"seed is {asked} from {base.seed}, which is {seed}; possible: {RANGES['seed'][0]} to {RANGES['seed'][1]}."
        )
    return seed


def _check(values: Mapping[str, Any]) -> None:
    settled = {name: value for name, value in values.items() if value != AUTO}
    check(Recipe(**{"prompt": "stands for those that are not read yet"} | settled))


def check_bounded(formats: list[str], max_size: int | None) -> None:
    """Raise RequestError if one of the formats cannot be kept below a size."""
    if max_size is not None and (others := [name for name in formats if name not in BOUNDED]):
        raise RequestError(f"--max-size cannot bound {', '.join(others)}; possible: {', '.join(BOUNDED)}.")


def read_base(file: str, **otherwise: Any) -> Recipe:
    """The recipe in a clip, or in a file of JSON.

    Args:
        file: its path.
        otherwise: fields that it may lack. A prompt may be given elsewhere, and is checked later.

    Raises:
        RequestError: there is none, or one that cannot be read.
    """
    from consisti2v_cli.media.metadata import read_recipe

    path = Path(file)
    try:
        text = read_text_file(path) if path.suffix.lower() == ".json" else read_recipe(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RequestError(f"The recipe {file} cannot be read: {reason}.") from None
    if text is None:
        raise RequestError(f"{file} carries no recipe: it was not made by consisti2v, or with --no-metadata.")
    try:
        return from_json(text, prompt="", **otherwise)
    except RequestError as error:
        raise RequestError(f"{file}: {error}") from None
