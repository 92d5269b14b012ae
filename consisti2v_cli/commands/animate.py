"""`consisti2v animate`: photos and a sentence in, clips out."""

from __future__ import annotations

from typing import Any

import click

from consisti2v_cli.commands.options import making_options, many_options
from consisti2v_cli.commands.parsing import PATH
from consisti2v_cli.kinds import listed_pictures

EXAMPLES = """\b
Examples:
  consisti2v animate boat.jpg "the boat drifts left"
  consisti2v animate photos/ "waves roll in" -o clips/ -f mp4 -f gif
  cat boat.png | consisti2v animate - @prompt.txt -o - > boat.mp4
"""


HELP = f"""Make a clip of every IMAGE, in which happens what PROMPT says.

IMAGE is a file ({listed_pictures()}), a folder, or - for standard input. PROMPT is the last argument; @FILE reads it
from a file. In a folder, NAME.txt beside NAME.png is the prompt of that image; where all have one, PROMPT may be left
out.

Of several clips, those that are made already are left out: a run that was interrupted goes on.
"""


@click.command(help=HELP, epilog=EXAMPLES, short_help="Make clips of photos and a sentence.")
@click.argument("images", nargs=-1, type=PATH, metavar="IMAGE...")
@click.argument("prompt", required=False, metavar="PROMPT")
@making_options
@many_options
@click.pass_context
def animate(context: click.Context, /, images: tuple[str, ...], prompt: str | None, **options: Any) -> int:
    """Make clips of photos and a sentence: see `HELP`."""
    from consisti2v_cli.commands.making import make_clips
    from consisti2v_cli.commands.values import asked_for

    return make_clips("animate", images, prompt, options, asked_for(context))
