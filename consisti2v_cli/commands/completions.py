"""`consisti2v completions`: scripts that let a shell complete commands, options and their values."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import click
from click.shell_completion import ShellComplete, get_completion_class

from consisti2v_cli.commands.options import config_options, option, talk_options
from consisti2v_cli.commands.parsing import UserPath
from consisti2v_cli.errors import ConsistI2VError, RequestError

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "consisti2v"
VARIABLE = "_CONSISTI2V_COMPLETE"  # where the script tells the program what to complete

EXAMPLES = """\b
To install:
  bash: add to ~/.bashrc:  eval "$(consisti2v completions bash)"
  zsh:  add to ~/.zshrc, behind compinit:  eval "$(consisti2v completions zsh)"
  fish: consisti2v completions fish > ~/.config/fish/completions/consisti2v.fish
\b
Examples:
  consisti2v completions zsh
  consisti2v completions --all completions/
"""


@click.command(epilog=EXAMPLES, short_help="Print a script for completion in the shell.")
@click.argument("shell", type=click.Choice(SHELLS), required=False, metavar="[SHELL]")
@option(
    "--all",
    "folder",
    metavar="FOLDER",
    type=UserPath(file_okay=False, path_type=Path),
    default=None,
    default_text="none",
    help="Write the scripts of all shells into a folder instead, and print their paths.",
)
@config_options
@talk_options
def completions(shell: str | None, folder: Path | None, quiet: bool, verbose: int) -> None:
    """Print the script that completes commands, options, models, formats and samplers with the tab key.

    SHELL is bash, zsh or fish; without it, it is the script of the shell that you use, as $SHELL says.
    """
    if folder is None:
        click.echo(script(shell or _own_shell()), nl=False)
        return
    if shell is not None:
        raise RequestError(f"--all writes the scripts of all shells; leave out {shell}.")
    for path in write_all(folder):
        click.echo(str(path))


def script(shell: str) -> str:
    """What a shell has to read: the same for every version of the commands, which are asked when a key is pressed."""
    from consisti2v_cli.commands import consisti2v

    kind = get_completion_class(shell)
    if kind is None:
        raise ValueError(f"click knows no shell {shell}")
    # Not `source` of the class itself: that of bash looks for a bash on this machine first.
    return ShellComplete.source(kind(consisti2v, {}, PROGRAM, VARIABLE))


def write_all(folder: Path) -> list[Path]:
    """Write `consisti2v.bash`, `.zsh` and `.fish`. Returns their paths; ConsistI2VError where that fails."""
    paths = []
    for shell in SHELLS:
        path = folder / f"{PROGRAM}.{shell}"
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}.part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(script(shell), encoding="utf-8", newline="\n")
            os.replace(temporary, path)
        except OSError as error:
            raise ConsistI2VError(f"{path} cannot be written: {error.strerror}.") from error
        finally:
            temporary.unlink(missing_ok=True)
        paths.append(path)
    return paths


def _own_shell() -> str:
    shell = Path(os.environ.get("SHELL", "")).name
    if shell not in SHELLS:
        raise RequestError(f"Which shell? $SHELL is {shell or 'not set'}; possible: {', '.join(SHELLS)}.")
    return shell
