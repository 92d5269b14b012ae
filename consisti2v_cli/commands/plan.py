"""What a run is going to make: settled and checked before a model is loaded."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consisti2v_cli.commands.inputs import Input
from consisti2v_cli.commands.output import Outputs
from consisti2v_cli.errors import ConsistI2VError, RequestError
from consisti2v_cli.recipe import Recipe, check

if TYPE_CHECKING:
    from consisti2v_cli.weights import ModelFolder

RECIPE_FIELDS = {entry.name for entry in fields(Recipe)}


@dataclass(frozen=True)
class Job:
    """One clip to make."""

    input: Input
    recipe: Recipe  # resolved: nothing is left open
    outputs: tuple[Path, ...]  # one a format


@dataclass(frozen=True)
class Plan:
    """A run: the clips to make, and the inputs of which none can be made."""

    folder: ModelFolder
    jobs: tuple[Job, ...]
    failures: tuple[str, ...]  # one message for each bad input of several


def requested_values(command: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's fields that the options name; those not given (None) are left to the model.

    Raises:
        RequestError: a value that no model can render.
    """
    values = {name: value for name, value in options.items() if name in RECIPE_FIELDS and value is not None}
    if options["size"]:
        values["width"], values["height"] = options["size"]
    values["seed"] = secrets.randbelow(2**32) if options["seed"] is None else options["seed"]
    values["command"] = command
    not_settled = {name: values[name] for name in ("device", "dtype") if values[name] == "auto"}
    check(Recipe(**{"prompt": "of no account here"} | {k: v for k, v in values.items() if k not in not_settled}))
    return values


def make_plan(
    inputs: list[Input], requested: Mapping[str, Any], folder: ModelFolder, outputs: Outputs, variations: int
) -> Plan:
    """Settle all clips of a run, looking at every image.

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
    if outputs.to_stdout and len(inputs) * variations > 1:
        raise RequestError(f"-o - takes one clip, not {len(inputs) * variations}.")
    for entry in inputs:
        _look_at(entry, requested)
    return Plan(folder, (), ())


def show(job: Job, memory: int) -> str:
    """A planned clip in a line for a person."""
    recipe = job.recipe
    return (
        f"{job.input.name} -> {', '.join(map(str, job.outputs))}: {recipe.width}x{recipe.height}, "
        f"{recipe.frames} frames at {recipe.fps:g} a second, {recipe.steps} steps of {recipe.sampler}, "
        f"seed {recipe.seed}, {recipe.model} in {recipe.dtype} on {recipe.device}, about {memory / 2**30:.1f} GiB"
    )
