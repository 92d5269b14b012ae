"""`consisti2v evaluate --protocol`: make what an evaluation of the paper lacks, measure it, print the paper's table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consisti2v_cli.commands.evaluate import STANDARD_OUTPUT, free_file, read_words, write_text
from consisti2v_cli.commands.inputs import printable
from consisti2v_cli.commands.judged import Counter, Tools, judge_folder, spread_lines, spread_with_bar
from consisti2v_cli.errors import RequestError

if TYPE_CHECKING:
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.evaluation.ablations import Variant
    from consisti2v_cli.evaluation.clips import Clip
    from consisti2v_cli.evaluation.datasets import Sample
    from consisti2v_cli.evaluation.making import Made, OneModel
    from consisti2v_cli.evaluation.measures import Measure
    from consisti2v_cli.evaluation.protocols import Protocol
    from consisti2v_cli.evaluation.sets import Excerpt
    from consisti2v_cli.evaluation.tables import Column

STAND_INS = "dynamic_dis,smoothness_dis,consistency_efficientnet,object_owlv2,scene_blip"  # unless others are named
SEED = 0  # of everything that a protocol draws


def follow(folders: Sequence[str], options: Mapping[str, Any], console: Console) -> int:
    """Run a protocol. Returns the exit code: 1 where clips could not be made or measured.

    Raises:
        ConsistI2VError: the request is wrong, or the model cannot be loaded.
    """
    from consisti2v_cli.evaluation.ablations import COLUMNS, VARIANTS, WHOLE
    from consisti2v_cli.evaluation.making import OneModel
    from consisti2v_cli.evaluation.protocols import PROTOCOLS, read_samples
    from consisti2v_cli.evaluation.run import choose_measures
    from consisti2v_cli.weights import choose, require
    from consisti2v_cli.weights.devices import choose_device

    if len(folders) != 1 or not options["data"]:
        raise RequestError("--protocol needs one FOLDER, for the clips, and --data DIR, the data set.")
    json_file = free_file(options["json_file"], "--json", ".json", overwrite=options["overwrite"])
    protocol = PROTOCOLS[options["protocol"]]
    columns = COLUMNS if options["ablate"] else protocol.columns
    measures = choose_measures(options["metrics"] or STAND_INS)
    samples = read_samples(protocol, Path(options["data"]), seed=SEED, clips=options["clips"])
    words, weights = read_words(options["labels"]), options["weights"] and Path(options["weights"])
    tools = Tools(choose_device(options["device"]), weights, words)
    model = OneModel(require(options["model"] or choose()))
    found, problems = {}, 0
    for variant in VARIANTS if options["ablate"] else (WHOLE,):
        place = Path(folders[0]) / variant.key if options["ablate"] else Path(folders[0])
        made = _make(protocol, samples, place, variant, model, options, console)
        problems += sum(bool(one.problem) for one in made)
        found[variant.key] = _measure(protocol, columns, made, place, measures, tools, console)
    lines = _lines(protocol, samples, found, measures, model.folder.name, ablated=options["ablate"])
    told = {"protocol": protocol.key, "model": model.folder.name, "clips": len(samples), "seed": SEED, "values": found}
    text = json.dumps({**told, "table": lines}, ensure_ascii=False, allow_nan=False, indent=1)
    console.result(text if options["json_file"] == STANDARD_OUTPUT else "\n".join(map(printable, lines)))
    if json_file:
        write_text(json_file, text)
        console.result(str(json_file))
    return 1 if problems else 0


def _make(
    protocol: Protocol,
    samples: Sequence[Sample],
    place: Path,
    variant: Variant,
    model: OneModel,
    options: Mapping[str, Any],
    console: Console,
) -> list[Made]:
    """The clips of a variant, made where they are not there yet."""
    from consisti2v_cli.evaluation.making import make_missing

    settings = {"device": options["device"]} | ({"steps": options["steps"]} if options["steps"] else {})
    with console.progress(printable(str(place))) as bar:
        bar("clips", 0, len(samples))
        made = make_missing(
            samples,
            place,
            settings,
            model,
            protocol,
            variant=variant,
            overwrite=options["overwrite"],
            on_clip=Counter(bar, len(samples)),
            on_notice=console.notice,
        )
    for one in made:
        if one.problem:
            console.error(printable(f"{one.sample.name}: {one.problem}"))
    return made


def _measure(
    protocol: Protocol,
    columns: Sequence[Column],
    made: Sequence[Made],
    place: Path,
    measures: Sequence[Measure],
    tools: Tools,
    console: Console,
) -> dict[str, float | None]:
    """The means of clips' measures, and the measures of all clips together, by their keys."""
    from consisti2v_cli.evaluation.clips import Clip
    from consisti2v_cli.evaluation.report import summary
    from consisti2v_cli.evaluation.sets import FVD

    there = [one for one in made if not one.problem]
    clips = [Clip(one.path, one.path.relative_to(place).as_posix()) for one in there]
    wanted = list(dict.fromkeys([*measures, *_of_clips(columns)]))
    judged = judge_folder(str(place), clips, wanted, tools, console)
    means = {measure.key: summary(judged, measure) for measure in wanted}
    values = {key: None if mean is None else mean.mean for key, mean in means.items()}
    if FVD.key in protocol.metrics:  # there are real clips
        values |= _spreads(protocol, columns, there, clips, str(place), tools, console)
    return values


