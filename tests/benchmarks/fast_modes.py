"""What faster ways of sampling save, and what they cost: one table.

    python tests/benchmarks/fast_modes.py [--model sketch] [--clips 1] [--classes left right ...] [--sheet sheet.png]

Photos, prompts, seeds and what is measured of a clip are those of ``small_model.py``; all settings are the model's own,
but for 50 steps of DDIM, the paper's, as the baseline. Each clip is made in all ways one after the other, so that other
work on the machine slows all of them alike. A row a way:

- times as fast: the baseline's seconds of the same clip over this way's; the median of all clips. Sampling alone
  counts: text, autoencoder and files are left out.
- PSNR: of the frames behind the first one against the baseline's, which begin from the same noise; the mean of all
  clips. `another seed` says how far two clips are apart that are equally good.
- followed: clips that do what the prompt says, in per cent; drift: mean colour drift of pans, of 255.

Run by hand: ``clips`` x classes x about eight times the seconds of a clip of 50 steps.
"""

from __future__ import annotations

import argparse
import io
import platform
import time
from collections import defaultdict
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import small_model
import torch
from PIL import Image

from consisti2v_cli.recipe import FAST, Recipe
from consisti2v_cli.render import STEPS, animate, choose_device, choose_dtype
from consisti2v_cli.weights import choose, require
from consisti2v_cli.weights.load import Model, load_model

BASELINE: dict[str, Any] = {"sampler": "ddim", "steps": 50}
WAYS: dict[str, dict[str, Any]] = {
    "another seed": {},
    "ddim, 25 steps": {"steps": 25},
    "dpm++, 20 steps": {"sampler": "dpm++", "steps": 20},
    "dpm++, 12 steps": {"sampler": "dpm++", "steps": 12},
    "unipc, 20 steps": {"sampler": "unipc", "steps": 20},
    "unipc, 12 steps": {"sampler": "unipc", "steps": 12},
    "reuse 2": {"reuse": 2},
    "reuse 3": {"reuse": 3},
    "guidance 0.1..0.7": {"guidance_begin": 0.1, "guidance_end": 0.7},
    "guidance 0..0.6": {"guidance_end": 0.6},
    "dpm++, 20 steps, guidance 0..0.6": {"sampler": "dpm++", "steps": 20, "guidance_end": 0.6},
    "dpm++, 20 steps, reuse 2, guidance 0..0.6": {"sampler": "dpm++", "steps": 20, "reuse": 2, "guidance_end": 0.6},
    "unipc, 20 steps, reuse 2": {"sampler": "unipc", "steps": 20, "reuse": 2},
    "--fast": FAST,
}


class Stopwatch:
    """Seconds from the first step to the last."""

    def __init__(self) -> None:
        self.begun = self.seconds = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage == STEPS and done == 0:
            self.begun = time.perf_counter()
        if stage == STEPS and done == total:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="name, repository or folder; as for consisti2v animate")
    parser.add_argument("--clips", type=int, default=1, help="clips a class (1)")
    parser.add_argument("--classes", nargs="+", default=list(small_model.DEFAULT_CLASSES), metavar="CLASS")
    parser.add_argument("--steps", type=int, default=BASELINE["steps"], help="of the baseline (50)")
    parser.add_argument("--ways", nargs="+", help="only those whose names contain one of these words")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sheet", type=Path, help="write the first clip of all ways (PNG) here")
    options = parser.parse_args()
    device = choose_device(options.device)
    model = load_model(require(options.model or choose()), device=device, dtype=choose_dtype("auto", device))
    wanted = [name for name in WAYS if not options.ways or any(word in name for word in options.ways)]
    figures, rows = defaultdict(list), {}
    for task in small_model.tasks(options.classes, options.clips):
        made = compare(task, model, BASELINE | {"steps": options.steps}, wanted)
        rows = rows or {name: frames for name, (frames, _) in made.items()}
        for name, (_, found) in made.items():
            figures[name].append(found)
        print(f"{task.motion}, {task.photo.stem}: {made['baseline'][1]['seconds']:.1f} s", flush=True)
    print(
        f"\n{date.today()}, {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {device},"
    )
    print(f"torch {torch.__version__}, {model.folder.name} in {model.dtype}, {len(figures['baseline'])} clips\n")
    print("\n".join(table(figures)))
    if options.sheet:
        small_model.rows_of(list(rows.values())).save(options.sheet)


def compare(
    task: small_model.Task, model: Model, baseline: Mapping[str, Any], wanted: list[str]
) -> dict[str, tuple[np.ndarray, dict[str, float]]]:
    """Frames and figures of one clip made in all ways, the baseline first."""
    made: dict[str, tuple[np.ndarray, dict[str, float]]] = {}
    for name in ("baseline", *wanted):
        settings = {**baseline, **WAYS.get(name, {})}
        frames, seconds = film(task, model, settings, task.seed + 10_000 * (name == "another seed"))
        photo = small_model.first_picture(task, model.settings.native_size)
        found = small_model.measure(task.motion, frames, photo) | {"seconds": seconds}
        if name != "baseline":
            plain, plain_found = made["baseline"]
            found |= {"ratio": plain_found["seconds"] / seconds, "psnr": small_model.psnr(frames[1:], plain[1:])}
        made[name] = (frames, found)
    return made


def film(task: small_model.Task, model: Model, settings: dict[str, Any], seed: int) -> tuple[np.ndarray, float]:
    """The frames of a task's clip, and the seconds of its sampling."""
    file, watch, size = io.BytesIO(), Stopwatch(), model.settings.native_size
    Image.fromarray(small_model.first_picture(task, size)).save(file, "png")
    clip = animate(
        file.getvalue(), task.prompt, seed=seed, model=model, width=size, height=size, on_event=watch, **settings
    )
    return clip.frames, watch.seconds


def table(figures: Mapping[str, list[dict[str, float]]]) -> list[str]:
    """The figures as a table in Markdown."""

    def mean(name: str, figure: str, form: str, scale: float = 1) -> str:
        values = [found[figure] for found in figures[name] if figure in found]
        return format(scale * float(np.mean(values)), form) if values else ""

    lines = ["| way | times as fast | PSNR, dB | followed, % | drift, of 255 |", "|---|---|---|---|---|"]
    for name in figures:
        label = name if name != "baseline" else "the paper's: ddim, 50 steps"
        ratios = [found["ratio"] for found in figures[name] if "ratio" in found]
        ratio = f"{np.median(ratios):.2f}" if ratios else "1"
        values = [mean(name, "psnr", ".1f"), mean(name, "followed", ".0f", 100), mean(name, "drift", ".1f")]
        lines.append(f"| {label} | {ratio} | {' | '.join(values)} |")
    return lines


if __name__ == "__main__":
    assert set(FAST) <= set(Recipe.__dataclass_fields__)
    main()
