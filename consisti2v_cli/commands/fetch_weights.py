"""`consisti2v fetch-weights`: models and judges from the hub into the cache; what is there, is it right, and away."""

from __future__ import annotations

import json
from dataclasses import asdict
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from consisti2v_cli.commands.options import config_options, option, talk_options
from consisti2v_cli.commands.parsing import complete_models
from consisti2v_cli.errors import RequestError, WeightsError

if TYPE_CHECKING:
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.weights.inventory import Inventoried

DEFAULT = "consisti2v"
FETCHING = ("dtype", "drop_originals")  # the options that only fetching has
MODELS_ONLY = (*FETCHING, "revision")  # the options that do not go with the judges of clips
WORK = ("list", "check", "remove")  # what to do instead of fetching

EXAMPLES = """\b
Examples:
  consisti2v fetch-weights
  consisti2v fetch-weights someone/my-consisti2v --revision v2 --dtype fp16
  consisti2v fetch-weights --list
"""


def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The models' and the judges' names that begin as what is written, for the shell."""
    from consisti2v_cli.evaluation.judges import JUDGES

    return [*complete_models(ctx, param, incomplete), *(key for key in JUDGES if key.startswith(incomplete))]


@click.command("fetch-weights", epilog=EXAMPLES, short_help="Download a model; list, check and remove those here.")
@click.argument("model", required=False, metavar="[MODEL]", shell_complete=complete)
@option(
    "--revision",
    metavar="NAME",
    default=None,
    default_text="main; with --remove: all",
    help="Branch, tag or commit of a hub repository.",
)
@option(
    "--dtype",
    type=click.Choice(("fp32", "fp16", "bf16")),
    default=None,
    default_text="full precision, unless it was dropped",
    help="fp16, bf16: keep network and text encoder in half precision too; fp32: the full precision again.",
)
@option(
    "--drop-originals",
    is_flag=True,
    default_text="off",
    help="With --dtype fp16 or bf16: remove the full precision of what is kept in half.",
)
@option("--list", is_flag=True, default_text="off", help="Show the models and judges on this machine; fetch nothing.")
@option("--check", is_flag=True, default_text="off", help="Read all files of MODEL and compare their hashes.")
@option("--remove", is_flag=True, default_text="off", help="Delete MODEL, which must be named, from the cache.")
@option("--json", "as_json", is_flag=True, default_text="off", help="Print JSON objects, one a line.")
@config_options
@talk_options
def fetch_weights(model: str | None, as_json: bool, quiet: bool, verbose: int, **options: Any) -> None:
    """Download MODEL into the cache, check it, and print the folder where it is.

    MODEL is consisti2v (the default: the released model), a hub repository, or a folder. What is in the cache already
    is not downloaded again, and a download that was killed goes on where it stopped. A folder is only converted.

    The networks that judge clips come likewise, one by one: dino-b16, clip-b32, raft-things, viclip-l14, i3d-k400,
    owlv2-base, blip-base. CONSISTI2V_JUDGES names a folder that has some of them in folders of their names, and is
    looked in first; inception-2015 and c3d-ucf101, which the hub does not have, are only found there.
    """
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.evaluation.judges import JUDGES

    work = [name for name in WORK if options.pop(name)]
    if len(work) > 1:
        raise RequestError(f"--{work[0]} and --{work[1]} exclude each other.")
    if work and (unused := [name for name in FETCHING if _is_typed(name)]):
        raise RequestError(f"--{unused[0].replace('_', '-')} does not go with --{work[0]}.")
    if model is None and work == ["remove"]:
        raise RequestError("Name the model to remove; --list shows those there are.")
    if model in JUDGES and (unused := [name for name in MODELS_ONLY if _is_typed(name)]):
        raise RequestError(f"--{unused[0].replace('_', '-')} does not go with {model}: it judges as it was published.")
    console = Console(quiet=quiet, verbosity=verbose)
    if work == ["list"]:
        _list(console, model, as_json)
    elif work == ["check"]:
        _check(console, model or DEFAULT, options["revision"], as_json)
    elif work == ["remove"]:
        _remove(console, model or DEFAULT, options["revision"], as_json)
    else:
        _fetch(console, model or DEFAULT, as_json, options)


def _is_typed(name: str) -> bool:
    """Whether an option stands on the command line, and not in a configuration alone."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def _fetch(console: Console, model: str, as_json: bool, options: dict[str, Any]) -> None:
    from consisti2v_cli.evaluation.judges import JUDGES, describe_judge, fetch_judge
    from consisti2v_cli.weights import fetch
    from consisti2v_cli.weights.inventory import describe
    from consisti2v_cli.weights.registry import MODELS, hub_repo, local_folder
    from consisti2v_cli.weights.store import size_in_words

    if model not in JUDGES and local_folder(model) is None and hub_repo(model) is None:
        near = get_close_matches(model, [*MODELS, *JUDGES], n=1, cutoff=0.4)
        perhaps = f" Perhaps {near[0]}?" if near else ""
        raise RequestError(f"There is no model and no judge {model!r}, nor is it a folder or a repository.{perhaps}")
    with console.progress(model, of_bytes=True) as report:
        if model in JUDGES:
            console.notice(f"{model}: {JUDGES[model].told}.")
            fetch_judge(model, report, console.notice)
        else:
            folder = fetch(model, **options, on_progress=report, on_notice=console.notice)
    found = describe_judge(model) if model in JUDGES else describe(folder)
    console.notice(f"{model} is here: {size_in_words(found.bytes)}.")
    console.result(_as_json(found) if as_json else str(found.path))


