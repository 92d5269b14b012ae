"""Defaults of options from a TOML file: one table a command, keys spelled as the options; and the environment's."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from consisti2v_cli.commands import COMMANDS, consisti2v
from consisti2v_cli.commands.parsing import meant
from consisti2v_cli.errors import RequestError
from consisti2v_cli.text import read_text_file

# Commands with a table: doctor takes no defaults, and train has configurations of its own.
CONFIGURED = tuple(name for name in COMMANDS if name not in ("doctor", "train"))


def read_defaults(file: Path | None, context: click.Context) -> dict[str, Any]:
    """The defaults that a configuration file sets for the command of this context, by parameter name.

    Args:
        file: None for `config.toml` in the user's configuration folder, which need not exist.
        context: of the command whose options are asked for.

    Raises:
        RequestError: unreadable file, unknown command or option.
    """
    path = file or default_path()
    if file is None and not path.is_file():
        return {}
    tables = _load(path)
    if unknown := sorted(set(tables) - set(CONFIGURED)):
        raise RequestError(f"{path}: unknown table [{unknown[0]}]; possible: {', '.join(CONFIGURED)}.")
    table = tables.get(context.info_name or "", {})
    if not isinstance(table, dict):
        raise RequestError(f"{path}: {context.info_name} is no table; write [{context.info_name}] above its options.")
    options = _options(context.command)
    defaults = {}
    for key, value in table.items():
        parameter = options.get(key.replace("_", "-"))
        if parameter is None:
            raise RequestError(
                f"{path}: unknown option {key!r} in [{context.info_name}]; see --help for those there are."
            )
        defaults[parameter.name or key] = _value(parameter, value, f"{path}: {key}")
    return defaults


def _value(option: click.Option, value: Any, where: str) -> Any:
    """A value as the command line would get it: text, a switch, or a list where an option may be repeated."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise RequestError(f"{where} = {value!r} must be true or false.")
        return value
    several = value if isinstance(value, list) else [value]
    if (isinstance(value, list) and not option.multiple) or not several:
        raise RequestError(f"{where} = {value!r} must be one value.")
    if wrong := [entry for entry in several if isinstance(entry, bool) or not isinstance(entry, (str, int, float))]:
        raise RequestError(f"{where} = {wrong[0]!r} must be text or a number.")
    texts = [str(entry) for entry in several]
    return texts if option.multiple else texts[0]


def misspelled(variables: Iterable[str]) -> list[str]:
    """Of variables of the environment that are ours by their names, sentences about those that no command reads."""
    known = {"CONSISTI2V_STATE", "CONSISTI2V_CACHE"}
    context = click.Context(consisti2v)
    for name in COMMANDS:
        if command := consisti2v.get_command(context, name):
            spellings = [text for entry in command.params for text in (*entry.opts, *entry.secondary_opts)]
            options = [text.removeprefix("--") for text in spellings if text.startswith("--")]
            known |= {f"CONSISTI2V_{name}_{text}".upper().replace("-", "_") for text in options}
    unread = [name for name in variables if name not in known]
    return [f"The variable {name} is read by no command{meant(name, sorted(known), 0.85) or '.'}" for name in unread]


def default_path() -> Path:
    """Where the configuration file is looked for when none is named."""
    import platformdirs

    try:
        return platformdirs.user_config_path("consisti2v", appauthor=False) / "config.toml"
    except RuntimeError:  # a user without a home
        return Path(os.devnull, "config.toml")


def _options(command: click.Command) -> dict[str, click.Option]:
    """Options by their long names without the dashes."""
    options = [
        parameter for parameter in command.params if isinstance(parameter, click.Option) and parameter.name != "config"
    ]
    return {name.removeprefix("--"): entry for entry in options for name in entry.opts if name.startswith("--")}


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text_file(path))
    except OSError as error:
        raise RequestError(f"The configuration {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"The configuration {path} is not valid TOML: {error}.") from None
