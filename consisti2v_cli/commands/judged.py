"""What `consisti2v evaluate` measured, as tables for a terminal; and the measuring itself, with its progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from consisti2v_cli.commands.console import counted
from consisti2v_cli.commands.inputs import printable
from consisti2v_cli.errors import RequestError

if TYPE_CHECKING:
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.evaluation.clips import Clip
    from consisti2v_cli.evaluation.extractors import Networks
    from consisti2v_cli.evaluation.measures import Measure, Value
    from consisti2v_cli.evaluation.report import Difference, Mean
    from consisti2v_cli.evaluation.run import Judged, Words
    from consisti2v_cli.evaluation.sets import Excerpt, Spread

NAME_WIDTH = 32  # letters of a clip's name that a table shows
NONE = "-"
SHOWN = 3  # clips that a notice names


@dataclass(frozen=True)
class Tools:
    """What measuring is done with, by a whole command."""

    networks: Networks
    words: Words = field(default_factory=dict)  # what should be seen, by clips' names
    said: set[str] = field(default_factory=set)  # notices, so that none comes twice

    def say(self, notice: str, console: Console) -> None:
        """Say something once."""
        if notice not in self.said:
            self.said.add(notice)
            console.notice(printable(notice))


def tools_of(options: Mapping[str, Any]) -> Tools:
    """The tools that --device, --weights and --labels name. RequestError: there are none such."""
    from consisti2v_cli.commands.written import read_words
    from consisti2v_cli.evaluation.extractors import Networks
    from consisti2v_cli.weights.devices import choose_device

    weights = Path(options["weights"]) if options["weights"] else None
    if weights and not weights.is_dir():
        raise RequestError(f"--weights {weights} is no folder.")
    return Tools(Networks(choose_device(options["device"]), weights), read_words(options["labels"]))


def judge_folder(
    folder: str, clips: Sequence[Clip], measures: Sequence[Measure], tools: Tools, console: Console
) -> list[Judged]:
    """Measure the clips of a folder, and say what could not be measured."""
    from consisti2v_cli.evaluation.run import judge

    with console.progress(printable(folder)) as bar:
        bar("clips", 0, len(clips))
        count = Counter(bar, len(clips))
        judged = judge(clips, measures, networks=tools.networks, words=tools.words, on_clip=count)
    for clip in judged:
        if clip.problem:
            told = clip.problem if Path(clip.name).name in clip.problem else f"{clip.name}: {clip.problem}"
            console.error(printable(told))
    for notice in _missing(judged, measures):
        tools.say(notice, console)
    return judged


def spreads_of(
    folder: str, clips: Sequence[Clip], real: Sequence[Clip], tools: Tools, console: Console
) -> dict[str, Spread]:
    """FVD, FID and IS of a folder's clips beside real ones."""
    from consisti2v_cli.evaluation.sets import SPREADS, excerpt_of

    ours, others = ([excerpt_of(clip) for clip in some] for some in (clips, real))
    return {measure.key: measure_spread(folder, measure, ours, others, tools, console) for measure in SPREADS}


def measure_spread(
    folder: str, measure: Measure, ours: Sequence[Excerpt], real: Sequence[Excerpt], tools: Tools, console: Console
) -> Spread:
    """FVD, FID or IS, with its progress; what is missing or left out is said."""
    from consisti2v_cli.evaluation.sets import IS, spread

    with console.progress(printable(f"{folder}: {measure.label}")) as bar:
        clips = len(ours) + (0 if measure is IS else len(real))
        found = spread(measure, ours, real, tools.networks, Counter(bar, clips))
    for clip in found.left_out:
        console.error(printable(f"{measure.label} is without {clip}"))
    for note in found.notes:
        tools.say(f"{measure.label}: {note}", console)
    if found.value is None:
        tools.say(f"Not measured: {measure.label}: {found.reason}", console)
    return found


class Counter:
    """Shows how many clips are done."""

    def __init__(self, bar: Callable[[str, int, int], None], total: int) -> None:
        self.bar, self.done, self.total = bar, 0, total

    def __call__(self, *_: object) -> None:
        self.done += 1
        self.bar("clips", self.done, self.total)


def all_lines(
    judged: Mapping[str, list[Judged]],
    spreads: Mapping[str, Mapping[str, Spread]],
    measures: Sequence[Measure],
    console: Console,
) -> Iterator[str]:
    """A table for each folder, and the comparison of two."""
    for name, clips in judged.items():
        yield from table(name, clips, measures)
        yield from spread_lines(spreads.get(name, {}))
    if len(judged) == 2:
        yield from comparison(judged, measures, console)


def _missing(judged: Sequence[Judged], measures: Sequence[Measure]) -> list[str]:
    """Why values are missing, a sentence for each reason."""
    missing: dict[str, dict[str, list[str]]] = {}  # by reason and measure the clips
    for measure in measures:
        for clip in judged:
            if reason := clip.scores.reasons.get(measure.key):
                missing.setdefault(reason, {}).setdefault(measure.label, []).append(clip.name)
    readable = sum(not clip.problem for clip in judged)
    return [_sentence(reason, found, readable) for reason, found in missing.items()]


def _sentence(reason: str, found: Mapping[str, Sequence[str]], readable: int) -> str:
    names = list(dict.fromkeys(name for clips in found.values() for name in clips))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    whose = "" if len(names) == readable else f" ({', '.join(map(_cut, names[:SHOWN]))}{more})"
    return f"Not measured: {'; '.join(found)}: {reason}{whose}"


