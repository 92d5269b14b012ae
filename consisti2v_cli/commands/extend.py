"""`consisti2v extend`: long clips, from an image or from the end of another clip."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from consisti2v_cli.commands.options import extend_options, making_options
from consisti2v_cli.commands.parsing import PATH
from consisti2v_cli.errors import RequestError
from consisti2v_cli.recipe import Recipe, spelled, to_dict

if TYPE_CHECKING:
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.commands.inputs import Input
    from consisti2v_cli.commands.plan import Job
    from consisti2v_cli.commands.wishes import Request, Wish
    from consisti2v_cli.sources import Beginning

STANDARD_INPUT = "-"
NOT_TAKEN = ("negative", "frames", "motion", "guidance", "steps", "sampler")  # of a source clip's recipe

EXAMPLES = """\b
Examples:
  consisti2v extend boat.jpg "the boat drifts left" --chunks 4
  consisti2v extend boat.mp4 "the boat stops" --join -o longer.mp4
  consisti2v extend --chunks 2 --prompt-at 2 "it gets dark"
"""


@click.command(epilog=EXAMPLES, short_help="Make a long clip, or go on with one.")
@click.argument("source", required=False, type=PATH, metavar="[SOURCE]")
@click.argument("prompt", required=False, metavar="[PROMPT]")
@extend_options
@making_options
@click.pass_context
def extend(context: click.Context, /, source: str | None, prompt: str | None, **options: Any) -> int:
    """Make a long clip of several chunks, each of which begins with the last frame of the one before.

    SOURCE is an image, - for one from standard input, or a film, whose last frame the clip begins with; without it, the
    last clip that was made. PROMPT, or @FILE, says what happens; by default what the recipe in SOURCE says.

    A run that was interrupted goes on where it was when the same is asked for again.
    """
    from consisti2v_cli.commands.values import asked_for

    return extend_film(*told_apart(source, prompt), options, asked_for(context))


def told_apart(source: str | None, prompt: str | None) -> tuple[str | None, str | None]:
    """SOURCE and PROMPT of what was given: a single argument is SOURCE if it exists, or looks like a file."""
    from consisti2v_cli.commands.inputs import looks_like, printable

    if source == "":
        raise RequestError("SOURCE is an empty argument; is a variable of the shell not set?")
    if prompt is not None and (kind := looks_like(prompt)) and os.path.exists(prompt):
        raise RequestError(f"extend takes one source, and then the prompt; {printable(prompt)} is another {kind}.")
    if prompt is not None or source is None or source == STANDARD_INPUT or os.path.exists(source):
        return source, prompt
    named = looks_like(source) or (os.sep in source and len(source.split()) == 1)
    return (source, None) if named and not source.startswith("@") else (None, source)


def extend_film(
    source: str | None, prompt: str | None, options: Mapping[str, Any], asked: set[str], base: Recipe | None = None
) -> int:
    """Run `extend`, or make one of its recipes again.

    Args:
        source: an image, a film, `-`; None for the last clip that was made.
        prompt: as given; `@FILE` stands for what is in it. None for the recipe's, or the source's.
        options: the click command's parameters, by name.
        asked: the names of those that were asked for, from `values.asked_for`.
        base: a recipe that is made again; by default the one of --recipe is where the rest comes from.

    Returns:
        The exit code.

    Raises:
        ConsistI2VError: the request is wrong, or a run of one film failed.
        KeyboardInterrupt: when the running step is done.
    """
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.commands.filming import Filming
    from consisti2v_cli.commands.wishes import Request
    from consisti2v_cli.work import remove_forgotten

    console = Console(quiet=options["quiet"], verbosity=options["verbose"])
    request = Request.of("extend", options, asked, base)
    for notice in request.outputs.notices:
        console.notice(notice)
    request.outputs.check_use(options["variations"], as_json=options["json"])
    if sentence := request.outputs.numbering(options["variations"]):
        console.notice(sentence)
    remove_forgotten()
    wish, beginning = _wish(source, prompt, request, console)
    request.outputs.protect([wish.input.source])
    jobs, beginning = _jobs(wish, beginning, console)
    if beginning.recipe and request.base is None and (left := _not_taken_over(beginning.recipe, jobs[0].recipe, asked)):
        console.notice(f"{beginning.name} was made with {left}; --recipe {wish.input.shown} takes that over.")
    filming = Filming(jobs, beginning, options, console, again=base is not None)
    if options["dry_run"]:
        return filming.show()
    _explain(beginning, jobs[0].recipe, console)
    return filming.make()


def _wish(source: str | None, prompt: str | None, request: Request, console: Console) -> tuple[Wish, Beginning]:
    """What is asked for, and what the film begins with, whose own recipe says what nobody else did.

    Raises:
        RequestError: no source, an unreadable one, no prompt, values that no model can render.
    """
    from consisti2v_cli.commands.inputs import read_text
    from consisti2v_cli.sources import begin, prompt_of

    text = read_text(prompt) if prompt is not None else request.base.prompt if request.base else None
    (wish,) = request.wishes([_input(source, text, console)])
    if wish.input.problem:
        raise wish.input.problem
    values = dict(wish.values)
    beginning = begin(wish.input.source, name=wish.input.name, background=values["background"])
    if beginning.recipe is not None:
        own, chunks = beginning.recipe, beginning.recipe.chunks
        text = text or prompt_of(own, chunks)
        inherited = {"fps": own.fps} | ({} if "width" in values else {"width": own.width, "height": own.height})
        values = inherited | values
    if not text:
        raise RequestError(f'What happens in the clip? consisti2v extend {wish.input.shown} "the boat drifts left"')
    if values["join"] and not beginning.film:
        if "join" in request.asked:
            raise RequestError(f"--join puts the frames of a film in front; {wish.input.shown} is an image.")
        values["join"] = False
    return replace(wish, values=values, input=replace(wish.input, prompt=text)), beginning


def _input(source: str | None, prompt: str | None, console: Console) -> Input:
    """What was given as SOURCE, or the last clip that was made. RequestError where there is none."""
    from consisti2v_cli.commands.inputs import Input, gather, printable
    from consisti2v_cli.state import last_clip

    if source is not None and (source == STANDARD_INPUT or Path(source).is_fifo()):
        return gather([source], prompt)[0]
    path = Path(source) if source is not None else last_clip()
    advice = 'name an image or a film: consisti2v extend boat.jpg "the boat drifts left"'
    if path is None:
        raise RequestError(f"There is no last clip to go on with; {advice}")
    if source is None:
        if not path.exists():
            raise RequestError(f"The last clip that was made, {printable(str(path))}, is gone; {advice}")
        console.notice(f"Going on with {printable(str(path))}")
    return Input(printable(path.resolve().name), printable(source or str(path)), path, prompt)


def _jobs(wish: Wish, beginning: Beginning, console: Console) -> tuple[list[Job], Beginning]:
    """The films to make, one a variation, and what they begin with, with its exact latent.

    Where no seed was asked for, that of an unfinished film is taken, and it is gone on with.
    """
    from consisti2v_cli.budget import choose_plan
    from consisti2v_cli.commands.plan import Job, Settler, take_orders
    from consisti2v_cli.sources import settle
    from consisti2v_cli.work import find_unfinished

    model, values = Settler("extend", console).shared(wish)
    own = {"prompt": wish.input.prompt, "input_name": wish.input.name}
    recipe, beginning = settle(Recipe(**{**values, **own}), beginning, model)
    seed = recipe.seed
    if wish.any_seed and (begun := find_unfinished(recipe, model)):
        seed = begun.first_seed
        console.notice(
            f"Seed: {seed}. Going on with a film that was begun: {begun.done} of its {recipe.chunks} chunks are there; "
            "another --seed makes another one."
        )
    elif wish.any_seed:
        console.notice(f"Seed: {seed}")
    wish = replace(wish, values={**wish.values, "seed": seed}, any_seed=False)
    orders = take_orders([wish])
    if orders[0].problem:
        raise orders[0].problem
    height, width, _ = beginning.picture.shape
    size = (width, height)
    plan, memory = choose_plan(recipe, model, size, wish.vram)
    recipes = [replace(recipe, seed=order.draft.seed) for order in orders if order.draft]
    each = zip(recipes, orders, strict=True)
    return [Job(wish, recipe, order.paths, model, size, memory, plan) for recipe, order in each], beginning


def _not_taken_over(own: Recipe, recipe: Recipe, asked: set[str]) -> str:
    """What a source clip's recipe says otherwise than the one that goes on from it, though nobody asked for that."""
    said = to_dict(own)
    names = [name for name in NOT_TAKEN if name in said and name not in asked]
    differing = [name for name in names if said[name] != getattr(recipe, name)]
    return ", ".join(
        f"{spelled(name)} {said[name] or 'empty'} (now {getattr(recipe, name) or 'empty'})" for name in differing
    )


def _explain(beginning: Beginning, recipe: Recipe, console: Console) -> None:
    """Say what the film goes on from, and whether that stands in front."""
    if not beginning.film:
        return
    why = "its exact latent was not kept for this model and size" if beginning.recipe else "it was not made here"
    ways = {
        "latent": "from the exact latent of its last frame",
        "frame": f"from its last frame, encoded again: {why}",
    }
    console.notice(f"{beginning.name}: going on {ways[recipe.start]}.")
    if recipe.join:
        new = recipe.chunks * (recipe.frames - 1) + 1
        front = beginning.length(recipe) - new
        console.notice(f"{front} frames of {beginning.name} stand in front of {new} new ones.")
    else:
        console.notice(f"The clip begins with the last frame of {beginning.name}; --join puts the others in front.")
