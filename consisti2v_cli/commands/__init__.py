"""The command `consisti2v`: finds the subcommand, and turns errors into messages and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
from click.exceptions import NoArgsIsHelpError

from consisti2v_cli.errors import ConsistI2VError, lacks_memory
from consisti2v_cli.version import __version__

COMMANDS = {  # name: where the command is; loaded when it is asked for
    "animate": "consisti2v_cli.commands.animate:animate",
    "extend": "consisti2v_cli.commands.extend:extend",
    "pan": "consisti2v_cli.commands.pan:pan",
    "zoom": "consisti2v_cli.commands.zoom:zoom",
    "redo": "consisti2v_cli.commands.redo:redo",
    "info": "consisti2v_cli.commands.info:info",
    "fetch-weights": "consisti2v_cli.commands.fetch_weights:fetch_weights",
    "evaluate": "consisti2v_cli.commands.evaluate:evaluate",
    "doctor": "consisti2v_cli.commands.doctor:doctor",
    "train": "consisti2v_cli.commands.train:train",
    "completions": "consisti2v_cli.commands.completions:completions",
}
FAILED, WRONG_REQUEST, INTERRUPTED = 1, 2, 130


@dataclass
class Session:
    """What concerns the whole call: click hands it on as `context.obj`."""

    verbosity: int = 0  # number of -v: from 2 on, errors come with their traceback


class LazyGroup(click.Group):
    """A group that imports a subcommand only when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of a user's path."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand of that name; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand. ConsistI2VError where there is no current folder, in which torch dies; but for help."""
        if not _is_somewhere() and not set(ctx.help_option_names) & set(ctx.args):
            raise ConsistI2VError("the current folder has been deleted; change to another one.")
        return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The subcommand that is meant; click.UsageError, with the name that may be meant, where there is none."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from consisti2v_cli.commands.parsing import meant

            message = error.message.rstrip(".") + (meant(args[0], COMMANDS) or ".")
            raise click.UsageError(message, ctx=error.ctx) from None


@click.group(
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "CONSISTI2V",
        "max_content_width": 100,
    },
    epilog='Example: consisti2v animate boat.jpg "the boat drifts left"',
)
@click.version_option(__version__, prog_name="consisti2v")
def consisti2v() -> None:
    """Animate a photo with a sentence."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong request, 3 no weights, 130 interrupted."""
    session = Session()
    try:
        code = consisti2v.main(arguments, prog_name="consisti2v", standalone_mode=False, obj=session)
        if sys.stdout is not None:  # it was closed: `consisti2v ... >&-`
            with writing_out():
                sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output is gone: `consisti2v ... | head -1`
        sys.stdout = None
        code = FAILED
    except KeyboardInterrupt:  # before click takes care of it, or after
        code = INTERRUPTED
    except Exception as error:  # the one place where errors become messages
        if session.verbosity >= 2:
            traceback.print_exc()
        message, code = explain(error)
        message = _dashed(error, sys.argv[1:] if arguments is None else arguments) or message
        click.echo("\n".join(map(_harmless, message.split("\n"))), err=True)
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def writing_out() -> Iterator[None]:
    """Something is written to standard output: where that fails, the error says so. A reader that is gone is none."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConsistI2VError(f"standard output cannot be written: {error.strerror or error}.") from error


def explain(error: Exception) -> tuple[str, int]:
    """The one or two lines that tell a person what went wrong, and the exit code."""
    if isinstance(error, click.Abort):
        return "Interrupted.", INTERRUPTED
    if isinstance(error, NoArgsIsHelpError):
        return error.format_message(), WRONG_REQUEST
    if isinstance(error, click.ClickException):
        return _explain_usage(error), WRONG_REQUEST
    if isinstance(error, ConsistI2VError):
        return f"Error: {error}", error.exit_code
    if lacks_memory(error):
        return "Error: not enough memory. Try a smaller --size, fewer --frames, or --dtype bf16.", FAILED
    if isinstance(error, OSError) and error.strerror:
        about = f": {error.filename}" if error.filename else ""
        return f"Error: {error.strerror}{about}", FAILED
    text = " ".join(str(error).split())[:300]
    return f"Error: {type(error).__name__}: {text}\nThis should not happen; -vv shows where it did.", FAILED


def _is_somewhere() -> bool:
    """Whether there is a current folder."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _harmless(line: str) -> str:
    """A line of a message, which may name files, without what moves a terminal's cursor."""
    from consisti2v_cli.commands.inputs import printable

    return printable(line)


def _dashed(error: Exception, arguments: Sequence[str]) -> str:
    """What to do where an unknown option is the name of a file; else nothing."""
    if not isinstance(error, click.NoSuchOption):
        return ""
    files = [argument for argument in arguments if argument.startswith("-") and os.path.isfile(argument)]
    return f"Error: {files[0]} is read as an option; write ./{files[0]} for the file of that name." if files else ""


def _explain_usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    hint = f"\nTry '{context.command_path} --help'." if context else ""
    return f"Error: {' '.join(error.format_message().split())}{hint}"