def table(name: str, judged: Sequence[Judged], measures: Sequence[Measure]) -> Iterator[str]:
    """A line a clip, and the means."""
    from consisti2v_cli.evaluation.report import summary

    rows = [[_cut(clip.name), *(_shown(clip.scores.values.get(m.key), m) for m in measures)] for clip in judged]
    means = [summary(judged, measure) for measure in measures]
    counts = [mean.n if mean else 0 for mean in means]
    rows.append([f"mean of {max(counts, default=0)}", *map(_mean, means, measures)])
    if len(set(counts) - {0}) > 1:
        rows.append(["clips that have it", *map(str, counts)])
    rows += _papers(judged, measures)
    yield printable(name)
    better = ["better", *(measure.better or NONE for measure in measures)]
    yield from _blocks([["", *(measure.label for measure in measures)], better, *rows])
    yield _facts(judged)


def _papers(judged: Sequence[Judged], measures: Sequence[Measure]) -> Iterator[list[str]]:
    """The paper's row of ConsistI2V on I2V-Bench, of measures that are the same, where clips have its shape."""
    from consisti2v_cli.evaluation.protocols import I2V_BENCH as PAPER

    shape = (PAPER.size, PAPER.size, PAPER.frames, PAPER.fps)
    shapes = {(clip.width, clip.height, clip.frames, clip.fps) for clip in judged if not clip.problem}
    printed = dict(zip(PAPER.metrics, PAPER.reference["ConsistI2V"], strict=True))
    cells = [f"{printed[measure.key]:.2f}" if measure.key in printed else NONE for measure in measures]
    if shapes == {shape} and set(cells) != {NONE}:
        yield ["paper's ConsistI2V", *cells]


def _facts(judged: Sequence[Judged]) -> str:
    """What scores depend on too: sizes, lengths, rates."""
    known = [clip for clip in judged if not clip.problem]
    sizes = sorted({(clip.width, clip.height) for clip in known})
    shown = [f"{width}x{height}" for width, height in sizes[:3]] + ["..."] * (len(sizes) > 3)
    frames, rates = ([getattr(clip, fact) for clip in known] for fact in ("frames", "fps"))
    return f"{', '.join(shown)}; {_range(frames)} frames at {_range(rates)} a second" if known else "nothing measured"


def _range(numbers: Sequence[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _shown(value: Value | None, measure: Measure) -> str:
    from consisti2v_cli.evaluation.tables import shown

    return shown(value, measure)


def _mean(mean: Mean | None, measure: Measure) -> str:
    return NONE if mean is None else _shown(mean.mean, measure)


def _blocks(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns below heads; in a terminal that is too narrow for all, some of them below the others."""
    width = get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    first, begin = 1, 1
    for end in range(2, len(rows[0]) + 1):
        wider = [[row[0], *row[begin : end + 1]] for row in rows]
        if end == len(rows[0]) or max(map(len, _aligned(wider))) > width:
            yield from [""] * (begin > first)
            yield from _aligned([[row[0], *row[begin:end]] for row in rows])
            begin = end


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns below heads of several lines; numbers to the right."""
    from consisti2v_cli.evaluation.tables import heads, padded

    return padded([*heads(rows[0]), *rows[1:]])


def _cut(name: str) -> str:
    name = printable(name)
    return name if len(name) <= NAME_WIDTH else f"...{name[3 - NAME_WIDTH :]}"


def comparison(folders: Mapping[str, list[Judged]], measures: Sequence[Measure], console: Console) -> Iterator[str]:
    """A line a measure: both means, their difference with its interval, and in how many pairs the second is better."""
    from consisti2v_cli.evaluation.report import difference, more_static, pairs_of

    (one, first), (other, second) = folders.items()
    pairs, alone = pairs_of(first, second)
    by_folder = zip(folders, alone, strict=True)
    if lonely := [f"{folder.rstrip('/')}/{name}" for folder, names in by_folder for name in names]:
        console.notice(f"Without a partner: {printable(', '.join(lonely))}")
    yield f"{counted(len(pairs), 'pair')}: {printable(one)}, {printable(other)}"
    found = {measure.key: difference(pairs, measure) for measure in measures}
    head = ["", _cut(one), _cut(other), "difference", "95 % interval", "better", "same", "worse"]
    yield from _aligned([head, *([m.label, *_compared(found[m.key], m)] for m in measures)])
    if more_static(found):
        yield f"{printable(other)} is more consistent, but more static too: less happens in it."


def _compared(found: Difference | None, measure: Measure) -> list[str]:
    if found is None:
        return [NONE] * 7
    values = (found.first, found.second, found.mean, found.low, found.high)
    first, second, mean, low, high = (_shown(value, measure) for value in values)
    counts = (found.wins, found.ties, found.losses) if measure.better else (NONE,) * 3
    return [first, second, mean, f"{low} to {high}" if found.is_sure else NONE, *map(str, counts)]


def spread_lines(found: Mapping[str, Spread]) -> Iterator[str]:
    """A line for each measure of a whole folder."""
    from consisti2v_cli.evaluation.sets import SPREADS

    for measure in SPREADS:
        one = found.get(measure.key)
        if one and one.value is not None:
            more = "" if one.deviation is None else f" +- {one.deviation:.2f} over parts"
            yield f"{measure.label}: {_shown(one.value, measure)}{more}, of {counted(one.n, 'clip')}"


def too_low(
    judged: Sequence[Judged], spreads: Mapping[str, Spread], measure: Measure, bound: float, console: Console
) -> bool:
    """Whether a folder is worse in a measure than a bound, which is said."""
    from consisti2v_cli.evaluation.report import falls_short, summary

    mean = summary(judged, measure)
    value = spreads[measure.key].value if measure.key in spreads else mean.mean if mean else None
    short = falls_short(value, measure, bound)
    if short:
        is_so = "was not measured" if value is None else f"is {_shown(value, measure)}"
        console.error(f"{measure.key} {is_so}, and must not be worse than {bound:g}.")
    return short
