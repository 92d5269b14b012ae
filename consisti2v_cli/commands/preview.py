"""Small pictures of a clip while it is made, in terminals: kitty or sixel graphics, half-cell colours elsewhere."""

from __future__ import annotations

import io
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderResult
from rich.control import Control
from rich.segment import ControlType, Segment

from consisti2v_cli.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from consisti2v_cli.commands.console import Console

MOST = 8  # previews a clip
INTERVAL = 0.5  # seconds between two, at least
ROWS = 12  # a preview's height, at most
PATIENCE = 1.0  # seconds that a terminal may take to answer: one behind a slow line needs some

HALF_CELLS, SIXEL, KITTY = "half cells", "sixel", "kitty"
CELL = (10, 20)  # width and height of a cell in pixels, where nothing is known

ASK_KITTY = b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"  # is a picture of one pixel welcome?
ASK_CELL = b"\x1b[16t"  # how large is a cell?
ASK_KIND = b"\x1b[c"  # what can you do? All terminals answer this, and in order, so that no answer comes after it

Show = Callable[["NDArray[np.uint8]"], None]  # small frames f h w 3


@dataclass(frozen=True)
class Terminal:
    """What a terminal can show."""

    graphics: str = HALF_CELLS
    cell: tuple[int, int] = CELL  # width and height in pixels


def make_preview(console: Console) -> Preview | None:
    """Previews on stderr; None, with a notice, where it is no terminal in colour, and with -q.

    Asks the terminal what it can show, and waits for its answer: before any progress bar runs.

    Raises:
        RequestError: the extra that shows pictures is not installed.
    """
    if find_spec("textual_image") is None:
        raise RequestError("--preview needs: pip install 'consisti2v-cli[preview]'")
    from consisti2v_cli.commands.console import in_terminal

    rich = RichConsole(stderr=True)
    if not in_terminal() or rich.no_color or rich.color_system is None:
        console.notice("Previews need a terminal that shows colours; the clip is made without.")
        return None
    return None if console.quiet else Preview(ask_terminal(), console)


class Preview:
    """Shows strips of a few frames of a clip above the progress bar, in half cells each in the place of the last."""

    def __init__(self, terminal: Terminal, words: Console | None = None) -> None:
        """
        Args:
            terminal: where they are shown.
            words: what else writes to it. What was written behind a picture, that stays.
        """
        self.terminal = terminal
        self.words = words
        self._last: tuple[object, ...] | None = None  # where the last one stands
        with _stdout(io.StringIO()):  # at its import, textual-image asks a terminal at stdout, and reads from stdin
            from textual_image import renderable
        kinds = {HALF_CELLS: renderable.HalfcellImage, SIXEL: renderable.SixelImage, KITTY: renderable.TGPImage}
        self.image: Callable[..., Any] = kinds[terminal.graphics]
        width, height = terminal.cell  # textual-image reads these where it cannot ask itself
        os.environ.update(TEXTUAL_CELL_WIDTH=str(width), TEXTUAL_CELL_HEIGHT=str(height))

    def of_clip(self, console: RichConsole, steps: int) -> Show:
        """A function to call after each of a clip's steps: it shows some of them, and always the last.

        Args:
            console: of the progress bar, so that pictures come to stand above it.
            steps: how often the function is called in all.
        """
        every = math.ceil(steps / MOST)
        done, shown = 0, -math.inf

        def show(frames: NDArray[np.uint8]) -> None:
            nonlocal done, shown
            done += 1
            left, now = steps - done, time.monotonic()
            if left and (left % every or now - shown < INTERVAL):
                return
            shown = now
            self.show(frames, console)

        return show

    def show(self, frames: NDArray[np.uint8], console: RichConsole) -> None:
        """Show a few of the small frames `f h w 3` side by side."""
        from PIL import Image

        from consisti2v_cli.media.preview import strip

        picture = Image.fromarray(strip(frames))
        columns, rows = self._cells(picture.width / picture.height, console)
        place = (rows, console.size, self.words and self.words.said)
        is_in_reach = self.terminal.graphics == HALF_CELLS and place == self._last
        self._last = place
        back = Control(ControlType.CARRIAGE_RETURN, (ControlType.CURSOR_UP, rows + 1)) if is_in_reach else Control()
        console.print(back, _Picture(self.image(picture, columns, rows)), "")

    def _cells(self, aspect: float, console: RichConsole) -> tuple[int, int]:
        """The columns and rows that a picture takes: as many as fit."""
        width, height = self.terminal.cell
        aspect *= height / width  # counted in cells
        rows = max(1, min(ROWS, console.height - 4, int(console.width / aspect)))
        return max(1, min(console.width, round(rows * aspect))), rows


