"""Measure how long one waits before anything happens: until the help is there, and until the first step is done.

    python tests/benchmarks/start.py [--model sketch] [--runs 5]

Each command is run several times in a process of its own, after one that is not counted; a row has the median and the
range of the seconds from the command on. On an idle machine: other work is in the figures. `torch alone` is what Python
and torch take to be there, which no command can do without.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

BOAT = Path(__file__).parents[1] / "fixtures" / "boat.jpg"
PROGRAM = [sys.executable, "-m", "consisti2v_cli"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sketch")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    clip = ["animate", str(BOAT), "it gets darker", "--model", options.model, "--steps", "1"]
    print(f"{date.today()}, {platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    rows: dict[str, Callable[[], float]] = {
        "consisti2v --help": lambda: ends([*PROGRAM, "--help"]),
        "torch alone": lambda: ends([sys.executable, "-c", "import torch"]),
        "animate: until the first step begins": lambda: says([*PROGRAM, *clip], "steps 0/1"),
        "animate: until the first step is done": lambda: says([*PROGRAM, *clip], "steps 1/1"),
    }
    print(f"{'':40} {'median':>7}  range (seconds)")
    for name, measure in rows.items():
        measure()
        found = [measure() for _ in range(options.runs)]
        print(f"{name:40} {statistics.median(found):7.2f}  {min(found):.2f}..{max(found):.2f}", flush=True)


def ends(command: list[str]) -> float:
    """Seconds until a command has ended."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def says(command: list[str], words: str) -> float:
    """Seconds until a command says something on stderr; then it is ended."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        with process:
            for line in process.stderr or ():
                if words in line:
                    seconds = time.perf_counter() - begun
                    process.kill()
                    return seconds
    raise RuntimeError(f"{' '.join(command)} never says {words!r}")


if __name__ == "__main__":
    main()
