"""What a run is going to make: named over the whole run, then settled and checked, before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consisti2v_cli.commands.inputs import Input, printable
from consisti2v_cli.commands.output import Outputs
from consisti2v_cli.commands.values import AUTO
from consisti2v_cli.commands.wishes import Values, Wish
from consisti2v_cli.errors import ConsistI2VError, RequestError
from consisti2v_cli.recipe import SIZE_STEP, Recipe

if TYPE_CHECKING:
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.plans import MemoryPlan
    from consisti2v_cli.weights import ModelFolder

SHOWN = 60  # letters of a prompt in a plan
WAYS = {"attention": "sdpa", "compile": False}  # to compute the network, that work everywhere


@dataclass(frozen=True)
class Order:
    """One clip of a run, with its names; or an input that is bad."""

    wish: Wish
    draft: Recipe | None = None  # with what is known without looking at the image; None in trouble
    paths: tuple[Path, ...] = ()  # one a format
    problem: ConsistI2VError | None = None


@dataclass(frozen=True)
class Job:
    """One clip to make."""

    wish: Wish
    recipe: Recipe  # nothing in it is left open
    paths: tuple[Path, ...]  # one a format, of which some may be made already
    folder: ModelFolder  # the model's
    photo: tuple[int, int]  # its width and height in pixels
    memory: int  # bytes at the peak, roughly
    plan: MemoryPlan  # what is done to need no more

    @property
    def input(self) -> Input:
        return self.wish.input

    @property
    def outputs(self) -> Outputs:
        return self.wish.outputs


def take_orders(wishes: Sequence[Wish]) -> list[Order]:
    """Name the clips of a whole run, in its order, whatever exists already: the same on each of several machines.

    Raises:
        RequestError: the place of the outputs cannot be written to.
    """
    return [order for wish in wishes for order in _orders(wish)]


def _orders(wish: Wish) -> Iterator[Order]:
    try:
        if wish.input.problem:
            raise wish.input.problem
        drafts = list(_drafts(wish))
    except RequestError as error:
        yield Order(wish, problem=error)
        return
    for draft in drafts:
        try:
            yield Order(wish, draft, tuple(wish.outputs.reserve(draft, wish.input.stem)))
        except RequestError as error:
            if not wish.where:
                raise
            yield Order(wish, problem=error)


def _drafts(wish: Wish) -> Iterator[Recipe]:
    """The recipes of one input, without what depends on the image, the model and the machine."""
    prompt = wish.input.read_prompt()
    if prompt is None and not wish.values.get("layout_only"):
        raise RequestError(f"{wish.input.shown} has no prompt: say what happens in it.")
    draft = Recipe(**{**wish.values, "prompt": prompt or "", "input_name": wish.input.name})
    for variation in range(wish.variations):
        yield replace(draft, seed=draft.seed + variation)


def heading(job: Job, outputs: Sequence[str]) -> str:
    """How a plan for a person begins: from what to what, the prompt, shortened and on one line, and the size."""
    text = printable(" ".join(job.recipe.prompt.split()))
    prompt = f'"{text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."}", ' if text else ""
    target = ", ".join(outputs) or "standard output"
    return f"{job.input.name} -> {target}: {prompt}{job.recipe.width}x{job.recipe.height}"


def read_shard(text: str | None) -> tuple[int, int]:
    """'2/3' -> (1, 3): the number of the part, from 0, and how many there are. RequestError on anything else."""
    if text is None:
        return 0, 1
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts) <= 1_000_000):
        raise RequestError(f"--shard is {text!r}; possible: 1/N to N/N, the parts that a run is cut into, such as 1/4.")
    return int(part) - 1, int(parts)


class Settler:
    """Settles orders: knows the models' own values, and what this machine has; says each thing once."""

    def __init__(self, command: str, console: Console) -> None:
        self.command = command
        self.console = console
        self._folders: dict[tuple[str | None, str | None], ModelFolder | ConsistI2VError] = {}
        self._known: dict[tuple[int, int], tuple[Wish, ModelFolder, dict[str, Any]]] = {}

    def settle(self, order: Order, *, thorough: bool) -> Job:
        """Look at an order's image, and settle its recipe.

        Args:
            order: to be settled.
            thorough: decode the image, all of it; otherwise its header and its hash are enough.

        Raises:
            ConsistI2VError: it cannot be made, for reasons of its own or of the whole run.
        """
        from consisti2v_cli.budget import choose_plan
        from consisti2v_cli.media.image import read_image, read_size
        from consisti2v_cli.resolve import resolve

        if order.draft is None:
            raise order.problem or RequestError("nothing was asked for")
        wish, entry = order.wish, order.wish.input
        folder, values = self.shared(wish)
        size = read_size(entry.source, name=entry.shown)
        if thorough:
            read_image(entry.source, background=values["background"], name=entry.shown)
        own = {"prompt": order.draft.prompt, "seed": order.draft.seed, "input_name": entry.name}
        recipe = resolve(Recipe(**{**values, **own}), entry.source, folder, size=size)
        plan, memory = choose_plan(recipe, folder, size, wish.vram)
        return Job(wish, recipe, order.paths, folder, size, memory, plan)

    def shared(self, wish: Wish) -> tuple[ModelFolder, dict[str, Any]]:
        """The model, and the fields of the recipe that do not depend on the image: what was asked for, then the
        model's own; checked.

        Raises:
            ConsistI2VError: they cannot be made, or the model is not here.
        """
        known = (id(wish.values), id(wish.outputs))
        if known not in self._known:
            self._known[known] = (wish, *self._find_out(wish))  # the wish too: while it lives, the ids are its own
        _, folder, values = self._known[known]
        return folder, values

    def _find_out(self, wish: Wish) -> tuple[ModelFolder, dict[str, Any]]:
        from consisti2v_cli.commands.values import check_bounded
        from consisti2v_cli.media.image import parse_colour
        from consisti2v_cli.media.video import check_format
        from consisti2v_cli.resolve import model_defaults

        check_bounded(wish.outputs.formats, wish.values.get("max_size"))
        folder = self._folder(wish.values)
        values = {**model_defaults(folder, self.command), **wish.values}
        parse_colour(values["background"])
        for format in wish.outputs.formats:
            check_format(format, SIZE_STEP, SIZE_STEP, values.get("smooth") or values["fps"])  # sizes are multiples
        if values.get("layout_only"):  # no device is needed: torch is not imported to ask for them
            return folder, values | {"device": "cpu", "dtype": "fp32"}
        values |= self._place(values, wish)
        return folder, self._ways(values, wish)

    def _folder(self, asked: Values) -> ModelFolder:
        from consisti2v_cli.commands.making import find_model
        from consisti2v_cli.weights import choose

        name, revision = asked.get("model"), asked.get("revision")
        if asked.get("layout_only"):
            name = name or choose()  # its size and frames count, and nothing else of it: no word about it
        if (name, revision) not in self._folders:
            try:
                self._folders[name, revision] = find_model(name, self.console, revision)
            except ConsistI2VError as error:
                self._folders[name, revision] = error
        found = self._folders[name, revision]
        if isinstance(found, ConsistI2VError):
            raise found
        return found

    def _place(self, values: Values, wish: Wish) -> dict[str, str]:
        """Device and precision. Where this machine lacks a recipe's device, another will do."""
        from consisti2v_cli.weights.devices import choose_device, choose_dtype

        device, dtype = values["device"], values["dtype"]
        try:
            place = choose_device(device)
        except RequestError:
            if not wish.of_recipe or "device" in wish.asked:
                raise
            place = choose_device()
            dtype = dtype if "dtype" in wish.asked else AUTO
            self.console.notice(f"The recipe was made on {device}, which this machine lacks; {place} is used.")
        return {"device": place, "dtype": choose_dtype(dtype, place)}

    def _ways(self, values: dict[str, Any], wish: Wish) -> dict[str, Any]:
        """How the network is computed. Where a recipe's way does not work here, the usual one will do."""
        for name, usual in WAYS.items():
            try:
                _check_way(name, values)
            except RequestError as error:
                if not wish.of_recipe or name in wish.asked:
                    raise
                self.console.notice(f"Not as in the recipe: {error}")
                values = {**values, name: usual}
        return values


def _check_way(name: str, values: Values) -> None:
    """Raise RequestError where the network cannot be computed here in a way, of `WAYS`, that was asked for."""
    if values.get(name) not in ("xformers", True):
        return
    import torch

    from consisti2v_cli.weights.backends import check_attention, check_compiler
    from consisti2v_cli.weights.load import DTYPES

    device = torch.device(values["device"])
    if name == "compile":
        check_compiler(device)
    else:
        check_attention(values["attention"], device, DTYPES[values["dtype"]])
