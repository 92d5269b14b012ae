"""Lists of clips: CSV with a header, or a JSON object a line; a row names an input, and what is special about it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click
from click.core import augment_usage_errors

from consisti2v_cli.commands.inputs import Input, bad, open_image, printable, read_text
from consisti2v_cli.commands.parsing import meant
from consisti2v_cli.errors import RequestError
from consisti2v_cli.text import decode_text

INPUT, PROMPT, OUTPUT = "input", "prompt", "output"
OWN_COLUMNS = (INPUT, PROMPT, OUTPUT)
RUN_WIDE = {"config", "dry_run", "json", "manifest", "overwrite", "preview", "quiet", "shard", "verbose"}
SEPARATORS = ",;\t"
LARGEST = 100_000_000  # bytes


@dataclass(frozen=True)
class Row:
    """What a line of a manifest asks for."""

    inputs: list[Input]  # one, or those of a folder; in trouble one with a `problem`
    where: str  # the file and the line, for messages
    given: dict[str, Any] = field(default_factory=dict)  # parameters of the command, by name
    output: str | None = None  # a template inside the folder of -o


def read_manifest(file: str, prompt: str | None, context: click.Context) -> list[Row]:
    """Read the rows of a manifest; those that are wrong have an input with a `problem`.

    Args:
        file: CSV, or JSON lines, by its suffix, else by its first character.
        prompt: of rows without one.
        context: of the command whose options the columns are.

    Raises:
        RequestError: it cannot be read at all, or has no column `input`.
    """
    text = _read(file)
    columns = _columns(context.command)
    lines = _json_lines(text) if _is_json(file, text) else _csv_lines(text, file, (*OWN_COLUMNS, *columns))
    rows = [_row(cells, f"{printable(file)}, line {number}", file, prompt, columns, context) for number, cells in lines]
    if not rows:
        raise RequestError(f"The manifest {printable(file)} lists nothing.")
    return rows


Cells = Mapping[str, Any] | RequestError  # text, numbers and the like by column, or why there are none


def _read(file: str) -> str:
    try:
        if os.path.exists(file) and not os.path.isfile(file):
            raise RequestError(f"The manifest {printable(file)} is no ordinary file.")
        with open(file, "rb") as stream:
            data = stream.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise RequestError(f"The manifest {printable(file)} is larger than {LARGEST // 10**6} MB.")
        return decode_text(data)
    except OSError as error:
        raise RequestError(f"The manifest {printable(file)} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise RequestError(f"The manifest {printable(file)} is not UTF-8 text; save it as CSV UTF-8.") from None


def _is_json(file: str, text: str) -> bool:
    suffix = os.path.splitext(file)[1].lower()
    if suffix in (".csv", ".tsv"):
        return False
    return suffix in (".jsonl", ".ndjson", ".json") or text.lstrip().startswith("{")


def _json_lines(text: str) -> Iterator[tuple[int, Cells]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _json_object(line)


def _json_object(line: str) -> Cells:
    try:
        cells = json.loads(line)
    except (ValueError, RecursionError) as error:
        return RequestError(f"not valid JSON ({' '.join(str(error).split())})")
    return cells if isinstance(cells, dict) else RequestError("a JSON object is expected")


def _csv_lines(text: str, file: str, columns: Sequence[str]) -> Iterator[tuple[int, Cells]]:
    first = text.split("\n", 1)[0]
    separator = next((mark for mark in SEPARATORS if INPUT in map(_column, first.split(mark))), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] = []
    begun = 1
    try:
        for cells in reader:
            number, begun = begun, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header:
                yield number, _csv_cells(header, cells)
            else:
                header = _header(cells, file, columns)
    except csv.Error as error:
        raise RequestError(
            f"The manifest {printable(file)} is not valid CSV: line {reader.line_num}: {error}."
        ) from None


def _header(cells: list[str], file: str, columns: Sequence[str]) -> list[str]:
    """The names of the columns, as options are spelled. RequestError for one that means nothing, or is there twice."""
    names = list(map(_column, cells))
    if INPUT not in names:
        raise RequestError(f"The manifest {printable(file)} has no column {INPUT}; its first line names the columns.")
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise RequestError(f"The manifest {printable(file)} has the column {twice[0]} twice.")
    if unknown := [name for name in names if name and name not in columns]:
        raise RequestError(f"The manifest {printable(file)} has an {_unknown(unknown[0], columns)}")
    return names


def _csv_cells(header: list[str], cells: list[str]) -> Cells:
    if any(cell.strip() for cell in cells[len(header) :]):
        return RequestError(f"{len(cells)} cells, but the header names {len(header)} columns")
    return dict(zip(header, cells, strict=False))


def _column(name: str) -> str:
    """A column's name, as the command spells its options: 'Layout_Strength ' -> 'layout-strength'."""
    return name.strip().strip('"').lower().replace("_", "-").removeprefix("--")


