"""Tables of the paper with rows of ours, as aligned lines of text. Values are cut off, not rounded, as the paper's are.

What stands in for a metric of the paper never gets into that metric's column: it has a column under its own name.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from functools import partial
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .measures import Measure

NONE = "-"
HEAD_WIDTH = 12  # letters of a line of a column's head, unless a word is longer
_NOISE = 6  # digits behind the last one that is shown, after which a value is floating-point noise

Values = Mapping[str, float | None]  # by a metric's key, as the metric computes it; None: it has no value


@dataclass(frozen=True)
class Column:
    """A metric of the paper, as one of its tables has it."""

    key: str  # of the metric
    label: str  # in the table, on one line or two
    better: Literal["higher", "lower"]
    digits: int = 2  # that the paper prints behind the point
    scale: float = 1.0  # what a metric's value is multiplied by to be printed


def cut(value: float | None, digits: int = 2, scale: float = 1.0) -> str:
    """A value times `scale`, cut off behind so many digits: 0.354375 is 35.43 per cent. Without a value: `-`."""
    if value is None or not math.isfinite(value):
        return NONE
    exact = Decimal(repr(round(float(value) * scale, digits + _NOISE)))  # 0.29 * 100 is 28.999999999999996
    shown = exact.quantize(Decimal(1).scaleb(-digits), ROUND_DOWN)
    return str(shown if shown else abs(shown))


def aligned(
    columns: Sequence[Column],
    reference: Mapping[str, Sequence[float]],
    ours: Mapping[str, Values],
    stand_ins: Sequence[Measure] = (),
) -> list[str]:
    """A table: the paper's rows, then ours.

    Args:
        columns: of the paper.
        reference: its rows by name, their values as printed, in the order of `columns`.
        ours: rows by name; of each, values by the keys of `columns` and of `stand_ins`.
        stand_ins: measures that are no metrics of the paper, each of which gets a column behind the paper's.

    Raises:
        ValueError: a stand-in has the key of a metric of the paper; a value has a key that no column has.
    """
    paper = [column.key for column in columns]
    own = [measure.key for measure in stand_ins]
    if both := set(paper) & set(own):
        raise ValueError(f"{min(both)} is a metric of the paper, and cannot stand in for one")
    if unknown := {key for values in ours.values() for key in values} - {*paper, *own}:
        raise ValueError(f"no column is called {min(unknown)}")
    lines = list(_heads(columns, stand_ins))
    for name, printed in reference.items():
        cells = [f"{value:.{column.digits}f}" for value, column in zip(printed, columns, strict=True)]
        lines.append([name, *cells, *[NONE] * len(own)])
    for name, values in ours.items():
        cells = [cut(values.get(column.key), column.digits, column.scale) for column in columns]
        lines.append([name, *cells, *(shown(values.get(measure.key), measure) for measure in stand_ins)])
    return list(padded(lines))


def notes_below(heading: str, notes: Sequence[str]) -> list[str]:
    """A heading with a line a note, or nothing where there is no note."""
    return [heading, *(f"- {note}" for note in notes)] if notes else []


def _heads(columns: Sequence[Column], stand_ins: Sequence[Measure]) -> Iterator[list[str]]:
    """Names, on two lines where they have two or end in brackets, and which values are better."""
    labels = [*(column.label for column in columns), *(measure.label for measure in stand_ins)]
    better = [*(column.better for column in columns), *(measure.better or NONE for measure in stand_ins)]
    yield from heads(["", *labels])
    yield ["better", *better]


def heads(labels: Sequence[str]) -> Iterator[list[str]]:
    """The heads of columns in several lines; what is in brackets begins a new one."""
    parts = [label.replace(" (", "\n(", 1).split("\n") for label in labels]
    wrap = partial(textwrap.wrap, width=HEAD_WIDTH, break_long_words=False)
    lines = [[line for part in label for line in wrap(part)] for label in parts]
    for number in range(max(map(len, lines))):
        yield [(label[number : number + 1] or [""])[0] for label in lines]


def shown(value: float | bool | None, measure: Measure) -> str:
    """A measure's value as tables have it; without one: `-`."""
    if value is None or not math.isfinite(value):
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value * measure.scale:.{measure.digits}f}"


def padded(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns of equal width; numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()
