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

import click
from rich.console import Console as RichConsole
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Report = Callable[[str, int, int], None]  # stage, how much of it is done, how much there is

PLAIN_INTERVAL = 5.0  # seconds between two lines of one stage where stderr is no terminal


class Console:
    """Says things at the level of verbosity that was asked for."""

    def __init__(self, *, quiet: bool, verbosity: int = 0) -> None:
        self.quiet = quiet
        self.verbosity = verbosity
        if verbosity < 2:
            _hush_libraries()

    def result(self, text: str) -> None:
        """One line on stdout."""
        click.echo(text)

    def notice(self, text: str) -> None:
        """What a person should know, unless -q."""
        if not self.quiet:
            click.echo(text, err=True)

    def detail(self, text: str) -> None:
        """What a curious person may know: with -v."""
        if self.verbosity:
            self.notice(text)

    def error(self, text: str) -> None:
        """What went wrong with one of several inputs, even with -q."""
        click.echo(f"Error: {text}", err=True)

    @contextmanager
    def progress(self, label: str, *, of_bytes: bool = False) -> Iterator[Report]:
        """Show the progress of one thing: a bar that goes away, or lines where stderr is no terminal.

        Args:
            label: what it is.
            of_bytes: the numbers are bytes, and are shown as sizes.
        """
        if self.quiet:
            yield _say_nothing
        elif not sys.stderr.isatty():
            yield PlainLines(label, self.notice, of_bytes=of_bytes)
        else:
            with Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn() if of_bytes else MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=RichConsole(stderr=True),
                transient=True,
            ) as bars:
                yield Bar(label, bars)


def _hush_libraries() -> None:
    """Keep warnings that libraries mean for programmers away from people: set before the libraries are imported."""
    warnings.simplefilter("ignore")
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")


def _say_nothing(stage: str, done: int, total: int) -> None:
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
            self.bars.remove_task(self.task)
            self.task = self.bars.add_task(f"{self.label}: {stage}", total=total)
        self.bars.update(self.task, completed=done)


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
    """Hold back the first Ctrl-C until the given function is called, between two steps; the second acts at once."""
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
