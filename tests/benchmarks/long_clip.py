"""Measure long clips: does memory grow with their length, and how far do they drift?

    python tests/benchmarks/long_clip.py memory [--chunks 4 64] [--size 96x64] [--steps 2]
    python tests/benchmarks/long_clip.py drift [--anchors 0 0.5] [--chunks 8] [--sheet sheet.png]

memory: `consisti2v extend` is run with few and with many chunks; the most memory that it and each ffmpeg that it starts
ever held (VmHWM, which Linux counts for every process; what getrusage tells of a child includes what its parent held
when it was started). The last line is the ratio of the sums.

drift: one film for each anchor, at the model's own settings: the line that `extend` ends with; how far the mean colour
steps from one frame to the next, where a chunk begins and elsewhere (seams would show there); and a sheet of every
tenth frame, a row for each anchor.

Run by hand; on two CPU cores memory takes some minutes, and drift a quarter of an hour.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

BOAT = Path(__file__).parents[1] / "fixtures" / "boat.jpg"
PROMPT = "the boat drifts left"
SEED = 7
EVERY = 10  # frames from one picture of the sheet to the next
POLL = 0.02  # seconds


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    memory = commands.add_parser("memory")
    memory.add_argument("--chunks", type=int, nargs=2, default=[4, 64])
    memory.add_argument("--size", default="96x64")
    memory.add_argument("--steps", default="2")
    memory.add_argument("--format", default="mp4")
    memory.set_defaults(run=measure_memory)
    drift = commands.add_parser("drift")
    drift.add_argument("--anchors", type=float, nargs="+", default=[0.0, 0.5])
    drift.add_argument("--chunks", type=int, default=8)
    drift.add_argument("--sheet", type=Path)
    drift.set_defaults(run=measure_drift)
    arguments = parser.parse_args()
    arguments.run(arguments)


def measure_memory(arguments: argparse.Namespace) -> None:
    """Print the most memory of films of few and of many chunks, and the ratio."""
    sums = []
    print(f"{'chunks':>6}  {'consisti2v':>10}  {'ffmpeg':>10}  {'sum':>10}  {'seconds':>7}   (MiB)")
    for chunks in arguments.chunks:
        begun = time.monotonic()
        most = peaks_of_run(chunks, arguments)
        own, ffmpeg = most.pop("python") / 1024, max(most.values(), default=0) / 1024
        sums.append(own + ffmpeg)
        seconds = time.monotonic() - begun
        print(f"{chunks:6}  {own:10.1f}  {ffmpeg:10.1f}  {sums[-1]:10.1f}  {seconds:7.0f}", flush=True)
    print(f"ratio {sums[1] / sums[0]:.3f}")


def peaks_of_run(chunks: int, arguments: argparse.Namespace) -> dict[str, int]:
    """KiB by program, of a run of `extend` and of the programs that it starts."""
    with tempfile.TemporaryDirectory() as folder:
        small = ["--size", arguments.size, "--steps", arguments.steps, "--model", "sketch", "--seed", str(SEED)]
        command = [
            "extend",
            str(BOAT),
            PROMPT,
            "--chunks",
            str(chunks),
            *small,
            "-o",
            f"{folder}/film.{arguments.format}",
        ]
        environment = {**os.environ, "CONSISTI2V_STATE": f"{folder}/state", "CONSISTI2V_CACHE": f"{folder}/cache"}
        process = subprocess.Popen(
            [sys.executable, "-m", "consisti2v_cli", *command, "-q"], env=environment, stdout=subprocess.DEVNULL
        )
        most: dict[str, int] = defaultdict(int)
        while process.poll() is None:
            most["python"] = max(most["python"], high_water(process.pid))
            for child in children(process.pid):
                most[f"child {child}"] = max(most[f"child {child}"], high_water(child))
            time.sleep(POLL)
        if process.returncode:
            raise SystemExit(f"extend failed: {process.returncode}")
        return most


def high_water(pid: int) -> int:
    """The most memory that a process held since it began its program, in KiB; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def children(pid: int) -> list[int]:
    """The processes that a process started, once they run a program of their own."""
    try:
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [child for child in found if "ffmpeg" in os.path.basename(os.readlink(f"/proc/{child}/exe"))]
    except OSError:
        return []


def measure_drift(arguments: argparse.Namespace) -> None:
    """Print the drift of a film for each anchor, and lay out every tenth frame of it."""
    from consisti2v_cli.chunks import render_film
    from consisti2v_cli.recipe import Recipe
    from consisti2v_cli.resolve import model_defaults
    from consisti2v_cli.weights import require
    from consisti2v_cli.weights.load import load_model

    folder = require("sketch")
    model, rows = load_model(folder), []
    for anchor in arguments.anchors:
        asked = {"command": "extend", "prompt": PROMPT, "seed": SEED, "model": "sketch", "anchor": anchor}
        recipe = Recipe(**{**model_defaults(folder, "extend"), **asked, "chunks": arguments.chunks})
        film = render_film(recipe, BOAT, model=model)
        frames = np.stack(list(film.frames))
        print(f"anchor {anchor:g}: {film.drift}; {seams(frames, recipe.frames - 1)}", flush=True)
        rows.append(np.concatenate(frames[::EVERY], axis=1))
    if arguments.sheet:
        Image.fromarray(np.concatenate(rows, axis=0)).save(arguments.sheet)


def seams(frames: np.ndarray, stride: int) -> str:
    """How far the mean colour steps from frame to frame: at the beginning of later chunks, and elsewhere."""
    steps = np.abs(np.diff(frames.mean((1, 2)), axis=0)).max(1).reshape(-1, stride)
    begin, rest = steps[1:, 0].mean(), steps[:, 1:].mean()
    return f"steps of the mean colour: {begin:.1f} where a chunk begins, {rest:.1f} elsewhere"


if __name__ == "__main__":
    main()
