"""`consisti2v evaluate --protocol`: make what an evaluation of the paper lacks, measure it, print the paper's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consisti2v_cli.commands.console import interrupts_held
from consisti2v_cli.commands.inputs import printable
from consisti2v_cli.commands.judged import Counter, judge_folder, measure_spread, tools_of
from consisti2v_cli.commands.written import check_file, show_result
from consisti2v_cli.errors import RequestError, WeightsError
from consisti2v_cli.version import __version__

if TYPE_CHECKING:
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.commands.judged import Tools
    from consisti2v_cli.evaluation.ablations import Variant
    from consisti2v_cli.evaluation.clips import Clip
    from consisti2v_cli.evaluation.datasets import Sample
    from consisti2v_cli.evaluation.making import Made, OneModel
    from consisti2v_cli.evaluation.measures import Measure
    from consisti2v_cli.evaluation.protocols import Protocol
    from consisti2v_cli.evaluation.sets import Excerpt
    from consisti2v_cli.evaluation.tables import Column

SEED = 0  # of everything that a protocol draws
STAND_INS = "dynamic_dis,smoothness_dis,consistency_efficientnet"  # beside Table 2, unless others are named
LABELLED = ",object_owlv2,scene_blip"  # where it is told what should be seen


@dataclass(frozen=True)
class Value:
    """What was measured of a variant."""

    value: float | None
    n: int  # clips
    reason: str = ""  # why there is no value
    deviation: float | None = None  # of the inception score
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Evaluation:
    """A protocol that is followed."""

    protocol: Protocol
    columns: Sequence[Column]  # of the table that is printed
    measures: Sequence[Measure]  # beside them
    tools: Tools
    console: Console

    @property
    def of_clips(self) -> list[Measure]:
        """The measures of single clips, those of the table's columns first."""
        from consisti2v_cli.evaluation.run import MEASURES

        return list(dict.fromkeys([*(MEASURES[c.key] for c in self.columns if c.key in MEASURES), *self.measures]))


def follow(folders: Sequence[str], options: dict[str, Any], console: Console) -> int:
    """Run a protocol. Returns the exit code: 1 where clips could not be made or measured.

    Raises:
        ConsistI2VError: the request is wrong, or the model cannot be loaded.
    """
    from consisti2v_cli.evaluation.ablations import VARIANTS, WHOLE
    from consisti2v_cli.evaluation.making import OneModel
    from consisti2v_cli.evaluation.protocols import read_samples
    from consisti2v_cli.weights import choose, require

    if len(folders) != 1 or not options["data"]:
        raise RequestError("--protocol needs one FOLDER, for the clips, and --data DIR, the data set.")
    json_file = check_file(options["json_file"], "--json", ".json", [options["labels"]])
    evaluation = _evaluation(options, console)
    samples = read_samples(evaluation.protocol, Path(options["data"]), seed=SEED, clips=options["clips"])
    model = OneModel(require(options["model"] or choose()))
    values: dict[str, dict[str, Value]] = {}
    good = set(samples)
    for variant in VARIANTS if options["ablate"] else (WHOLE,):
        place = Path(folders[0]) / variant.key if options["ablate"] else Path(folders[0])
        made = _make(evaluation, samples, place, variant, model, options)
        values[variant.key], bad = _measure(evaluation, made, place)
        good -= bad
    lines = _lines(evaluation, [sample for sample in samples if sample in good], values, model, options["ablate"])
    told = {
        "consisti2v": __version__,
        "protocol": evaluation.protocol.key,
        "model": model.folder.name,
        "revision": model.folder.revision,
        "steps": options["steps"],
        "seed": SEED,
        "samples": len(samples),
        "device": evaluation.tools.networks.device,
        "networks": evaluation.tools.networks.told,
        "values": {key: {name: asdict(value) for name, value in found.items()} for key, found in values.items()},
        "table": lines,
    }
    show_result(told, list(map(printable, lines)), options, json_file, console)
    if len(good) < len(samples):
        return 1
    measured = any(value.value is not None for found in values.values() for value in found.values())
    return WeightsError.exit_code if evaluation.tools.networks.lacking and not measured else 0


def _evaluation(options: Mapping[str, Any], console: Console) -> Evaluation:
    from consisti2v_cli.evaluation.ablations import COLUMNS
    from consisti2v_cli.evaluation.protocols import I2V_BENCH, PROTOCOLS, UCF101
    from consisti2v_cli.evaluation.run import choose_measures

    protocol = PROTOCOLS[options["protocol"]]
    columns = COLUMNS if options["ablate"] and protocol.key == UCF101.key else protocol.columns
    stand_ins = STAND_INS + (LABELLED if options["labels"] else "") if protocol.key == I2V_BENCH.key else ""
    chosen = stand_ins if options["metrics"] is None else options["metrics"]
    return Evaluation(protocol, columns, choose_measures(chosen) if chosen else [], tools_of(options), console)


