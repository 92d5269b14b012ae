"""The README's tables of all options, made from the commands.

`python -m consisti2v_cli.commands.reference README.md` brings a file up to date, between the lines BEGIN and END.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from consisti2v_cli.commands import COMMANDS, consisti2v
from consisti2v_cli.errors import RequestError

BEGIN, END = "<!-- options -->", "<!-- /options -->"
MAKING = ("animate", "extend", "pan", "zoom")
AGAIN = "redo"  # takes the options of them all

Row = tuple[str, str, str]  # option, meaning, default


def tables() -> str:
    """Markdown: a table of the options that the making commands share, and one for each command's own."""
    found = {name: rows(name) for name in COMMANDS}
    shared = [row for row in found[MAKING[0]] if all(row in found[name] for name in MAKING)]
    everywhere = [row for row in shared if all(row in others for others in found.values())]
    parts = [_section(f"All of {_listed(MAKING)} have", shared)]
    for name, own in found.items():
        known = shared if name in MAKING else everywhere
        parts.append(
            _again(found, shared) if name == AGAIN else _section(_code(name), [r for r in own if r not in known])
        )
    every = ", ".join(row[0] for row in everywhere)
    return "\n\n".join([*filter(None, parts), f"Every command has {every} and `-h, --help`."])


def rows(name: str) -> list[Row]:
    """A line for each option of a command: how it is written, what it means, its default."""
    command = consisti2v.get_command(click.Context(consisti2v), name)
    if command is None:
        raise ValueError(f"there is no command {name}")
    context = click.Context(command, info_name=name)
    options = [entry for entry in command.params if isinstance(entry, click.Option)]
    return [(_code(_written(entry)), _meaning(entry), _default(entry, context)) for entry in options]


def renewed(text: str) -> str:
    """A text with its tables brought up to date. RequestError unless it has the lines BEGIN and END, in that order."""
    before, begins, rest = text.partition(f"{BEGIN}\n")
    _, ends, after = rest.partition(f"{END}\n")
    if not begins or not ends:
        raise RequestError(f"There are no lines {BEGIN} and {END}, between which the options stand.")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}\n{after}"


def _again(found: dict[str, list[Row]], shared: Sequence[Row]) -> str:
    """The section of the command that takes the options of all making commands."""
    making = [*shared, *(row for name in MAKING for row in found[name])]
    lacking = list(dict.fromkeys(row[0] for row in making if row[0] not in {own[0] for own in found[AGAIN]}))
    without = f", but for {', '.join(lacking)}" if lacking else ""
    own = [row for row in found[AGAIN] if row not in making]
    return _section(f"{_code(AGAIN)}: what {_listed(MAKING)} have{without}; and", own)


def _section(title: str, entries: Sequence[Row]) -> str:
    """A titled table; nothing where there is nothing to tell."""
    if not entries:
        return ""
    lines = [_line(row) for row in [("option", "meaning", "default"), ("---", "---", "---"), *entries]]
    return "\n".join([f"**{title}**", "", *lines])


def _line(row: Row) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _written(option: click.Option) -> str:
    """`-o, --output PATH`, `--fit crop|pad|stretch`, `--metadata / --no-metadata`."""
    names = ", ".join(sorted(option.opts, key=len))
    if option.secondary_opts:
        return f"{names} / {', '.join(option.secondary_opts)}"
    return names if option.is_flag or option.count else f"{names} {_value(option)}"


def _value(option: click.Option) -> str:
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    return "PATH" if isinstance(option.type, click.Path) else "N"


def _meaning(option: click.Option) -> str:
    """The help, and the numbers that are possible."""
    kind = option.type
    if not isinstance(kind, click.IntRange | click.FloatRange) or option.count:
        return option.help or ""
    least, most = ("" if bound is None else f"{bound:g}" if bound < 1e6 else "" for bound in (kind.min, kind.max))
    possible = f"{least} to {most}" if least and most else f"from {least}"
    return f"{option.help} Possible: {possible}."


def _default(option: click.Option, context: click.Context) -> str:
    if option.required:
        return "must be given"
    if option.secondary_opts:
        return _code((option.opts if option.default else option.secondary_opts)[0])
    shown = option.get_help_extra(context).get("default", "")
    return shown.removeprefix("(").removesuffix(")") if isinstance(option.show_default, str) else shown


def _code(text: str) -> str:
    return f"`{text}`"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(map(_code, names[:-1]))} and {_code(names[-1])}"


def _rewrite(path: Path) -> None:
    text = renewed(path.read_text(encoding="utf-8"))
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}.part")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        _rewrite(Path(argument))
