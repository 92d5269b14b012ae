"""Previews in terminals: a pseudo-terminal answers as one with sixel, kitty or no graphics, and shows what comes."""

import base64
import fcntl
import io
import os
import re
import select
import struct
import subprocess
import sys
import termios
import threading
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from consisti2v_cli.commands import preview as module
from consisti2v_cli.commands.console import Console
from consisti2v_cli.commands.preview import MOST, Preview, Terminal, make_preview
from consisti2v_cli.errors import RequestError

# Three previews of a clip of one colour above a progress bar; a result on stdout; and stdin, read at the end.
SCRIPT = """
import fcntl, sys, termios
if {controlling}: fcntl.ioctl(2, termios.TIOCSCTTY, 0)
import numpy as np
from consisti2v_cli.commands import preview as module
from consisti2v_cli.commands.console import Console
module.INTERVAL = 0
module.PATIENCE = {patience}
console = Console(quiet=False)
preview = module.make_preview(console)
frames = np.full((8, 16, 16, 3), (250, 120, 10), dtype=np.uint8)
with console.progress("boat.jpg") as report:
    show = preview.of_clip(report.bars.console, 3) if preview else None
    for done in (1, 2, 3):
        report("steps", done, 3)
        if show: show(frames)
    if show: report.bars.refresh()
    print("bar ends", file=sys.stderr)
print("boat.mp4", sys.stdin.read())
"""

KIND, CELL, KITTY = b"\x1b[c", b"\x1b[16t", b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"
SILENT: dict[bytes, bytes] = {}
XTERM = {KIND: b"\x1b[?64;1;2;6;22c"}
FOOT = {CELL: b"\x1b[6;16;8t", KIND: b"\x1b[?62;4;22c"}
GHOSTTY = {KITTY: b"\x1b_Gi=31;OK\x1b\\", CELL: b"\x1b[6;18;9t", KIND: b"\x1b[?62;22c"}
WEZTERM = GHOSTTY | {KIND: b"\x1b[?65;4;6c"}


@dataclass
class Shown:
    """What a command wrote to its terminal, and to stdout."""

    raw: bytes
    stdout: str
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lines = screen(self.raw.decode())


