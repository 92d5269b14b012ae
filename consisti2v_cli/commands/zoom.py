"""`consisti2v zoom`: the camera comes closer or draws back while something happens in a photo."""

from __future__ import annotations

from typing import Any

import click

from consisti2v_cli.commands.options import camera_options, making_options, many_options, zoom_options
from consisti2v_cli.commands.parsing import PATH

EXAMPLES = """\b
Examples:
  consisti2v zoom boat.jpg "the boat drifts" --in
  consisti2v zoom photos/ "leaves rustle" --out --ratio 2 --ease in-out -o clips/
  consisti2v zoom boat.jpg --center 0.7,0.4 --layout-only
"""


@click.command(epilog=EXAMPLES, short_help="Bring the camera closer, or draw it back.")
@click.argument("images", nargs=-1, type=PATH, metavar="IMAGE...")
@click.argument("prompt", required=False, metavar="PROMPT")
@zoom_options
@camera_options
@making_options
@many_options
@click.pass_context
def zoom(context: click.Context, /, images: tuple[str, ...], prompt: str | None, **options: Any) -> int:
    """Make a clip of every IMAGE in which the camera zooms, and what PROMPT says happens.

    IMAGE and PROMPT are as for animate; with --layout-only PROMPT may be left out.
    """
    from consisti2v_cli.commands.making import make_clips
    from consisti2v_cli.commands.values import asked_for

    return make_clips("zoom", images, prompt, options, asked_for(context))
