"""What was measured, as one HTML file that stands alone: tables that sort, pictures, curves, explanations."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consisti2v_cli.media.video import read_frames

from .clips import Clip
from .curves import CURVES, Span, Told, drawn, spans_of, whisker
from .report import Difference
from .templates import escaped, filled

NONE = "-"  # where a measure has no value, as in the terminal's table
SIDE = 176  # pixels: the longer side of a thumbnail, which is shown at about half of that
DIRECTIONS = {"higher": ("&uarr;", "Higher is better."), "lower": ("&darr;", "Lower is better."), "": ("", "")}

Thumbnails = Mapping[tuple[str, str], Sequence[bytes]]  # by folder and file, as the dictionary has them: JPEG


def thumbnails_of(clip: Clip) -> list[bytes]:
    """The first, middle and last frame of a clip, small, as JPEG; fewer where it has fewer frames.

    Raises:
        RequestError: it cannot be read.
    """
    small = [_reduced(frame) for frame in read_frames(clip.path)]
    numbers = sorted({0, len(small) // 2, len(small) - 1})
    return [_jpeg(small[number]) for number in numbers]


def _reduced(frame: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(frame)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    return image


def _jpeg(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", quality=78, optimize=True)
    return file.getvalue()


def page_html(told: Told, thumbnails: Thumbnails) -> str:
    """A page that needs nothing beside it, and works without script: the same data, the same page.

    Args:
        told: what `report.as_json` gives, of one folder or two.
        thumbnails: `thumbnails_of` the clips; those that lack have no pictures.
    """
    folders, measures = told["folders"], told["measures"]
    clips = [clip for folder in folders.values() for clip in folder["clips"]]
    spans = spans_of(clips)
    parts = {
        "title": escaped(", ".join(folders)),
        "facts": escaped(_facts(told, clips)),
        "banners": "\n".join(_banners(measures, clips)),
        "comparison": _comparison(told),
        "folders": "\n".join(
            _folder(name, folder, measures, _Pictures(name, thumbnails), spans) for name, folder in folders.items()
        ),
        "legend": _legend(measures, clips, spans),
    }
    return filled("page", parts)


def shown(value: float | bool | None, measure: Told) -> str:
    """A value as the terminal's table has it."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value * measure['scale']:.{measure['digits']}f}"


def is_still(clip: Told) -> bool:
    """Whether any measure says that the clip is not dynamic."""
    return any(key.startswith("dynamic") and value is False for key, value in clip.get("values", {}).items())


@dataclass(frozen=True)
class _Pictures:
    folder: str
    thumbnails: Thumbnails

    def of(self, clip: Told) -> str:
        found = self.thumbnails.get((self.folder, clip["file"]), ())
        names = ["first frame", "middle frame", "last frame"] if len(found) > 2 else ["first frame", "last frame"]
        images = [
            f'<img src="data:image/jpeg;base64,{base64.b64encode(data).decode()}" alt="{name}" decoding="async">'
            for data, name in zip(found, names, strict=False)
        ]
        return f'<div class="strip">{"".join(images)}</div>' if images else ""


def _facts(told: Told, clips: Sequence[Told]) -> str:
    settings = [f"{key} {value}" for key, value in told["settings"].items() if value not in (None, "")]
    return ", ".join([_clips(len(clips)), f"measured by consisti2v {told['consisti2v']}", *settings])


def _banners(measures: Sequence[Told], clips: Sequence[Told]) -> Iterator[str]:
    if names := [measure["label"] for measure in measures if measure["stands_in"]]:
        yield (
            f'<p class="banner stand-ins"><strong>Stand-ins:</strong> {escaped(", ".join(names))}. '
            "They are measured by other means than the paper's: "
            "their values are for comparing clips with each other.</p>"
        )
    if still := sum(map(is_still, clips)):
        are = "is" if still == 1 else "are"
        yield (
            f'<p class="banner still">{still} of {len(clips)} clips {are} not dynamic, and marked so. '
            "A still clip is nearly perfect in all but motion: look at both.</p>"
        )


def _folder(name: str, folder: Told, measures: Sequence[Told], pictures: _Pictures, spans: Mapping[str, Span]) -> str:
    clips = folder["clips"]
    measured = sum("problem" not in clip for clip in clips)
    rows = "\n".join(_row(clip, measures, pictures, spans) for clip in clips)
    return f"""<section>
<h2>{escaped(name)}</h2>
{_spreads(folder.get("spreads") or {})}
<div class="wide" tabindex="0" role="region" aria-label="Clips of {escaped(name)}">
<table class="sorts">
<thead><tr>{_heads(measures, clips, spans)}</tr></thead>
<tbody class="mean">{_means(measured, folder["summary"], measures, spans)}</tbody>
<tbody class="clips">
{rows}
</tbody>
</table>
</div>
</section>"""


