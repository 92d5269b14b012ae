"""What a person sees while it runs: progress and notices on stderr, results alone on stdout."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import click
from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Report = Callable[[str, int, int], None]  # stage, how much of it is done, how much there is

PLAIN_INTERVAL = 5.0  # seconds between two lines of one stage where stderr is no terminal


class Console:
    """Says things at the level of verbosity that was asked for."""

    def __init__(self, *, quiet: bool, verbosity: int = 0) -> None:
        self.quiet = quiet
        self.verbosity = verbosity

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
    def progress(self, label: str) -> Iterator[Report]:
        """Show the progress of one thing: a bar that goes away, or lines where stderr is no terminal."""
        if self.quiet:
            yield _say_nothing
        elif not sys.stderr.isatty():
            yield PlainLines(label, self.notice)
        else:
            with Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=RichConsole(stderr=True),
                transient=True,
            ) as bars:
                yield Bar(label, bars)


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

    def __init__(self, label: str, say: Callable[[str], None]) -> None:
        self.label = label
        self.say = say
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
        left = f", {_seconds_left(now - self.begun, done, total):.0f} s left" if 0 < done < total else ""
        count = f" {done}/{total}{left}" if total > 1 else ""
        if begins or count:
            self.say(f"{self.label}: {stage}{count}")


def _seconds_left(elapsed: float, done: int, total: int) -> float:
    return elapsed / done * (total - done)


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