def _columns(command: click.Command) -> dict[str, tuple[click.Option, bool]]:
    """By column: the option, and whether the column is the one that turns it off."""
    options = [entry for entry in command.params if isinstance(entry, click.Option) and entry.name not in RUN_WIDE]
    spellings = [(text, entry, False) for entry in options for text in entry.opts]
    spellings += [(text, entry, True) for entry in options for text in entry.secondary_opts]
    return {text[2:]: (entry, turned) for text, entry, turned in spellings if text.startswith("--")}


def _row(
    cells: Cells,
    where: str,
    file: str,
    prompt: str | None,
    columns: Mapping[str, tuple[click.Option, bool]],
    context: click.Context,
) -> Row:
    try:
        if isinstance(cells, RequestError):
            raise cells
        named = {_column(name): value for name, value in cells.items() if value not in ("", None)}
        place, own, output = (_text(named, name) for name in (INPUT, PROMPT, OUTPUT))
        if place is None or place == "-":
            raise RequestError(f"{INPUT} is {'missing' if place is None else '-, which is no file'}")
        folder = os.path.dirname(file)
        if own is not None and own.startswith("@") and not own.startswith("@@"):
            own = "@" + os.path.join(folder, os.path.expanduser(own[1:]))
        text = prompt if own is None else read_text(own)
        return Row(
            open_image(os.path.expanduser(place), text, folder=folder),
            where,
            dict(_given(named, columns, context)),
            output,
        )
    except (RequestError, click.UsageError) as error:
        message = error.format_message() if isinstance(error, click.UsageError) else str(error)
        return Row([bad(where, RequestError(f"{where}: {' '.join(message.split())}"))], where)


def _unknown(name: str, columns: Iterable[str]) -> str:
    """That a column means nothing, and which one may have been meant."""
    possible = f"; possible: {', '.join(OWN_COLUMNS)} and options."
    return f"unknown column {printable(name)!r}{meant(name, columns) or possible}"


def _text(named: Mapping[str, Any], name: str) -> str | None:
    value = named.get(name)
    if value is not None and not isinstance(value, str):
        raise RequestError(f"{name} = {value!r} must be text")
    return value


def _given(
    named: Mapping[str, Any], columns: Mapping[str, tuple[click.Option, bool]], context: click.Context
) -> Iterator[tuple[str, Any]]:
    """The parameters that a row names, with their values: read by the types of the command line."""
    for name, value in named.items():
        if name in OWN_COLUMNS:
            continue
        if name not in columns:
            raise RequestError(_unknown(name, (*OWN_COLUMNS, *columns)))
        option, turned = columns[name]
        with augment_usage_errors(context, param=option):
            parsed = option.type_cast_value(context, _written(option, value))
        yield option.name or name, not parsed if turned else parsed


def _written(option: click.Option, value: Any) -> Any:
    """A cell as the command line would get it: text, or several where an option may be repeated."""
    several = value if isinstance(value, list) else [value]
    if wrong := [entry for entry in several if not isinstance(entry, str | int | float)]:
        raise click.BadParameter(f"{wrong[0]!r} must be text or a number.")
    if option.multiple:
        return [word for entry in several for word in re.split(r"[,;\s]+", str(entry)) if word]
    if isinstance(value, list) or (isinstance(value, bool) and not option.is_flag):
        raise click.BadParameter(f"{value!r} must be one text or number.")
    return str(value).strip() if option.name != "negative" else str(value)