def _spreads(found: Told) -> str:
    """What a folder has as a whole: a line each for FVD, FID and IS, where they are asked for."""
    if not found:
        return ""
    from .sets import SPREADS

    lines = []
    for measure in SPREADS:
        if (one := found.get(measure.key)) is None:
            continue
        if one["value"] is None:
            lines.append(f"Not measured: {measure.label}: {one['reason']}")
            continue
        more = "" if one["deviation"] is None else f" +- {one['deviation']:.2f} over parts"
        value = shown(one["value"], asdict(measure))
        lines.append("; ".join([f"{measure.label}: {value}{more}, of {_clips(one['n'])}", *one["notes"]]))
    return "\n".join(f"<p>{escaped(line)}</p>" for line in lines)


def _clips(count: int) -> str:
    return f"{count} clip{'' if count == 1 else 's'}"


def _heads(measures: Sequence[Told], clips: Sequence[Told], spans: Mapping[str, Span]) -> str:
    cells = ['<th scope="col" data-label="clip" data-first="ascending">clip</th>']
    if spans:
        keys = [
            f'<span class="keys"><span class="key {curve.name}"></span>{curve.label}</span>'
            for curve in CURVES
            if curve.name in spans
        ]
        cells.append(f'<th scope="col" class="curves">{"".join(keys)}</th>')
    cells += [_head(measure, explained(measure, clips)) for measure in measures]
    return "".join(cells)


def _head(measure: Told, about: str) -> str:
    label, _, variant = measure["label"].partition(" (")
    arrow, words = DIRECTIONS[measure["better"]]
    first = "ascending" if measure["better"] == "lower" else "descending"
    direction = f'&nbsp;<span class="direction" aria-hidden="true">{arrow}</span><span class="unseen">{words}</span>'
    return (
        f'<th scope="col" data-label="{escaped(measure["label"])}" data-first="{first}" title="{escaped(about)}">'
        f"{escaped(label)}{direction if arrow else ''}"
        + (f'<span class="variant">({escaped(variant)}</span>' if variant else "")
        + "</th>"
    )


def explained(measure: Told, clips: Sequence[Told]) -> str:
    """What a measure says, which direction is better, and between what values the clips lie."""
    about = f"{measure['about'][:1].upper()}{measure['about'][1:].rstrip('.')}."
    direction = DIRECTIONS[measure["better"]][1] or "Neither more nor less is better."
    values = [value for clip in clips if (value := clip.get("values", {}).get(measure["key"])) is not None]
    if not values or isinstance(values[0], bool):
        return f"{about} {direction}"
    return f"{about} {direction} Here from {shown(min(values), measure)} to {shown(max(values), measure)}."


def _means(count: int, summary: Told, measures: Sequence[Told], spans: Mapping[str, Span]) -> str:
    cells = [f'<th scope="row" class="clip">mean of {count}<small>95 % interval</small></th>']
    cells += ["<td></td>"] if spans else []
    return f"<tr>{''.join(cells + [_mean(summary[measure['key']], measure, count) for measure in measures])}</tr>"


def _mean(mean: Told | None, measure: Told, count: int) -> str:
    if mean is None:
        return f'<td class="number missing">{NONE}</td>'
    low, high = (shown(mean[name], measure) for name in ("low", "high"))
    notes = [f"Of {mean['n']} clips; {count - mean['n']} have no value."] if mean["n"] < count else []
    if mean.get("frame_weighted") is not None:
        notes.append(f"Over all frames of all clips: {shown(mean['frame_weighted'], measure)}.")
    title = f' title="{escaped(" ".join(notes))}"' if notes else ""
    return f'<td class="number"{title}>{shown(mean["mean"], measure)}<small>{low} to {high}</small></td>'


def _row(clip: Told, measures: Sequence[Told], pictures: _Pictures, spans: Mapping[str, Span]) -> str:
    name = f'<span class="name">{escaped(clip["file"])}</span>'
    value = escaped(clip["file"])
    if "problem" in clip:
        columns = len(measures) + bool(spans)
        return (
            f'<tr><th scope="row" class="clip" data-value="{value}">{name}</th>'
            f'<td class="problem" colspan="{columns}">Not measured: {escaped(clip["problem"])}</td></tr>'
        )
    mark = ' <span class="mark" title="So little happens that the other values say little.">not dynamic</span>'
    head = f"{name}{mark if is_still(clip) else ''}{_about(clip)}{pictures.of(clip)}"
    cells = [f'<th scope="row" class="clip" data-value="{value}">{head}</th>']
    if spans:
        cells.append(f'<td class="curves">{drawn(clip, spans)}</td>')
    return f"<tr>{''.join(cells + [_cell(clip, measure) for measure in measures])}</tr>"


