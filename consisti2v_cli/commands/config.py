"""Defaults of options from a TOML file: one table a command, keys spelled as the options."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click

from consisti2v_cli.commands import COMMANDS
from consisti2v_cli.errors import RequestError

CONFIGURED = tuple(name for name in COMMANDS if name != "train")  # which has configurations of its own


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
        listed = parameter.multiple and not isinstance(value, list)
        defaults[parameter.name or key] = [value] if listed else value
    return defaults


def default_path() -> Path:
    """Where the configuration file is looked for when none is named."""
    import platformdirs

    return platformdirs.user_config_path("consisti2v", appauthor=False) / "config.toml"


def _options(command: click.Command) -> dict[str, click.Option]:
    """Options by their long names without the dashes."""
    options = [
        parameter for parameter in command.params if isinstance(parameter, click.Option) and parameter.name != "config"
    ]
    return {name.removeprefix("--"): entry for entry in options for name in entry.opts if name.startswith("--")}


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"The configuration {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"The configuration {path} is not valid TOML: {error}.") from None