def in_terminal(answers=SILENT, *, env=None, stdin="", stdout=True, rows=40, pixels=(0, 0), script=None) -> Shown:
    """Run a script whose stderr is a terminal of 90 columns that answers questions as it is told.

    stdin is a pipe, and so is stdout, or it is the terminal too (stdout=False).
    """
    patience = 1 if answers is SILENT else 20
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 90, *pixels))
    kept = {name: value for name, value in os.environ.items() if name not in ("TMUX", "COLUMNS", "LINES", "NO_COLOR")}
    environment = {**kept, "TERM": "xterm-256color", "COLORTERM": "truecolor", **(env or {})}
    process = subprocess.Popen(
        [sys.executable, "-c", script or SCRIPT.format(controlling=True, patience=patience)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if stdout else theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    said: list[bytes] = []
    listener = threading.Thread(target=listen, args=(ours, dict(answers), said))
    listener.start()
    try:
        results, _ = process.communicate(stdin.encode(), timeout=60)
    finally:
        process.kill()
        listener.join()
        os.close(ours)
    assert process.returncode == 0, b"".join(said).decode()
    return Shown(b"".join(said), (results or b"").decode())


def listen(terminal: int, answers: dict[bytes, bytes], said: list[bytes]) -> None:
    """Keep what is written to a terminal until all its users are gone; answer each question once."""
    asked = b""
    while True:
        try:
            select.select([terminal], [], [])
            said.append(os.read(terminal, 65536))
        except OSError:
            return
        asked += said[-1]
        for question in [question for question in answers if question in asked]:
            os.write(terminal, answers.pop(question))


def screen(text: str) -> list[str]:
    """The lines that stand in a terminal after all was written: enough of one for a progress bar."""
    lines, row, column, saved = [[]], 0, 0, (0, 0)
    for sequence, character in re.findall(r"(\x1b\[[\d;?]*[A-Za-z]|\x1b_.*?\x1b\\|\x1bP.*?\x1b\\|\x1b.)|(.|\n)", text):
        if sequence == "\x1b7":
            saved = row, column
        elif sequence == "\x1b8":
            row, column = saved
        elif sequence.endswith("A"):
            row -= int(sequence[2:-1] or 1)
        elif sequence.endswith("K"):
            lines[row] = []
        elif character == "\r":
            column = 0
        elif character == "\n":
            row, column = row + 1, 0
            lines.extend([[]] * (row + 1 - len(lines)))
        elif character:
            line = lines[row] = [*lines[row], *" " * (column + 1 - len(lines[row]))]
            line[column] = character
            column += 1
    return ["".join(line).rstrip() for line in lines]


def test_half_cells_above_the_bar_where_a_terminal_has_no_graphics():
    shown = in_terminal(XTERM, stdin="photo")
    assert shown.stdout == "boat.mp4 photo\n"  # stdin and stdout were left alone
    pictures = [number for number, line in enumerate(shown.lines) if line.startswith("▀")]
    assert len(pictures) == 10  # each of the three took the place of the one before
    assert shown.raw.count("▀".encode()) == 3 * shown.raw.decode().split("\x1b[11A")[-1].count("▀")
    assert "bar ends" in shown.lines[pictures[-1] + 2]
    assert not any("boat.jpg" in line for line in shown.lines)  # the bar went away, all of it
    assert b"\x1b[38;2;250;120;10;48;2;250;120;10m" in shown.raw.replace(b"m\x1b[48", b";48")
    bars = [match.start() for match in re.finditer(rb"boat\.jpg: steps", shown.raw)]
    assert bars[-1] > shown.raw.rindex("▀".encode())  # after the last picture it was there again
    assert re.search(rb"3/3", shown.raw[bars[-1] :])


@pytest.mark.parametrize(("answers", "sign"), [(XTERM, "▀"), (FOOT, "\x1bP"), (GHOSTTY, "\x1b_Gi=")])
def test_stdout_may_be_the_terminal_too(answers, sign):
    shown = in_terminal(answers, stdin="photo", stdout=False)
    assert shown.raw.decode().count(sign) >= 3
    assert shown.raw.count(KIND) == 1
    assert shown.lines[-2:] == ["boat.mp4 photo", ""]


def test_a_silent_terminal_is_not_waited_for_long():
    shown = in_terminal(SILENT)
    assert shown.stdout == "boat.mp4 \n"
    assert sum(line.startswith("▀") for line in shown.lines) == 10
    assert shown.raw.count(KIND) == 1


def test_what_was_said_since_the_last_picture_stays():
    script = SCRIPT.format(controlling=True, patience=20).replace(
        "if show: show(frames)", "show(frames); done == 2 and console.notice('said')"
    )
    shown = in_terminal(XTERM, script=script)
    kinds = ["picture" if line.startswith("▀") else line for line in shown.lines if line.strip()]
    assert kinds == [*["picture"] * 10, "said", *["picture"] * 10, "bar ends"]


def test_sixels_where_the_terminal_has_them():
    shown = in_terminal(FOOT)
    pictures = re.findall(rb'\x1bP[\d;]*q"1;1;(\d+);(\d+)(.*?)\x1b\\', shown.raw, re.DOTALL)
    assert len(pictures) == 3
    columns, rows = int(pictures[0][0]) / 8, int(pictures[0][1]) / 16  # cells of 8 by 16, as the terminal said
    assert columns <= 90
    assert rows <= 12
    assert columns / rows == pytest.approx(2 * 4.19, rel=0.1)
    assert b"2;98;47;4" in pictures[0][2]  # its colour, in percent
    assert "▀" not in shown.raw.decode()
    assert shown.stdout == "boat.mp4 \n"
    assert not any("boat.jpg" in line for line in shown.lines)


@pytest.mark.parametrize("cell", [(0, 0), (9 * 90, 18 * 40)])
def test_kitty_pictures_where_the_terminal_has_them(cell):
    shown = in_terminal(GHOSTTY, pixels=cell)
    sent = re.findall(rb"\x1b_G([^;\x1b]*);([^\x1b]*)\x1b\\", shown.raw.replace(KITTY, b""))
    pictures, payload = [], b""
    for keys, chunk in sent:
        payload += chunk
        if b"m=0" in keys:
            pictures.append(Image.open(io.BytesIO(base64.b64decode(payload))))
            payload = b""
    assert len(pictures) == 3
    assert pictures[0].getpixel((20, 20)) == (250, 120, 10)
    assert pictures[0].width % 9 == 0
    assert pictures[0].height % 18 == 0
    assert shown.stdout == "boat.mp4 \n"  # the pictures went to the terminal, not to stdout
    assert not any("boat.jpg" in line for line in shown.lines)


def test_sixels_win_over_kitty():
    """Some terminals take kitty's pictures, but not the placeholders that make them stand in text."""
    assert in_terminal(WEZTERM).raw.count(b"\x1bP") == 3


@pytest.mark.parametrize(("rows", "height"), [(10, 6), (3, 1)])
def test_pictures_leave_room_for_the_bar_in_low_terminals(rows, height):
    assert sum(line.startswith("▀") for line in in_terminal(XTERM, rows=rows).lines) == height


def test_tmux_is_not_asked_for_kitty():
    """It would take the question for a title."""
    shown = in_terminal(XTERM, env={"TMUX": "/tmp/tmux-0/default,1,0", "TERM": "tmux-256color"})
    assert b"\x1b_" not in shown.raw
    assert sum(line.startswith("▀") for line in shown.lines) == 10


def test_a_job_in_the_background_is_not_stopped():
    """Only the job in the foreground may ask: others would be stopped until they are called to it."""
    job = SCRIPT.format(controlling=False, patience=20)
    starter = (
        "import fcntl, subprocess, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); "
        f"sys.exit(subprocess.run([sys.executable, '-c', {job!r}], process_group=0, timeout=50).returncode)"
    )
    shown = in_terminal(FOOT, script=starter)
    assert KIND not in shown.raw
    assert sum(line.startswith("▀") for line in shown.lines) == 10


def test_a_terminal_that_is_not_ours_is_not_asked():
    shown = in_terminal(FOOT, script=SCRIPT.format(controlling=False, patience=20))
    assert KIND not in shown.raw
    assert sum(line.startswith("▀") for line in shown.lines) == 10


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_without_colours_there_is_a_notice_only(env):
    shown = in_terminal(FOOT, env=env)
    assert "Previews need a terminal that shows colours; the clip is made without." in shown.lines
    assert KIND not in shown.raw
    assert "▀" not in shown.raw.decode()
    assert shown.stdout == "boat.mp4 \n"


def test_where_stderr_is_no_terminal_there_is_one_notice(capsys):
    assert make_preview(Console(quiet=False)) is None
    assert capsys.readouterr() == ("", "Previews need a terminal that shows colours; the clip is made without.\n")
    assert make_preview(Console(quiet=True)) is None
    assert capsys.readouterr() == ("", "")


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "textual_image", None)
    with pytest.raises(RequestError, match=re.escape("--preview needs: pip install 'consisti2v-cli[preview]'")):
        make_preview(Console(quiet=False))


@pytest.fixture
def seen(monkeypatch):
    """Which of a clip's steps are shown, a step of so many seconds after the other: `seen(steps, seconds)`."""
    for name in ("TEXTUAL_CELL_WIDTH", "TEXTUAL_CELL_HEIGHT"):
        monkeypatch.setenv(name, "1")  # put back afterwards: a preview sets them

    def count(steps, seconds):
        shown, clock = [], [100.0]
        monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
        preview = Preview(Terminal())
        monkeypatch.setattr(preview, "show", lambda frames, console: shown.append(len(frames)))
        show = preview.of_clip(module.RichConsole(file=io.StringIO()), steps)
        for step in range(1, steps + 1):
            clock[0] += seconds
            show(np.zeros((step, 2, 2, 3), dtype=np.uint8))
        return shown

    return count


@pytest.mark.parametrize("steps", [1, 4, 8, 9, 25, 50, 500])
def test_a_clip_has_a_few_previews_and_always_the_last(seen, steps):
    shown = seen(steps, 3.0)
    assert shown[-1] == steps
    assert min(steps, MOST) / 2 <= len(shown) <= MOST
    assert len({later - one for one, later in pairwise(shown)}) <= 1  # evenly


def test_previews_of_quick_steps_are_half_a_second_apart(seen):
    assert seen(16, 0.125) == [2, 6, 10, 14, 16]
    assert seen(4, 0.001) == [1, 4]
