"""`consisti2v pan`: the camera slides over a photo while something happens in it."""

from __future__ import annotations

from typing import Any

import click

from consisti2v_cli.commands.options import camera_options, making_options, many_options, pan_options
from consisti2v_cli.commands.parsing import PATH

EXAMPLES = """\b
Examples:
  consisti2v pan boat.jpg "the boat drifts" --direction left
  consisti2v pan photos/ "clouds pass" --direction up-right --amount 0.5 --ease in-out -o clips/
  consisti2v pan boat.jpg --direction down --layout-only
"""


@click.command(epilog=EXAMPLES, short_help="Slide the camera over photos.")
@click.argument("images", nargs=-1, type=PATH, metavar="IMAGE...")
@click.argument("prompt", required=False, metavar="PROMPT")
@pan_options
@camera_options
@making_options
@many_options
@click.pass_context
def pan(context: click.Context, /, images: tuple[str, ...], prompt: str | None, **options: Any) -> int:
    """Make a clip of every IMAGE in which the camera slides, and what PROMPT says happens.

    The camera goes where --direction says: with left, things move to the right. IMAGE and PROMPT are as for animate;
    with --layout-only PROMPT may be left out.
    """
    from consisti2v_cli.commands.making import make_clips
    from consisti2v_cli.commands.values import asked_for

    return make_clips("pan", images, prompt, options, asked_for(context))
