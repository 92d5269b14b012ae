"""`consisti2v fetch-weights`: a model from the hub into the cache."""

from __future__ import annotations

import click

from consisti2v_cli.commands.options import config_options, option, talk_options

EXAMPLES = """\b
Examples:
  consisti2v fetch-weights
  consisti2v fetch-weights someone/my-consisti2v --revision v2
"""


@click.command("fetch-weights", epilog=EXAMPLES, short_help="Download a model into the cache.")
@click.argument("model", default="consisti2v", metavar="[MODEL]")
@option("--revision", metavar="NAME", default="main", help="Branch, tag or commit of a hub repository.")
@config_options
@talk_options
def fetch_weights(model: str, revision: str, quiet: bool, verbose: int) -> None:
    """Download MODEL into the cache, and print the folder where it is.

    MODEL is consisti2v (the default: the released model), or a hub repository. What is in the cache already is not
    downloaded again.
    """
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.weights import fetch

    console = Console(quiet=quiet, verbosity=verbose)
    with console.progress(model, of_bytes=True) as report:

        def progress(file: str, done: int, total: int) -> None:
            report("downloading", done, total)

        folder = fetch(model, revision=revision, on_progress=progress, on_notice=console.notice)
    size = sum(file.stat().st_size for file in folder.path.rglob("*") if file.is_file())
    console.notice(f"{model} is here: {size / 1e9:.2f} GB.")
    console.result(str(folder.path))