def _list(console: Console, model: str | None, as_json: bool) -> None:
    from consisti2v_cli.evaluation.judges import list_judges
    from consisti2v_cli.weights import list_models
    from consisti2v_cli.weights.store import size_in_words

    if model or _is_typed("revision"):
        raise RequestError(f"--list takes no {'MODEL' if model else '--revision'}: it shows all of them.")
    found = [*list_models(), *list_judges()]
    if as_json:
        for entry in found:
            console.result(_as_json(entry))
        return
    rows = [
        (
            entry.model,
            size_in_words(entry.bytes),
            "+".join(entry.dtypes.get("unet", ())) or "-",
            (entry.revision or "-")[:12],
            ",".join(entry.references) or "-",
            f"lacks {', '.join(entry.missing)}" if entry.missing else "complete",
        )
        for entry in found
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        console.result("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _check(console: Console, model: str, revision: str | None, as_json: bool) -> None:
    from consisti2v_cli.evaluation.judges import JUDGES, check_judge, describe_judge
    from consisti2v_cli.weights import check_model
    from consisti2v_cli.weights.hub import fetch_command
    from consisti2v_cli.weights.registry import local_folder

    damaged = []
    with console.progress(model, of_bytes=True) as report:
        for checked in check_judge(model, report) if model in JUDGES else check_model(model, revision, report):
            state = f"damaged: {checked.problem}" if checked.problem else f"right ({checked.by})"
            console.result(json.dumps({"model": model, **asdict(checked)}) if as_json else f"{checked.file}: {state}")
            damaged += [checked.file] if checked.problem else []
    if damaged:
        is_own = describe_judge(model).repository is None if model in JUDGES else local_folder(model) is not None
        mend = "." if is_own else f"; to fetch them again: {fetch_command(model, revision)}"
        raise WeightsError(f"{model} has damaged or missing files: {', '.join(damaged)}{mend}")
    console.notice(f"{model} is as it should be.")


def _remove(console: Console, model: str, revision: str | None, as_json: bool) -> None:
    from consisti2v_cli.evaluation.judges import JUDGES, remove_judge
    from consisti2v_cli.weights import remove_model
    from consisti2v_cli.weights.store import size_in_words

    is_judge = model in JUDGES
    folder, freed = remove_judge(model, console.notice) if is_judge else remove_model(model, revision, console.notice)
    console.notice(f"{model} is removed: {size_in_words(freed)} freed.")
    console.result(json.dumps({"model": model, "path": str(folder), "freed": freed}) if as_json else str(folder))


def _as_json(found: Inventoried) -> str:
    return json.dumps(asdict(found) | {"path": str(found.path), "complete": not found.missing})