def _make(
    evaluation: Evaluation,
    samples: Sequence[Sample],
    place: Path,
    variant: Variant,
    model: OneModel,
    options: Mapping[str, Any],
) -> list[Made]:
    """The clips of a variant, made where they are not there yet."""
    from consisti2v_cli.evaluation.making import make_missing

    console = evaluation.console
    settings = {"device": options["device"]} | ({"steps": options["steps"]} if options["steps"] else {})
    with console.progress(printable(str(place))) as bar, interrupts_held() as release:
        bar("clips", 0, len(samples))
        made = make_missing(
            samples,
            place,
            settings,
            model,
            evaluation.protocol,
            variant=variant,
            overwrite=options["overwrite"],
            on_clip=Counter(bar, len(samples)),
            on_event=lambda *_: release(),
            on_notice=console.notice,
        )
    for one in made:
        if one.problem:
            console.error(printable(f"{one.sample.name}: {one.problem}"))
    return made


def _measure(evaluation: Evaluation, made: Sequence[Made], place: Path) -> tuple[dict[str, Value], set[Sample]]:
    """The means of clips' measures and the measures of all clips together, by their keys; and whose clips lack."""
    from consisti2v_cli.evaluation.clips import Clip
    from consisti2v_cli.evaluation.report import summary
    from consisti2v_cli.evaluation.sets import FVD

    there = [one for one in made if not one.problem]
    clips = [Clip(one.path, one.path.relative_to(place).as_posix()) for one in there]
    judged = judge_folder(str(place), clips, evaluation.of_clips, evaluation.tools, evaluation.console)
    values = {}
    for measure in evaluation.of_clips:
        mean = summary(judged, measure)
        reasons = {clip.scores.reasons.get(measure.key, "") for clip in judged} - {""}
        values[measure.key] = Value(mean.mean, mean.n) if mean else Value(None, 0, "; ".join(sorted(reasons)))
    bad = {one.sample for one in made if one.problem}
    if FVD.key in evaluation.protocol.metrics:  # there are real clips
        spreads, left_out = _spreads(evaluation, there, clips, str(place))
        values |= spreads
        names = [(one.sample, {one.sample.name, clip.name}) for one, clip in zip(there, clips, strict=True)]
        bad |= {sample for sample, known in names if known & left_out}
    bad |= {one.sample for one, found in zip(there, judged, strict=True) if found.problem}
    return values, bad


def _spreads(
    evaluation: Evaluation, made: Sequence[Made], clips: Sequence[Clip], place: str
) -> tuple[dict[str, Value], set[str]]:
    """FVD, FID and IS, as far as the table has them; and which clips, made or real, could not be used."""
    from consisti2v_cli.evaluation.sets import SPREADS, excerpt_of

    ours, real = [excerpt_of(clip) for clip in clips], [_real(one.sample, evaluation.protocol) for one in made]
    values: dict[str, Value] = {}
    left_out: set[str] = set()
    for measure in SPREADS:
        if measure.key in {column.key for column in evaluation.columns}:
            found = measure_spread(place, measure, ours, real, evaluation.tools, evaluation.console)
            values[measure.key] = Value(found.value, found.n, found.reason, found.deviation, found.notes)
            left_out |= {clip.partition(":")[0] for clip in found.left_out}
    return values, left_out


def _real(sample: Sample, protocol: Protocol) -> Excerpt:
    """The real clip that a sample's first frame is from."""
    from consisti2v_cli.evaluation.datasets import real_clip
    from consisti2v_cli.evaluation.sets import Excerpt
    from consisti2v_cli.state import content_sha256

    read = partial(real_clip, sample, protocol.size, protocol.frames)
    return Excerpt(sample.name, partial(content_sha256, sample.source), read, sample.draw)


def _lines(
    evaluation: Evaluation,
    measured: Sequence[Sample],
    values: Mapping[str, Mapping[str, Value]],
    model: OneModel,
    ablated: bool,
) -> list[str]:
    """The paper's table with ours: what is measured as in the paper in its columns, all else in columns of its own."""
    from consisti2v_cli.evaluation import ablations, protocols

    protocol, columns = evaluation.protocol, [column.key for column in evaluation.columns]
    own = [measure for measure in evaluation.measures if measure.key not in columns]
    stand_ins = [measure for measure in own if any(found[measure.key].n for found in values.values())]
    keys = [*columns, *(measure.key for measure in stand_ins)]
    rows = {name: {key: found[key].value for key in keys if key in found} for name, found in values.items()}
    notes = protocols.shortfalls(protocol, measured)
    name = model.folder.name
    if ablated:
        return ablations.ablation_lines(rows, protocol, name=name, stand_ins=stand_ins, notes=notes)
    (row,) = rows.values()
    return protocols.table_lines(protocol, row, name=name, stand_ins=stand_ins, notes=notes)
