"""What was asked for, input by input: from the command line, a recipe, and the rows of a manifest."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from consisti2v_cli.commands.inputs import Input, gather, printable, read_text, split_arguments
from consisti2v_cli.commands.manifest import Row, read_manifest
from consisti2v_cli.commands.output import Outputs
from consisti2v_cli.commands.values import read_base, requested_values
from consisti2v_cli.errors import ConsistI2VError, RequestError
from consisti2v_cli.recipe import RANGES, Recipe

Values = Mapping[str, Any]  # fields of a recipe, by name


@dataclass(frozen=True)
class Wish:
    """What was asked for one input."""

    input: Input
    values: Values  # from `requested_values`; the same object for all inputs that share them
    outputs: Outputs
    variations: int = 1
    asked: frozenset[str] = frozenset()  # names of the parameters that were asked for
    of_recipe: bool = False  # the rest comes from a recipe, be it of another machine
    any_seed: bool = False  # none was asked for: clips with others are as good
    vram: float | None = None  # GiB that it may take; None: what there is
    where: str = ""  # the manifest's line; what is wrong there concerns no other input

    def explain(self, error: Exception) -> str:
        """An error's message in one line, with the name of what it is about."""
        from consisti2v_cli.commands import explain

        message = printable(" ".join(explain(error)[0].removeprefix("Error: ").splitlines()))
        name, bare = self.where or self.input.shown, self.input.name
        if name in message:
            return message
        if bare and name.endswith(os.sep + bare) and message.startswith(bare):
            return name + message.removeprefix(bare)
        return f"{name}: {message}"


@dataclass(frozen=True)
class Request:
    """What a command was asked for."""

    command: str
    options: Mapping[str, Any]  # the click command's parameters, by name
    asked: frozenset[str]  # the names of those that were asked for
    base: Recipe | None  # where the others come from
    outputs: Outputs
    any_seed: bool  # none was asked for

    @classmethod
    def of(cls, command: str, options: Mapping[str, Any], asked: set[str], base: Recipe | None) -> Request:
        """From a command's parameters. RequestError for an impossible output or an unreadable --recipe."""
        drawn = secrets.randbelow(2**32)
        if base is None and options.get("recipe"):
            base = read_base(options["recipe"], seed=drawn)  # which may be a few settings, written by hand
        any_seed = options["seed"] is None and (base is None or base.seed == drawn)
        settled = {**options, "seed": drawn} if any_seed else options
        written = {name: options[name] for name in ("overwrite", "metadata")}
        return cls(
            command,
            settled,
            frozenset(asked),
            base,
            Outputs(options["output"], options["format"], **written, asked="output" in asked),
            any_seed,
        )

    @property
    def manifest(self) -> str | None:
        """The file that lists further inputs."""
        return self.options.get("manifest")

    def wishes(self, inputs: Iterable[Input], where: str = "") -> list[Wish]:
        """What is asked for each of some inputs. RequestError for values that no model can render."""
        values, variations = (
            requested_values(self.command, self.options, set(self.asked), self.base),
            self.options["variations"],
        )
        if values["seed"] + variations - 1 > RANGES["seed"][1]:
            raise RequestError(f"There are no {variations} seeds from {values['seed']} on; name a smaller --seed.")
        if values.get("layout_only") and variations > 1:
            raise RequestError(
                "--variations makes no sense with --layout-only, which has no noise: all would be the same."
            )
        common: dict[str, Any] = {
            "values": values,
            "outputs": self.outputs,
            "variations": variations,
            "asked": self.asked,
            "of_recipe": self.base is not None,
            "any_seed": self.any_seed,
            "vram": self.options.get("vram"),
            "where": where,
        }
        return [Wish(entry, **common) for entry in inputs]

    def of_row(self, row: Row) -> Request:
        """The request with what a row of the manifest says. RequestError for an impossible output or recipe."""
        options, base = {**self.options, **row.given}, self.base
        if "recipe" in row.given:
            base = read_base(os.path.join(os.path.dirname(self.manifest or ""), row.given["recipe"]))
        outputs = self.outputs.of_row(row.output, options["output"], options["format"], metadata=options["metadata"])
        any_seed = self.any_seed and base is None and "seed" not in row.given
        return Request(self.command, options, self.asked | set(row.given), base, outputs, any_seed)


def all_wishes(
    request: Request, images: Sequence[str], prompt: str | None, *, again: bool, on_notice: Callable[[str], None]
) -> list[Wish]:
    """What is asked for each input: those of the command line, then those of the manifest.

    Args:
        request: of the command.
        images, prompt: its arguments.
        again: a recipe is made again, and what was given as a prompt is one.
        on_notice: called with a sentence about what is left out of folders.

    Raises:
        RequestError: values that no model can render, no image, no prompt, an unreadable manifest.
    """
    base, silent = request.base, bool(request.options.get("layout_only"))
    if again:
        images, prompt = list(images), None if prompt is None else read_text(prompt)
        silent = silent or bool(base and base.layout_only)
    else:
        images, prompt = split_arguments(images, prompt, needed=not (silent or base or request.manifest))
    if prompt is None and base:
        prompt = base.prompt
    if not (images or request.manifest):
        example = f'consisti2v {request.command} boat.jpg "the boat drifts left"'
        raise RequestError(f"An image and a prompt are needed: {example}")
    inputs = gather(images, prompt, on_notice)
    if not (silent or request.manifest or any(map(_may_be_made, inputs))):
        raise RequestError(
            f"No image in {printable(images[0])} has a prompt; add what happens in the clips of all, or write it into "
            "NAME.txt beside NAME.png."
        )
    wishes = request.wishes(inputs)
    if request.manifest:
        for row in read_manifest(request.manifest, prompt, click.get_current_context()):
            wishes += _row_wishes(row, request)
    return wishes


def _may_be_made(entry: Input) -> bool:
    """Whether an input has a prompt, or more to say than that it has none."""
    return entry.problem is not None or entry.prompt_file is not None or entry.prompt is not None


def _row_wishes(row: Row, request: Request) -> Iterator[Wish]:
    """What a row of a manifest asks for; what is wrong with it is the problem of its inputs."""
    try:
        yield from request.of_row(row).wishes(row.inputs, row.where)
    except ConsistI2VError as error:
        for entry in row.inputs:
            problem = entry.problem or RequestError(str(error))
            yield Wish(replace(entry, problem=problem), {}, request.outputs, where=row.where)
