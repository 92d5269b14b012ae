"""`consisti2v animate`: photos and a sentence in, clips out."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from consisti2v_cli.commands.options import making_options
from consisti2v_cli.errors import ConsistI2VError, RequestError, TakenError

if TYPE_CHECKING:
    from pathlib import Path

    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.commands.output import Outputs
    from consisti2v_cli.commands.plan import Job, Plan
    from consisti2v_cli.render import Clip
    from consisti2v_cli.weights import ModelFolder
    from consisti2v_cli.weights.load import Model

EXAMPLES = """\b
Examples:
  consisti2v animate boat.jpg "the boat drifts left"
  consisti2v animate photos/ "slow zoom in" -o clips/ -f mp4 -f gif
  cat boat.png | consisti2v animate - @prompt.txt -o - > boat.mp4
"""


@click.command(epilog=EXAMPLES, short_help="Make clips of photos and a sentence.")
@click.argument("images", nargs=-1, metavar="IMAGE...")
@click.argument("prompt", required=False, metavar="PROMPT")
@making_options
def animate(images: tuple[str, ...], prompt: str | None, **options: Any) -> int:
    """Make a clip of every IMAGE, in which happens what PROMPT says.

    IMAGE is a file, a folder, or - for standard input. PROMPT is the last argument; @FILE reads it from a file. In a
    folder, NAME.txt beside NAME.png is the prompt of that image.
    """
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.commands.inputs import gather
    from consisti2v_cli.commands.output import Outputs
    from consisti2v_cli.commands.plan import make_plan, requested_values

    if not images or prompt is None:
        raise RequestError('An image and a prompt are needed: consisti2v animate boat.jpg "the boat drifts left"')
    console = Console(quiet=options["quiet"], verbosity=options["verbose"])
    written = {name: options[name] for name in ("overwrite", "metadata")}
    outputs = Outputs(options["output"], options["format"], **written)
    requested = requested_values(options)
    inputs = gather(images, prompt)
    outputs.check_use(len(inputs) * options["variations"], as_json=options["json"])
    folder = _find_model(options["model"], console)
    plan = make_plan(inputs, requested, folder, outputs, options["variations"])
    for failure in plan.failures:
        console.error(failure)
    if options["seed"] is None:
        console.notice(f"Seed: {requested['seed']}")
    if options["dry_run"]:
        _show(plan, console, as_json=options["json"])
        return 1 if plan.failures else 0
    return _make(plan, folder, outputs, console, as_json=options["json"])


def _find_model(name: str | None, console: Console) -> ModelFolder:
    """The model that was asked for; without a name the released one if it is here, else the bundled one."""
    from consisti2v_cli.weights import choose, require
    from consisti2v_cli.weights.registry import SMALL

    chosen = name or choose()
    if name is None and chosen == SMALL:
        console.notice(f"Model: {chosen}, the small demonstration; for the real one run: consisti2v fetch-weights")
    return require(chosen)


def _show(plan: Plan, console: Console, *, as_json: bool) -> None:
    """Print the plan: a line, or a JSON object, a clip."""
    for job in plan.jobs:
        shown = {
            "input": job.input.name,
            "outputs": list(map(str, job.outputs)),
            "memory_bytes": job.memory,
            "recipe": asdict(job.recipe),
        }
        console.result(json.dumps(shown) if as_json else _describe(job))


def _describe(job: Job) -> str:
    """A planned clip in a line for a person."""
    recipe = job.recipe
    return (
        f"{job.input.name} -> {', '.join(map(str, job.outputs))}: {recipe.width}x{recipe.height}, "
        f"{recipe.frames} frames at {recipe.fps:g} a second, {recipe.steps} steps of {recipe.sampler}, "
        f"seed {recipe.seed}, {recipe.model} in {recipe.dtype} on {recipe.device}, about {_size(job.memory)} of memory"
    )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _make(plan: Plan, folder: ModelFolder, outputs: Outputs, console: Console, *, as_json: bool) -> int:
    """Make all clips with one model. Returns the exit code; what goes wrong with a run's only clip is raised."""
    from consisti2v_cli.commands.plan import named

    failed = len(plan.failures)
    wanted = failed + len(plan.jobs)
    model = _load(plan, folder, console) if plan.jobs else None
    for number, job in enumerate(plan.jobs, start=1):
        label = job.input.name if wanted == 1 else f"[{number}/{len(plan.jobs)}] {job.input.name}"
        try:
            begun = time.monotonic()
            clip = _render(job, model, label, console)
            _save(clip, job, outputs, console, time.monotonic() - begun, as_json=as_json)
        except (ConsistI2VError, OSError) as error:
            if wanted == 1 or isinstance(error, BrokenPipeError):
                raise
            console.error(named(job.input.name, error))
            failed += 1
    return 1 if failed else 0


def _load(plan: Plan, folder: ModelFolder, console: Console) -> Model:
    from consisti2v_cli.weights.load import load_model

    recipe = plan.jobs[0].recipe
    console.detail(f"Model: {folder.name} from {folder.path}, {recipe.dtype} on {recipe.device}")
    with console.progress(folder.name) as report:
        return load_model(folder, device=recipe.device, dtype=recipe.dtype, attention=recipe.attention, on_part=report)


def _render(job: Job, model: Model | None, label: str, console: Console) -> Clip:
    """Make one clip. The first Ctrl-C lets the running step end."""
    from consisti2v_cli.commands.console import interrupts_held
    from consisti2v_cli.render import render

    with console.progress(label) as report, interrupts_held() as release:

        def event(stage: str, done: int, total: int) -> None:
            report(stage, done, total)
            release()

        return render(job.recipe, job.input.source, model=model, on_event=event, on_notice=console.notice)


def _save(clip: Clip, job: Job, outputs: Outputs, console: Console, seconds: float, *, as_json: bool) -> None:
    """Write a clip in all its formats, and say where."""
    if outputs.to_stdout:
        sys.stdout.buffer.write(clip.encode(outputs.formats[0], metadata=outputs.metadata))
        return
    for free, format in zip(outputs.still_free(job.outputs), outputs.formats, strict=True):
        path = _write(clip, free, format, outputs)
        made = {"path": str(path), "format": format, "seconds": round(seconds, 2), "recipe": asdict(clip.recipe)}
        console.result(json.dumps(made) if as_json else str(path))
    console.detail(f"{job.input.name}: {seconds:.1f} s, seed {clip.recipe.seed}")


def _write(clip: Clip, path: Path, format: str, outputs: Outputs) -> Path:
    """Write a clip under a name that is free at that moment: someone else may take it at any time before."""
    while True:
        try:
            return clip.save(path, format=format, overwrite=outputs.overwrite, metadata=outputs.metadata)
        except TakenError:
            (path,) = outputs.still_free([path])