class _Picture:
    """An image of textual-image that goes through rich alone: some of them write to stdout by themselves."""

    def __init__(self, image: Any) -> None:
        self.image = image

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        with _stdout(written := io.StringIO()):
            segments = list(self.image.__rich_console__(console, options))
        if written.getvalue():
            yield Segment(written.getvalue(), control=[(ControlType.CURSOR_FORWARD, 0)])  # as it is: no text
        yield from segments


@contextmanager
def _stdout(stream: io.StringIO) -> Iterator[None]:
    """Let textual-image believe that stdout is no terminal: it would talk to it, past rich and past our stderr."""
    real = sys.__stdout__
    sys.__stdout__ = stream  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        sys.__stdout__ = real  # type: ignore[misc]


def ask_terminal() -> Terminal:
    """Ask the terminal behind stderr what it can show. Where it cannot be asked, or is silent: half cells.

    A job in the background must not ask: it would be stopped. stdin and stdout may be pipes: they are not touched.
    """
    try:
        import termios  # not on Windows

        terminal = os.open(os.ttyname(sys.stderr.fileno()), os.O_RDWR | os.O_NOCTTY)
    except (ImportError, OSError):
        return Terminal()
    try:
        if os.tcgetpgrp(terminal) != os.getpgrp():
            return Terminal()
        return _understand(_answers(terminal), _cell_of_window(terminal))
    except (OSError, termios.error):
        return Terminal()
    finally:
        os.close(terminal)


def _answers(terminal: int) -> bytes:
    """What the terminal says to our questions."""
    import select
    import termios
    import tty

    # tmux takes the kitty question for a title, and passes no such pictures on.
    multiplexed = "TMUX" in os.environ or os.environ.get("TERM", "").startswith(("screen", "tmux"))
    before = termios.tcgetattr(terminal)
    said = b""
    try:
        tty.setcbreak(terminal, termios.TCSANOW)
        os.write(terminal, (b"" if multiplexed else ASK_KITTY) + ASK_CELL + ASK_KIND)
        while not re.search(rb"\x1b\[\?[\d;]*c", said) and select.select([terminal], [], [], PATIENCE)[0]:
            said += os.read(terminal, 1024)
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)
    return said


def _understand(said: bytes, cell: tuple[int, int] | None) -> Terminal:
    """What a terminal's answers mean; `cell` is the size of one if the system knows it."""
    if size := re.search(rb"\x1b\[6;(\d+);(\d+)t", said):
        height, width = map(int, size.groups())
        cell = (width, height) if width and height else cell
    kind = re.search(rb"\x1b\[\?([\d;]*)c", said)
    if cell and kind and b"4" in kind[1].split(b";"):  # before kitty: some know its pictures, but not its placeholders
        return Terminal(SIXEL, cell)
    if b"\x1b_Gi=31;OK" in said:
        return Terminal(KITTY, cell or CELL)
    return Terminal()


def _cell_of_window(terminal: int) -> tuple[int, int] | None:
    """A cell's width and height in pixels, if the system knows them."""
    import fcntl
    import struct
    import termios

    size = fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(8))
    rows, columns, width, height = struct.unpack("HHHH", size)
    return (width // columns, height // rows) if width and height and columns and rows else None