def _about(clip: Told) -> str:
    width, height = clip["size"]
    facts = [f"{width}&times;{height}", f"{clip['frames']} frames at {clip['fps']:g} fps"]
    recipe = clip.get("recipe") or {}
    if recipe.get("seed") is not None:
        facts.append(f"seed {escaped(recipe['seed'])}")
    prompt = escaped(recipe.get("prompt") or "")
    return f"<small>{', '.join(facts)}</small>" + (
        f'<small class="prompt" title="{prompt}">{prompt}</small>' if prompt else ""
    )


def _cell(clip: Told, measure: Told) -> str:
    value = clip["values"][measure["key"]]
    if value is None:
        reason = escaped(clip["reasons"].get(measure["key"], "not measured"))
        return f'<td class="number missing" title="{reason}">{NONE}</td>'
    return f'<td class="number" data-value="{float(value)!r}">{shown(value, measure)}</td>'


def _comparison(told: Told) -> str:
    """Of two folders: a row a measure, over the pairs."""
    found = told.get("comparison")
    if not found:
        return ""
    one, other = (escaped(name) for name in told["folders"])
    heads = [one, other, "difference", "95 % interval", "", "better", "same", "worse"]
    cells = "".join(f'<th scope="col">{head}</th>' for head in heads)
    rows = "\n".join(_difference(found["differences"][measure["key"]], measure) for measure in told["measures"])
    pairs = f"{len(found['pairs'])} pair{'' if len(found['pairs']) == 1 else 's'}"
    notes = [f"{pairs} of one picture, prompt and seed, else of one name; {other} less {one}."]
    if alone := [f"{folder.rstrip('/')}/{name}" for folder, names in found["alone"].items() for name in names]:
        notes.append(f"Without a partner: {escaped(', '.join(alone))}.")
    static = f'<p class="banner static">{other} is more consistent, but more static too: less happens in it.</p>'
    return f"""<section>
<h2>{one} and {other}</h2>
<p>{" ".join(notes)}</p>
{static if found["more_static"] else ""}
<div class="wide differences" tabindex="0" role="region" aria-label="{one} and {other} compared">
<table>
<thead><tr><th scope="col">measure</th>{cells}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
</section>"""


def _difference(found: Told | None, measure: Told) -> str:
    head = f'<th scope="row">{escaped(measure["label"])}</th>'
    if found is None:
        missing = f'<td class="number missing">{NONE}</td>'
        return f"<tr>{head}{missing * 4}<td></td>{missing * 3}</tr>"
    first, second, mean, low, high = (
        shown(found[name], measure) for name in ("first", "second", "mean", "low", "high")
    )
    counts = [str(found[name]) for name in ("wins", "ties", "losses")] if measure["better"] else [NONE] * 3
    sure = _is_sure(found)
    numbers = [first, second, f'<span class="change">{mean}</span>', f"{low} to {high}" if sure else NONE]
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    cells += f"<td>{whisker(found) if sure else ''}</td>" + "".join(
        f'<td class="number">{count}</td>' for count in counts
    )
    return f'<tr class="{_verdict(found, measure)}">{head}{cells}</tr>'


def _is_sure(found: Told) -> bool:
    return Difference(**found).is_sure


def _verdict(found: Told, measure: Told) -> str:
    """Whether the interval lies on one side of 0, and on which: a class of the row."""
    if not _is_sure(found) or found["low"] <= 0 <= found["high"]:
        return ""
    if not measure["better"]:
        return "certain"
    return "gain" if (found["mean"] > 0) == (measure["better"] == "higher") else "loss"


def _legend(measures: Sequence[Told], clips: Sequence[Told], spans: Mapping[str, Span]) -> str:
    """The same explanations that headers show on hover, to be read and printed."""
    told = [(measure["label"], explained(measure, clips)) for measure in measures]
    told += [(curve.label, f"The curve: {curve.about}.") for curve in CURVES if curve.name in spans]
    entries = "\n".join(f"<dt>{escaped(label)}</dt><dd>{escaped(about)}</dd>" for label, about in told)
    return f"<section>\n<h2>What is measured</h2>\n<dl>\n{entries}\n</dl>\n</section>"
