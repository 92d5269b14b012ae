"""What a run is going to make: settled and checked before a model is loaded."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consisti2v_cli.commands.inputs import Input
from consisti2v_cli.commands.memory import estimate_memory
from consisti2v_cli.commands.output import Outputs
from consisti2v_cli.errors import RequestError
from consisti2v_cli.recipe import SIZE_STEP, Recipe, check

if TYPE_CHECKING:
    from consisti2v_cli.weights import ModelFolder

RECIPE_FIELDS = {entry.name for entry in fields(Recipe)}
AUTO = "auto"


@dataclass(frozen=True)
class Job:
    """One clip to make."""

    input: Input
    recipe: Recipe  # nothing in it is left open
    outputs: tuple[Path, ...]  # one a format
    memory: int  # bytes at the peak, roughly


@dataclass(frozen=True)
class Plan:
    """A run: the clips to make, and a message for each of several inputs that is bad."""

    jobs: tuple[Job, ...]
    failures: tuple[str, ...]


def requested_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's fields that the options name; those that were not given are left to the model.

    Raises:
        RequestError: a value that no model can render.
    """
    values = {name: value for name, value in options.items() if name in RECIPE_FIELDS and value is not None}
    if options["size"]:
        values["width"], values["height"] = options["size"]
    if "seed" not in values:
        values["seed"] = secrets.randbelow(2**32)
    settled = {name: value for name, value in values.items() if value != AUTO}
    check(Recipe(**settled | {"prompt": "stands for those that are not read yet"}))
    if values["attention"] == "xformers" and not find_spec("xformers"):
        raise RequestError("attention is 'xformers', which is not installed: pip install 'consisti2v-cli[xformers]'")
    return values


def make_plan(
    inputs: Sequence[Input], requested: Mapping[str, Any], folder: ModelFolder, outputs: Outputs, variations: int
) -> Plan:
    """Look at every image, and settle all clips of a run.

    Args:
        inputs: from `gather`.
        requested: from `requested_values`.
        folder: the model's.
        outputs: names the files.
        variations: clips for each image, with seeds that follow each other.

    Raises:
        RequestError: something is wrong with the request, or with its only input. Of several inputs, the bad ones
            become `failures`.
    """
    values = _with_defaults(requested, folder, outputs)
    jobs: list[Job] = []
    failures: list[str] = []
    for entry in inputs:
        try:
            jobs += _settle(entry, values, folder, outputs, variations)
        except RequestError as error:
            if len(inputs) == 1:
                raise
            failures.append(named(entry.name, error))
    return Plan(tuple(jobs), tuple(failures))


def named(name: str, error: Exception) -> str:
    """The error's message, with the name of what it is about."""
    return str(error) if name in str(error) else f"{name}: {error}"


def _with_defaults(requested: Mapping[str, Any], folder: ModelFolder, outputs: Outputs) -> dict[str, Any]:
    """The fields of the recipe that all clips share: what was asked for, then the model's own defaults; checked."""
    from consisti2v_cli.media.image import parse_colour
    from consisti2v_cli.media.video import check_format
    from consisti2v_cli.weights import read_settings
    from consisti2v_cli.weights.devices import choose_device, choose_dtype

    values = asdict(read_settings(folder)) | dict(requested)
    del values["native_size"]
    parse_colour(values["background"])
    for format in outputs.formats:
        check_format(format, SIZE_STEP, SIZE_STEP, values["fps"])  # all sizes are multiples of it
    values["device"] = choose_device(values["device"])
    values["dtype"] = choose_dtype(values["dtype"], values["device"])
    return values


def _settle(
    entry: Input, values: Mapping[str, Any], folder: ModelFolder, outputs: Outputs, variations: int
) -> Iterator[Job]:
    """The clips of one input."""
    from consisti2v_cli.media.image import read_image
    from consisti2v_cli.render import resolve

    if entry.problem:
        raise entry.problem
    read_image(entry.source, background=values["background"], name=entry.name)  # all of it, not the header alone
    recipe = Recipe(**dict(values) | {"prompt": entry.read_prompt(), "input_name": entry.name})
    recipe = resolve(recipe, entry.source, folder)
    memory = estimate_memory(recipe, folder)
    for variation in range(variations):
        varied = replace(recipe, seed=recipe.seed + variation)
        check(varied)
        yield Job(entry, varied, tuple(outputs.next_clip(varied, entry.stem)), memory)
