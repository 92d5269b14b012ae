"""Measure `consisti2v evaluate`: how long the quick measures take, and how much memory, of few clips and of many.

    python tests/benchmarks/judging.py [--clips 20 200] [--frames 16] [--size 256] [--metrics quick]

Clips are pans over held-out photos, written as MP4. A row has the number of clips, the seconds that the command took
in a process of its own, the seconds a clip, the most memory that it held (its own, VmHWM), and the seconds of a second
run, which finds everything remembered. Run by hand, on an idle machine: other work is in the figures.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np

from consisti2v_cli.layout import camera_frames
from consisti2v_cli.media.image import read_image
from consisti2v_cli.media.video import write_video
from consisti2v_cli.recipe import Recipe

PHOTOS = Path(__file__).parents[1] / "fixtures" / "heldout"
DIRECTIONS = ("left", "right", "up", "down")
PROGRAM = """
import sys
from consisti2v_cli.commands import main
try:
    main(sys.argv[1:])
finally:
    print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


def main() -> None:
    """Print a row for each number of clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[20, 200])
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--metrics", default="quick")
    options = parser.parse_args()
    print(f"{date.today()}, {platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{options.frames} frames of {options.size}x{options.size}, {options.metrics}")
    print(f"{'clips':>6} {'seconds':>8} {'a clip':>7} {'MiB':>6} {'again':>6}")
    for count in options.clips:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_clips(folder / "clips", count, options.frames, options.size)
            seconds, memory = judged(folder, options.metrics)
            again, _ = judged(folder, options.metrics)
        print(f"{count:>6} {seconds:8.1f} {seconds / count:7.2f} {memory / 1024:6.0f} {again:6.1f}", flush=True)


def write_clips(folder: Path, count: int, frames: int, size: int) -> None:
    """Pans over photos; no two are alike."""
    folder.mkdir()
    photos = [read_image(path) for path in sorted(PHOTOS.iterdir())]
    amounts = np.linspace(0.1, 0.5, count)
    for number, amount in enumerate(amounts):
        recipe = Recipe(
            prompt="",
            seed=number,
            command="pan",
            direction=DIRECTIONS[number % len(DIRECTIONS)],
            amount=float(amount),
            width=size,
            height=size,
            frames=frames,
        )
        write_video(folder / f"{number:04}.mp4", camera_frames(recipe, photos[number % len(photos)]), 8)


def judged(folder: Path, metrics: str) -> tuple[float, int]:
    """Seconds, and KiB."""
    command = [sys.executable, "-c", PROGRAM, "evaluate", "clips", "--metrics", metrics, "-q"]
    environment = os.environ | {"CONSISTI2V_CACHE": str(folder / "cache")}
    begun = time.perf_counter()
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return time.perf_counter() - begun, int(ran.stderr.split()[-1])


if __name__ == "__main__":
    main()
