"""What a person sees while it runs: progress and notices on stderr, results alone on stdout."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

import click
from rich.console import Console as RichConsole
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from consisti2v_cli.commands import writing_out

Report = Callable[[str, int, int], None]  # stage, how much of it is done, how much there is

# Columns beside words and bar: for numbers, and for the ^C that a terminal writes, which must not wrap.
NUMBERS, BYTES = 20, 30
PLAIN_INTERVAL = 5.0  # seconds between two lines of one stage where stderr is no terminal


class Console:
    """Says things at the level of verbosity that was asked for."""

    def __init__(self, *, quiet: bool, verbosity: int = 0) -> None:
        self.quiet = quiet
        self.verbosity = verbosity
        self.rich = RichConsole(stderr=True)  # of the bars
        self.said = 0  # how often something was written to the terminal that stays there
        self._bars: Progress | None = None  # those on the screen
        if verbosity < 2:
            _hush_libraries()

    def result(self, text: str) -> None:
        """One line on stdout. What its encoding lacks, such as a file's name, is written as the system has it."""
        with self._bars_away(sys.stdout), writing_out():
            try:
                click.echo(text)
            except UnicodeEncodeError:
                sys.stdout.flush()
                sys.stdout.buffer.write(os.fsencode(text) + b"\n")
                sys.stdout.flush()

    def notice(self, text: str) -> None:
        """What a person should know, unless -q."""
        if not self.quiet:
            self._say(text)

    def detail(self, text: str) -> None:
        """What a curious person may know: with -v."""
        if self.verbosity:
            self.notice(text)

    def error(self, text: str) -> None:
        """What went wrong with one of several inputs, even with -q."""
        self._say(f"Error: {text}")

    @contextmanager
    def overall(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """Show one bar for a whole run, above those of `progress`; the function counts one more as done.

        Where stderr is no terminal, the labels of `progress` say how far the run is.
        """
        if self.quiet or not in_terminal():
            yield _nothing
            return
        with self._showing() as bars:
            task = bars.add_task(label, total=total)
            yield lambda: bars.advance(task)

    @contextmanager
    def progress(self, label: str, *, of_bytes: bool = False) -> Iterator[Report]:
        """Show the progress of one thing: a bar that goes away, or lines where stderr is no terminal.

        Args:
            label: what it is.
            of_bytes: the numbers are bytes, and are shown as sizes.
        """
        if self.quiet:
            yield _nothing
        elif not in_terminal():
            yield PlainLines(label, self.notice, of_bytes=of_bytes)
        else:
            with self._showing(of_bytes=of_bytes) as bars:
                bar = Bar(label, bars)
                try:
                    yield bar
                finally:
                    bar.remove()

    @contextmanager
    def _showing(self, *, of_bytes: bool = False) -> Iterator[Progress]:
        """The bars on the screen, with those that are there already."""
        if self._bars is not None:
            yield self._bars
            return
        bar = max(10, min(40, self.rich.width // 4))
        rest = self.rich.width - bar - (BYTES if of_bytes else NUMBERS)
        words = Column(no_wrap=True, overflow="ellipsis", max_width=max(10, rest))
        columns = (
            TextColumn("{task.description}", markup=False, table_column=words),
            BarColumn(bar_width=bar),
            DownloadColumn() if of_bytes else MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.rich, transient=True, redirect_stdout=False) as bars:
            self._bars = bars
            try:
                yield bars
            finally:
                self._bars = None

    def _say(self, text: str) -> None:
        with self._bars_away(sys.stderr):
            click.echo(text, err=True)

    @contextmanager
    def _bars_away(self, stream: TextIO | None) -> Iterator[None]:
        """Take the bars off the screen while a line is written to it."""
        in_sight = stream is not None and stream.isatty()
        self.said += in_sight
        if self._bars is None or not in_sight:
            yield
            return
        self._bars.stop()
        try:
            yield
        finally:
            self._bars.start()


def _hush_libraries() -> None:
    """Keep warnings that libraries mean for programmers away from people: set before the libraries are imported."""
    warnings.simplefilter("ignore")
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")


def counted(number: int, what: str) -> str:
    """`1 clip`, `2 clips`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def in_terminal() -> bool:
    """Whether stderr is there, and a terminal that can move its cursor."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _nothing(*_: object) -> None:
    pass


class Bar:
    """One bar that begins anew with every stage."""

    def __init__(self, label: str, bars: Progress) -> None:
        self.label = label
        self.bars = bars
        self.stage = ""
        self.task = bars.add_task(label, total=None)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is."""
        if stage != self.stage:
            self.stage = stage
            self.remove()
            self.task = self.bars.add_task(f"{self.label}: {stage}", total=total)
        self.bars.update(self.task, completed=done)

    def remove(self) -> None:
        """Take it off the screen."""
        self.bars.remove_task(self.task)


class PlainLines:
    """A line at the beginning of every stage, every few seconds of it, and at its end, with the time left."""

    def __init__(self, label: str, say: Callable[[str], None], *, of_bytes: bool = False) -> None:
        self.label = label
        self.say = say
        self.of_bytes = of_bytes
        self.stage = ""
        self.begun = self.said = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say how far a stage is, where that is worth a line."""
        now = time.monotonic()
        begins = stage != self.stage
        if begins:
            self.stage, self.begun = stage, now
        if not begins and done < total and now - self.said < PLAIN_INTERVAL:
            return
        self.said = now
        elapsed = now - self.begun
        left = f", {elapsed / done * (total - done):.0f} s left" if elapsed and 0 < done < total else ""
        count = f"{done / 1e6:.0f}/{total / 1e6:.0f} MB" if self.of_bytes else f"{done}/{total}"
        self.say(f"{self.label}: {stage} {count}{left}")


@contextmanager
def interrupts_held() -> Iterator[Callable[[], None]]:
    """Hold back the first Ctrl-C until the given function is called, between two steps, or the block ends without an
    error; the second acts at once. Where the program was started to ignore Ctrl-C, as a shell's background jobs are, it
    goes on being ignored.
    """
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        yield _nothing
        return
    wanted = False

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal wanted
        wanted = True
        signal.signal(signal.SIGINT, before)

    def release() -> None:
        if wanted:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, hold)
    try:
        yield release
    finally:
        signal.signal(signal.SIGINT, before)
    release()
