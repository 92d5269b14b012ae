"""The whole run of a command that makes clips of photos; and what it shares with others: loading and saving."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from consisti2v_cli.errors import ConsistI2VError, TakenError
from consisti2v_cli.recipe import to_dict

if TYPE_CHECKING:
    from pathlib import Path

    from consisti2v_cli.clip import Film
    from consisti2v_cli.commands.batch import Batch
    from consisti2v_cli.commands.claims import Claim, Claims
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.commands.output import Outputs
    from consisti2v_cli.commands.plan import Job, Order, Settler
    from consisti2v_cli.commands.wishes import Wish
    from consisti2v_cli.recipe import Recipe
    from consisti2v_cli.weights import ModelFolder
    from consisti2v_cli.weights.load import Model

OF_THE_PROCESS = (
    "quiet",
    "verbose",
    "json",
    "preview",
    "shard",
    "device",
    "vram",
)  # options that change no clip's name
MANY = 100  # inputs: looking at so many takes long enough for a progress bar


def make_clips(
    command: str,
    images: Sequence[str],
    prompt: str | None,
    options: Mapping[str, Any],
    asked: set[str],
    base: Recipe | None = None,
) -> int:
    """Run `animate`, `pan` or `zoom`, or make their recipes again.

    Args:
        command: that makes the clips.
        images: files, folders, `-`.
        prompt: as given; `@FILE` stands for what is in it.
        options: the click command's parameters, by name.
        asked: the names of those that were asked for, from `values.asked_for`.
        base: a recipe that is made again; by default the one of --recipe is where the rest comes from.

    Returns:
        The exit code.

    Raises:
        ConsistI2VError: the request is wrong, or a run of one clip failed.
    """
    from consisti2v_cli.commands.batch import Batch
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.commands.plan import Settler, read_shard
    from consisti2v_cli.commands.wishes import Request, all_wishes

    part, parts = read_shard(options.get("shard"))
    console = Console(quiet=options["quiet"], verbosity=options["verbose"])
    request = Request.of(command, options, asked, base)
    for notice in request.outputs.notices:
        console.notice(notice)
    wishes = all_wishes(request, images, prompt, again=base is not None, on_notice=console.notice)
    request.outputs.protect(wish.input.source for wish in wishes)
    _warn_of_bytes(wishes, console)
    clips = sum(wish.variations for wish in wishes)
    alone = clips == 1 and not request.manifest
    several = not alone or parts > 1 or os.path.isdir(images[0] if images else prompt or "")
    anew = request.any_seed or base is not None or bool(request.outputs.stream) or options["overwrite"]
    settler = Settler(command, console)
    run = _run(command, images, prompt, options) if several else None
    orders = _name_all(wishes, settler, run, agree=not options["dry_run"])[part::parts]
    request.outputs.check_use(len(orders), as_json=options["json"])
    if sentence := request.outputs.numbering(sum(order.wish.outputs is request.outputs for order in orders)):
        console.notice(sentence)
    batch = Batch(options, console, alone=alone, resumes=several or not anew, shared=several)
    _settle_all(orders, settler, batch)
    return batch.show() if options["dry_run"] else batch.make()


def _warn_of_bytes(wishes: Sequence[Wish], console: Console) -> None:
    """Say where a prompt was not typed in UTF-8, so that some of it is lost."""
    if any("\N{REPLACEMENT CHARACTER}" in (wish.input.prompt or "") for wish in wishes):
        console.notice("The prompt holds bytes that are not UTF-8; they are read as \N{REPLACEMENT CHARACTER}.")


def _run(command: str, images: Sequence[str], prompt: str | None, options: Mapping[str, Any]) -> str:
    """What tells a run from others, in every process that makes some of it."""
    known = {name: str(value) for name, value in options.items() if name not in OF_THE_PROCESS}
    return json.dumps([os.getcwd(), command, list(images), prompt, known])


def _name_all(wishes: Sequence[Wish], settler: Settler, run: str | None, *, agree: bool) -> list[Order]:
    """Name all clips. Where no seed was asked for, an earlier start of the same run may have begun with one, or
    another process may have.

    Args:
        wishes: of the run.
        settler: of the run.
        run: what tells it from others; None where it does not go on from what is there.
        agree: other processes take the seed of this one.
    """
    from consisti2v_cli.commands.claims import agreed_seed
    from consisti2v_cli.commands.made import seed_before
    from consisti2v_cli.commands.plan import take_orders

    if shared := next((wish for wish in wishes if not wish.where), None):
        settler.shared(shared)  # what is wrong with it is wrong for all
    orders = take_orders(wishes)
    drawn = next((wish.values["seed"] for wish in wishes if wish.any_seed), None)
    if run is None or drawn is None:
        return orders
    before = seed_before(orders, settler)
    if before is None and agree:
        before = agreed_seed(run, drawn)
    if before in (None, drawn):
        return orders
    wishes[0].outputs.names.forget()
    seeded = {id(wish.values): {**wish.values, "seed": before} for wish in wishes if wish.any_seed}
    return take_orders([replace(wish, values=seeded.get(id(wish.values), wish.values)) for wish in wishes])


def _settle_all(orders: Sequence[Order], settler: Settler, batch: Batch) -> None:
    """Look at all images. Of many, the pixels wait for their turn."""
    with batch.console.progress("images") if len(orders) >= MANY else nullcontext(_ignore) as report:
        for done, order in enumerate(orders, start=1):
            try:
                batch.add(settler.settle(order, thorough=batch.is_thorough))
            except (ConsistI2VError, OSError) as error:
                batch.fail(order.wish, error)
            report("looking", done, len(orders))


def _ignore(stage: str, done: int, total: int) -> None:
    pass


def find_model(name: str | None, console: Console, revision: str | None = None) -> ModelFolder:
    """The model that was asked for; without a name the released one if it is here, else the bundled one.

    Raises:
        RequestError, WeightsError: as `weights.require`.
    """
    from consisti2v_cli.weights import choose, require
    from consisti2v_cli.weights.registry import SMALL

    chosen = name or choose()
    if name is None and chosen == SMALL:
        console.notice(f"Model: {chosen}, the small demonstration; for the real one run: consisti2v fetch-weights")
    return require(chosen, revision)


def load(job: Job, console: Console) -> Model:
    """Load a model as a clip wants it, with a bar. RequestError and WeightsError as `load_model`."""
    from consisti2v_cli.plans import ALL_AT_ONCE
    from consisti2v_cli.weights.load import load_model
    from consisti2v_cli.weights.offload import hold_to

    folder, recipe = job.folder, job.recipe
    console.detail(f"Model: {folder.name} from {folder.path}, {recipe.dtype} on {recipe.device}, plan: {job.plan}")
    hold_to(recipe.device, job.wish.vram)
    if job.plan != ALL_AT_ONCE:
        console.notice(f"To save memory: {job.plan}.")
    if recipe.compile:
        console.notice(
            "--compile does nothing while weights are streamed."
            if job.plan.streamed
            else "The network is compiled: the first step of a size takes minutes, unless it was compiled before."
        )
    with console.progress(folder.name) as report:
        model = load_model(
            folder,
            device=recipe.device,
            dtype=recipe.dtype,
            attention=recipe.attention,
            compile=recipe.compile,
            plan=job.plan,
            on_part=report,
        )
    if model.plan != job.plan:
        console.notice(f"Not enough memory on {recipe.device} for the model at once; now: {model.plan}.")
    return model


def save(
    film: Film,
    paths: Sequence[Path],
    outputs: Outputs,
    console: Console,
    *,
    name: str,
    seconds: float,
    as_json: bool,
    source: Path | bytes | None = None,
    claims: Claims | None = None,
    facts: Mapping[str, Any] | None = None,
    is_last: bool = True,
) -> list[Path]:
    """Write a film in its formats, and say where.

    Args:
        film: what was made.
        paths: from `Outputs.reserve`; other free ones are taken where these are taken meanwhile.
        outputs: of the run.
        console: gets a path, or a JSON object, for each file.
        name: the input's, for messages.
        seconds: that it took to make.
        as_json: whether to print JSON.
        source: the input, remembered for `redo`.
        claims: of the run; by default names are claimed for this film alone.
        facts: more for the JSON object.
        is_last: `extend` goes on with this film from now on; not if a run that goes on itself says so when it is done.

    Returns:
        The files that were written, none for standard output.

    Raises:
        ConsistI2VError: a file could not be written.
    """
    from consisti2v_cli.commands.claims import Claims
    from consisti2v_cli.state import keep_latent, remember, remember_last

    if outputs.stream:
        with outputs.opened_stream() as stream:
            film.stream(stream, outputs.formats[0], metadata=outputs.metadata, on_notice=console.notice)
        return []
    free, claim = _claimed(paths, outputs, claims or Claims())
    written = []
    with claim:
        for path in free:
            format = outputs.format_of(path)
            path = _write(film, path, format, outputs, console)
            remember(path, film.recipe, source)
            keep_latent(path, film.last_latent, film.recipe)
            made = {"path": str(path), "format": format, "seconds": round(seconds, 2), **(facts or {})}
            console.result(json.dumps({**made, "recipe": to_dict(film.recipe)}) if as_json else str(path))
            written.append(path)
        if is_last:
            remember_last(written[-1])
    console.detail(f"{name}: {seconds:.1f} s, seed {film.recipe.seed}")
    return written


def _claimed(paths: Sequence[Path], outputs: Outputs, claims: Claims) -> tuple[list[Path], Claim]:
    """The first names of a clip that are free, and that no other process is about to use."""
    free = outputs.still_free(paths)
    while (claim := claims.take(outputs.claimed_name(free[0]))) is None:
        if outputs.overwrite:
            return free, nullcontext()
        free = outputs.following(free)
    return free, claim


def _write(film: Film, path: Path, format: str, outputs: Outputs, console: Console) -> Path:
    """Write a film under a name that is free at that moment: someone else may take it at any time before."""
    from consisti2v_cli.state import expect

    while True:
        with suppress(TakenError):
            return film.save(
                path,
                format=format,
                overwrite=outputs.overwrite,
                metadata=outputs.metadata,
                on_notice=console.notice,
                on_finished=partial(expect, recipe=film.recipe),
            )
        path = outputs.following([path])[0]
