"""Progress in plain lines, and interrupts that wait for the running step."""

import io
import os
import re
import signal
import sys
import warnings

import pytest

from consisti2v_cli.commands import console
from consisti2v_cli.commands.console import Console, PlainLines, interrupts_held


@pytest.fixture(autouse=True)
def _own_warnings():
    """A console silences warnings: not for the tests that follow."""
    with warnings.catch_warnings():
        yield


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when they are set."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_at_the_beginning_now_and_then_and_at_the_end(clock):
    lines = []
    report = PlainLines("boat.jpg", lines.append)
    for done in range(11):
        clock[0] = 2.0 * done
        report("steps", done, 10)
    report("decoding", 0, 4)
    assert lines == [
        "boat.jpg: steps 0/10",
        "boat.jpg: steps 3/10, 14 s left",
        "boat.jpg: steps 6/10, 8 s left",
        "boat.jpg: steps 9/10, 2 s left",
        "boat.jpg: steps 10/10",
        "boat.jpg: decoding 0/4",
    ]


def test_bytes_are_shown_as_sizes(clock):
    lines = []
    PlainLines("model", lines.append, of_bytes=True)("downloading", 25_000_000, 100_000_000)
    assert lines == ["model: downloading 25/100 MB"]


def test_quiet_says_nothing(capsys):
    quiet = Console(quiet=True, verbosity=1)
    quiet.notice("notice")
    quiet.detail("detail")
    with quiet.progress("boat.jpg") as report:
        report("steps", 1, 2)
    quiet.error("wrong")
    assert capsys.readouterr() == ("", "Error: wrong\n")


def test_details_need_v(capsys):
    Console(quiet=False).detail("detail")
    assert capsys.readouterr().err == ""
    Console(quiet=False, verbosity=1).detail("detail")
    assert capsys.readouterr().err == "detail\n"


def interrupt(times):
    """Interrupt a step so many times; returns how far it came."""
    reached = []
    try:
        with interrupts_held() as release:
            release()
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
                reached.append("went on")
            reached.append("step ended")
            release()
            reached.append("next step")
    except KeyboardInterrupt:
        reached.append("interrupted")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return reached


def test_the_first_interrupt_waits_for_the_end_of_the_step():
    assert interrupt(0) == ["step ended", "next step"]
    assert interrupt(1) == ["went on", "step ended", "interrupted"]


def test_the_second_interrupt_acts_at_once():
    assert interrupt(2) == ["went on", "interrupted"]


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def begin(monkeypatch):
    """Make stderr a terminal, from now on; what is written to it."""

    def begin():
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return begin


def test_one_bar_for_the_run_and_one_for_the_clip(capsys, begin):
    """Results go to stdout, in one piece, and names are no markup."""
    terminal = begin()
    console = Console(quiet=False)
    with console.overall("all clips", 2) as advance:
        for number, name in enumerate(("[/red] a.png", "写真" * 60), start=1):
            with console.progress(f"[{number}/2] {name}") as report:
                report("steps", 1, 4)
                report("decoding", 2, 4)
            console.result(f"out/{name}.mp4")
            console.notice("a notice\nof two lines")
            advance()
    assert capsys.readouterr().out == "".join(f"out/{name}.mp4\n" for name in ("[/red] a.png", "写真" * 60))
    drawn = terminal.getvalue()
    for part in ("all clips", "0/2", "1/2", "[1/2] [/red] a.png: decoding", "[2/2] 写真", "a notice\nof two lines\n"):
        assert part in drawn, part
    assert "mp4" not in drawn


def test_bars_leave_room_for_what_a_terminal_writes_at_an_interrupt(begin):
    """^C behind a full line would begin another one, and the bars would not be taken away whole."""
    terminal = begin()
    with Console(quiet=False).progress("a name " * 30) as report:
        report("steps", 1, 4)
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]", terminal.getvalue())]
    assert 60 < max(map(len, lines)) <= 78


def test_without_a_terminal_there_are_no_bars(capsys):
    console = Console(quiet=False)
    with console.overall("all clips", 2) as advance, console.progress("[1/2] a.png") as report:
        report("steps", 4, 4)
        advance()
    assert capsys.readouterr().err == "[1/2] a.png: steps 4/4\n"


def test_what_the_encoding_lacks_is_written_as_the_system_has_it(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
    for name in ("Größe.mp4", "写真.mp4", os.fsdecode(b"latin-\xe9.mp4")):
        Console(quiet=False).result(name)
    sys.stdout.flush()
    assert written.getvalue() == b"Gr\xf6\xdfe.mp4\n" + "写真.mp4".encode() + b"\nlatin-\xe9.mp4\n"