def _of_clips(columns: Sequence[Column]) -> list[Measure]:
    """The measures of single clips that a table of the paper has."""
    from consisti2v_cli.evaluation.run import MEASURES

    return [MEASURES[column.key] for column in columns if column.key in MEASURES]


def _spreads(
    protocol: Protocol,
    columns: Sequence[Column],
    made: Sequence[Made],
    clips: Sequence[Clip],
    place: str,
    tools: Tools,
    console: Console,
) -> dict[str, float | None]:
    """FVD, FID and IS, as far as a table of the paper has them."""
    from consisti2v_cli.evaluation.extractors import Networks
    from consisti2v_cli.evaluation.sets import SPREADS, excerpt_of

    wanted = {column.key for column in columns}
    ours, real = [excerpt_of(clip) for clip in clips], [_real(one.sample, protocol) for one in made]
    with Networks(tools.device, tools.weights) as networks:
        found = {
            measure.key: spread_with_bar(place, measure, ours, real, networks, console)
            for measure in SPREADS
            if measure.key in wanted
        }
    list(spread_lines(found, console))  # which says why what was not measured
    return {key: one.value for key, one in found.items()}


def _real(sample: Sample, protocol: Protocol) -> Excerpt:
    """The real clip that a sample's first frame is from."""
    from consisti2v_cli.evaluation.datasets import real_clip
    from consisti2v_cli.evaluation.sets import Excerpt
    from consisti2v_cli.state import content_sha256

    read = partial(real_clip, sample, protocol.size, protocol.frames)
    return Excerpt(sample.name, partial(content_sha256, sample.source), read, sample.draw)


def _lines(
    protocol: Protocol,
    samples: Sequence[Sample],
    found: Mapping[str, Mapping[str, float | None]],
    measures: Sequence[Measure],
    name: str,
    *,
    ablated: bool,
) -> list[str]:
    """The paper's table with ours: what is measured as in the paper in its columns, all else in columns of its own."""
    from consisti2v_cli.evaluation import ablations, protocols

    columns = ablations.COLUMNS if ablated else protocol.columns
    own = [measure for measure in measures if measure.key not in {column.key for column in columns}]
    stand_ins = [measure for measure in own if any(values.get(measure.key) is not None for values in found.values())]
    rows = {
        variant: {key: values.get(key) for key in [*(column.key for column in columns), *(m.key for m in stand_ins)]}
        for variant, values in found.items()
    }
    notes = protocols.shortfalls(protocol, samples)
    if ablated:
        more = [*notes, f"Made by the protocol {protocol.key}.", *protocol.assumptions]
        return ablations.ablation_lines(rows, name=name, stand_ins=stand_ins, notes=more)
    (row,) = rows.values()
    return protocols.table_lines(protocol, row, name=name, stand_ins=stand_ins, notes=notes)
