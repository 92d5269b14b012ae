"""Small drawings for the page of what was measured, as SVG that stands in the HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .metrics import dynamic_threshold
from .templates import escaped

WIDTH, HEIGHT = 160, 32  # of a curve

Told = Mapping[str, Any]  # a part of what `report.as_json` gives


@dataclass(frozen=True)
class Curve:
    """A kind of series, drawn at one scale for all clips of a page."""

    name: str  # of its style
    label: str
    prefixes: tuple[str, ...]  # of the series' names
    scale: float
    digits: int
    about: str

    def of(self, clip: Told) -> list[float]:
        """A clip's series of this kind, empty where it has none."""
        names = sorted(clip.get("series", {}), key=lambda name: (len(name), name))
        return next((clip["series"][name] for name in names if name.startswith(self.prefixes)), [])


SIMILARITY = Curve(
    "similarity",
    "frame similarity",
    ("consistency", "subject", "background"),
    100,
    1,
    "how much each frame resembles its neighbour and the first one, times 100",
)
MOTION = Curve("motion", "pair motion, px", ("motion",), 1, 1, "how far the strongest vectors move, pair by pair")
CURVES = (SIMILARITY, MOTION)

Span = tuple[float, float]  # lowest and highest value of a curve's scale


def spans_of(clips: Sequence[Told]) -> dict[str, Span]:
    """From where to where each curve's scale goes, by its name; those that no clip has are not there."""
    return {curve.name: span for curve in CURVES if (span := _span(curve, clips))}


def drawn(clip: Told, spans: Mapping[str, Span]) -> str:
    """All curves of a clip, one below the other."""
    return "".join(_curve(curve, curve.of(clip), spans[curve.name], clip) for curve in CURVES if curve.of(clip))


def _span(curve: Curve, clips: Sequence[Told]) -> Span | None:
    """From where to where a curve's scale goes, None where no clip has one: similarity to 1, motion from 0."""
    values = [value for clip in clips for value in curve.of(clip)]
    if not values:
        return None
    if curve is SIMILARITY:
        return min(0.95, math.floor(min(values) * 20) / 20), 1.0
    return 0.0, max(*values, *(_threshold(clip) for clip in clips if curve.of(clip)))


def _threshold(clip: Told) -> float:
    width, height = clip["size"]
    return dynamic_threshold(height, width)


def _curve(curve: Curve, values: Sequence[float], span: Span, clip: Told) -> str:
    points = [(_x(number, len(values)), _y(value, span)) for number, value in enumerate(values)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    low, high = (f"{value * curve.scale:.{curve.digits}f}" for value in (min(values), max(values)))
    said = f"{curve.label}: {low} to {high} over {len(values)} pairs"
    bound = ""
    if curve is MOTION:
        y = _y(_threshold(clip), span)
        bound = f'<line class="bound" x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        said += f"; in motion above {_threshold(clip):.1f}, which is dashed"
    dot = f'<circle class="dot" cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="2"/>'
    return (
        f'<div class="curve {curve.name}" title="{escaped(said)}">'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(said)}">'
        f'<line class="frame" x1="0" x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/>{bound}'
        f'<polyline class="line" points="{path}"/>{dot}</svg><small>{low} to {high}</small></div>'
    )


def _x(number: int, count: int) -> float:
    return WIDTH * number / max(1, count - 1)


def _y(value: float, span: Span) -> float:
    low, high = span
    return HEIGHT - (HEIGHT - 2) * (value - low) / ((high - low) or 1)


def whisker(found: Told) -> str:
    """The interval of a `report.Difference`, and its mean, about 0, at a scale of its own."""
    most = max(abs(found["low"]), abs(found["high"])) or 1
    low, mean, high = (50 + 45 * found[name] / most for name in ("low", "mean", "high"))
    return (
        '<svg class="whisker" viewBox="0 0 100 12" aria-hidden="true">'
        '<line class="zero" x1="50" x2="50" y1="0" y2="12"/>'
        f'<line class="interval" x1="{low:.1f}" x2="{high:.1f}" y1="6" y2="6"/>'
        f'<circle class="point" cx="{mean:.1f}" cy="6" r="2.8"/></svg>'
    )
