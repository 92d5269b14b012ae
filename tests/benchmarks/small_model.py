"""Measure a small model: does the clip look like the photo, and does it move the way the sentence says?

    python tests/benchmarks/small_model.py [--model sketch] [--clips 16] [--json figures.json] [--sheet sheet.png]

Photos (``tests/fixtures/heldout``, seen by no training), prompts, seeds and thresholds are fixed below; all other
settings are the model's own unless an option changes them. Optical flow is OpenCV's DIS, medium preset. Run by hand; it
takes ``clips`` x classes x seconds a clip. ``--truth`` measures synthetic clips of the same classes instead of the
model's: what the figures would be if every prompt were followed.

- autoencoder: PSNR of photo -> latent mean -> photo; first frame: PSNR of the clip's first frame against the photo.
- the prompted way: the flow, averaged over the picture and added up over the clip, points within 45 degrees of it.
  Of moving cutouts only what moves is averaged.
- brighten, darken: the mean of the last frame is 5 % above or below that of the first.
- still: length of the flow added up over the clip, averaged over the picture, in per cent of the width.
- colour drift: the largest change of a channel's mean, of 255, in any frame of a pan, over what is still in view of the
  first frame; the measured flow says which part that is. (Over whole frames even a true pan drifts by 12.)

How to make the model on one large graphics card (an H200 needs about an hour). Where there is a network:

    pip install '.[train,evaluate]' scikit-image
    apt-get install opencv-doc lomiri-wallpapers-16.04        # on Debian
    python tests/benchmarks/collect_photos.py data
    python tests/benchmarks/collect_shots.py data/shots

Then on the machine with the card: torch with CUDA, transformers, numpy, click, rich, and wheels of `accelerate
diffusers huggingface_hub imageio-ffmpeg opencv-python-headless pillow platformdirs safetensors tokenizers`. A command
that is stopped goes on from its last checkpoint when it is given again; `--minutes` stops one by itself:

    export PYTHONPATH=.
    TRAIN="python -m consisti2v_cli train --config sketch-gpu -o small --validation data/heldout"
    $TRAIN autoencoder --data synthetic:data/train
    $TRAIN text
    $TRAIN network --data synthetic:data/train --videos data/shots
    python tests/benchmarks/small_model.py --model small --clips 16 --sheet sheet.png
    python tests/benchmarks/bundle_model.py small

A network that has learned with another autoencoder need not begin anew: see ``move_network.py``.

Whether to go on is seen in the log of the network, in the line of step 6000 that has `heard` and `moved`, measured on
pans at high noise. Go where `heard` is 0.05 or more (with captions swapped the error grows by 5 %) and
`moved` is below 1 (the predicted clip is nearer the true one than the first frame, repeated). Where it is not so, copy
the preset, leave `["pans:2", "lights:2", "still"]` of the motions in its stages, and begin the network again with
--restart: few motions that are followed are worth more than many that are not.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw

from consisti2v_cli.media.image import fit_image, read_image
from consisti2v_cli.render import animate, choose_device, choose_dtype
from consisti2v_cli.training.synthetic import SyntheticClips
from consisti2v_cli.weights import choose, require
from consisti2v_cli.weights.load import Model, load_model

HELD_OUT = Path(__file__).parents[1] / "fixtures" / "heldout"
SEED = 1000  # of the first clip; the others count up
TOWARDS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # x to the right, y down
PROMPTS = {
    "left": ("everything moves left", "the picture drifts to the left", "the scene slides left", "move to the left"),
    "right": (
        "everything moves right",
        "the picture drifts to the right",
        "the scene slides right",
        "move to the right",
    ),
    "up": ("everything moves up", "the picture drifts upwards", "the scene slides up", "move up"),
    "down": ("everything moves down", "the picture drifts downwards", "the scene slides down", "move down"),
    "brighten": ("it gets brighter", "the scene brightens", "the light comes up", "the picture becomes brighter"),
    "darken": ("it gets darker", "the scene darkens", "the light fades", "the picture becomes darker"),
    "still": ("nothing moves", "everything stays still", "a still picture", "no motion"),
    **{f"cutout-{way}": (f"something floats {way} in front of the picture",) for way in TOWARDS},
}
DEFAULT_CLASSES = ("left", "right", "up", "down", "brighten", "darken", "still")
LIGHT_CHANGE = 0.05  # of the mean, that counts as brighter or darker
MOVED = 0.05  # of the width, that counts as moving
SHEET_FRAMES, SHEET_ROWS_A_CLASS = 6, 3
WAY = "goes the prompted way, %"
FAR = f"goes it by {MOVED:.0%} of the width or more, %"
TARGETS = {  # what a model worth showing reaches: the least or the most, by figure
    "autoencoder: PSNR, mean, dB": ("at least", 25.0),
    "autoencoder: PSNR, worst, dB": ("at least", 20.0),
    "first frame: below the autoencoder, dB": ("at most", 0.5),
    f"pans: {FAR}": ("at least", 85.0),
    **{f"{way}: {FAR}": ("at least", 70.0) for way in TOWARDS},
    f"cutouts: {WAY}": ("at least", 75.0),
    **{f"{change}: {WAY}": ("at least", 90.0) for change in ("brighten", "darken")},
    "still: moves, mean, % of the width": ("at most", 1.0),
    "pans: colour drift, mean, of 255": ("at most", 8.0),
    "seconds a clip, median": ("at most", 30.0),
    "weights, MB": ("at most", 30.0),
}


@dataclass(frozen=True)
class Task:
    """One clip to make."""

    motion: str
    photo: Path
    prompt: str
    seed: int


@dataclass(frozen=True)
class Result:
    """One clip made, and what was measured of it."""

    task: Task
    frames: np.ndarray  # f h w 3, uint8
    seconds: float
    figures: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="name, repository or folder; as for consisti2v animate")
    parser.add_argument("--clips", type=int, default=16, help="clips a class (16)")
    parser.add_argument("--classes", nargs="+", choices=list(PROMPTS), default=list(DEFAULT_CLASSES), metavar="CLASS")
    parser.add_argument("--steps", type=int, help="denoising steps")
    parser.add_argument("--guidance", type=float, help="text guidance")
    parser.add_argument("--frames", type=int, help="frames a clip")
    parser.add_argument("--no-frameinit", action="store_true", help="without FrameInit")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--truth", action="store_true", help="measure synthetic clips instead of the model's")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet (PNG) here")
    options = parser.parse_args()
    device = choose_device(options.device)
    folder = require(options.model or choose())
    model = load_model(folder, device=device, dtype=choose_dtype("auto", device))
    given = {name: getattr(options, name) for name in ("steps", "guidance", "frames")}
    settings = {name: value for name, value in given.items() if value is not None}
    if options.no_frameinit:
        settings["frameinit"] = False
    results = []
    for task in tasks(options.classes, options.clips):
        results.append(truth(task, model) if options.truth else make(task, model, settings))
        figures = "  ".join(f"{name} {value:.3f}" for name, value in results[-1].figures.items())
        print(f"{task.motion:14} {task.photo.stem[-24:]:24} {results[-1].seconds:5.1f} s  {figures}", flush=True)
    rebuilt = codec(model)
    report = summarize(results) | weights_and_codec(model, rebuilt)
    shown = [r for r in results if not r.task.motion.startswith("cutout-")]  # of those the first frame is no photo
    below = [rebuilt[r.task.photo.name] - r.figures["first_psnr"] for r in shown]
    if below:
        report["first frame: below the autoencoder, dB"] = float(np.mean(below))
    print_table(report)
    if options.json:
        clips = [{"class": r.task.motion, "photo": r.task.photo.name, **vars_of(r)} for r in results]
        text = json.dumps({"model": folder.name, "settings": settings, "figures": report, "clips": clips}, indent=1)
        options.json.write_text(text + "\n")
    if options.sheet:
        contact_sheet(results).save(options.sheet)


def tasks(classes: Sequence[str], clips: int) -> list[Task]:
    """The clips to make: each class goes through the photos and its wordings in turn."""
    photos = sorted(HELD_OUT.glob("*.jpg"))
    return [
        Task(motion, photos[number % len(photos)], PROMPTS[motion][number % len(PROMPTS[motion])], SEED + number)
        for motion in classes
        for number in range(clips)
    ]


def make(task: Task, model: Model, settings: dict[str, Any]) -> Result:
    """Render a task with the model and measure the clip."""
    size = model.settings.native_size
    photo = first_picture(task, size)
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "png")
    start = time.perf_counter()
    clip = animate(file.getvalue(), task.prompt, seed=task.seed, model=model, width=size, height=size, **settings)
    seconds = time.perf_counter() - start
    return Result(task, clip.frames, seconds, measure(task.motion, clip.frames, photo))


def truth(task: Task, model: Model) -> Result:
    """A synthetic clip of the task's class."""
    settings = model.settings
    start = time.perf_counter()
    frames = synthetic(task, settings.native_size, settings.frames)
    return Result(task, frames, time.perf_counter() - start, measure(task.motion, frames, frames[0]))


def first_picture(task: Task, size: int) -> np.ndarray:
    """The photo that is animated, `size size 3`; for moving cutouts, a photo with a piece of another one on it."""
    if task.motion.startswith("cutout-"):
        return synthetic(task, size, frames=1)[0]
    return fit_image(read_image(task.photo), size, size)


def synthetic(task: Task, size: int, frames: int) -> np.ndarray:
    source = SyntheticClips(HELD_OUT, size=size, motions=[task.motion])
    clip = source.draw(1, frames, torch.Generator().manual_seed(task.seed)).frames[0]
    return clip.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def measure(motion: str, frames: np.ndarray, photo: np.ndarray) -> dict[str, float]:
    """What is measured of one clip of a class; see the head of this file."""
    figures = {"first_psnr": psnr(frames[0], photo)}
    means = frames.mean(axis=(1, 2))  # f 3
    if motion in ("brighten", "darken"):
        change = float(means[-1].mean() / means[0].mean() - 1)
        followed = change > LIGHT_CHANGE if motion == "brighten" else change < -LIGHT_CHANGE
        return figures | {"change": change, "followed": float(followed)}
    flow = flows(frames)  # f-1 h w 2, in widths
    if motion == "still":
        return figures | {"moved": float(np.linalg.norm(flow.sum(axis=0), axis=-1).mean())}
    if motion.startswith("cutout-"):
        strong = np.linalg.norm(flow.sum(axis=0), axis=-1) > 0.02
        way = flow[:, strong].mean(axis=1).sum(axis=0) if strong.any() else np.zeros(2)
    else:
        figures["drift"] = colour_drift(frames, flow.mean(axis=(1, 2)).cumsum(axis=0))
        way = flow.mean(axis=(1, 2)).sum(axis=0)
    towards = np.array(TOWARDS[motion.removeprefix("cutout-")])
    along = float(way @ towards)
    aside = float(np.abs(way[towards == 0])[0])
    return figures | {"distance": along, "followed": float(along > aside)}


def flows(frames: np.ndarray) -> np.ndarray:
    """DIS optical flow from each frame to the next, `f-1 h w 2`, in widths of the frame; measured at twice the size."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    large = [cv2.resize(grey, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for grey in greys]
    return np.stack([dis.calc(a, b, None) / a.shape[1] for a, b in itertools.pairwise(large)])


def colour_drift(frames: np.ndarray, ways: np.ndarray) -> float:
    """The largest change of a channel's mean against the first frame where both show the same, of 255.

    `ways`: `f-1 2`, how far the content of each later frame has moved since the first, in widths.
    """
    height, width = frames.shape[1:3]
    drift = 0.0
    for frame, (x, y) in zip(frames[1:], (ways * width).round().astype(int), strict=True):
        x, y = int(np.clip(x, -width // 2, width // 2)), int(np.clip(y, -height // 2, height // 2))
        now = frame[max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)]
        before = frames[0][max(-y, 0) : height + min(-y, 0), max(-x, 0) : width + min(-x, 0)]
        drift = max(drift, float(np.abs(now.mean(axis=(0, 1)) - before.mean(axis=(0, 1))).max()))
    return drift


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = float(np.square(one.astype(np.float64) - other).mean())
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def summarize(results: list[Result]) -> dict[str, float]:
    """The figures of all clips together, by name."""
    report: dict[str, float] = {}

    def of(figure: str, *motions: str) -> list[float]:
        return [r.figures[figure] for r in results if figure in r.figures and (not motions or r.task.motion in motions)]

    groups = {"pans": tuple(TOWARDS), "cutouts": tuple(f"cutout-{way}" for way in TOWARDS)}
    for name in [*groups, *dict.fromkeys(r.task.motion for r in results)]:
        motions = groups.get(name, (name,))
        if followed := of("followed", *motions):
            report[f"{name}: {WAY}"] = 100 * float(np.mean(followed))
        if distance := of("distance", *motions):
            far = [way >= MOVED and right for way, right in zip(distance, followed, strict=True)]
            report[f"{name}: {FAR}"] = 100 * float(np.mean(far))
            report[f"{name}: distance that way, median, % of the width"] = 100 * float(np.median(distance))
        if change := of("change", *motions):
            report[f"{name}: change of the mean, median, %"] = 100 * float(np.median(change))
    if moved := of("moved"):
        report["still: moves, mean, % of the width"] = 100 * float(np.mean(moved))
    if drift := of("drift"):
        report["pans: colour drift, mean, of 255"] = float(np.mean(drift))
        report["pans: colour drift, worst, of 255"] = float(np.max(drift))
    report["first frame: PSNR, mean, dB"] = float(np.mean(of("first_psnr")))
    report["seconds a clip, median"] = float(np.median([r.seconds for r in results]))
    return report


@torch.no_grad()
def codec(model: Model) -> dict[str, float]:
    """How well the autoencoder alone rebuilds each photo: PSNR in dB, by the photo's name."""
    size = model.settings.native_size
    found = {}
    for path in sorted(HELD_OUT.glob("*.jpg")):
        photo = fit_image(read_image(path), size, size)
        pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].float().div(127.5).sub(1).to(model.device)
        rebuilt = model.vae.decode(model.vae.encode(pixels).latent_dist.mean).sample[0]
        levels = rebuilt.float().clamp(-1, 1).add(1).mul(127.5).round().byte().permute(1, 2, 0).cpu().numpy()
        found[path.name] = psnr(levels, photo)
    return found


def weights_and_codec(model: Model, rebuilt: dict[str, float]) -> dict[str, float]:
    """How large the weights are, and how well the autoencoder alone rebuilds the photos."""
    parts = (model.unet, model.vae, model.text_encoder)
    weights = sum(2 * tensor.numel() for part in parts for tensor in part.parameters())  # in half precision
    return {
        "autoencoder: PSNR, mean, dB": float(np.mean(list(rebuilt.values()))),
        "autoencoder: PSNR, worst, dB": float(min(rebuilt.values())),
        "weights, MB": weights / 1e6,
    }


def print_table(report: dict[str, float]) -> None:
    """The figures, and of those with a target whether it is reached."""
    width = max(len(name) for name in report)
    print()
    for name, value in report.items():
        kind, target = TARGETS.get(name, ("", value))
        reached = value >= target if kind == "at least" else value <= target
        print(f"{name:{width}}  {value:8.2f}" + (f"  {kind} {target:g}: {'yes' if reached else 'NO'}" if kind else ""))


def vars_of(result: Result) -> dict[str, Any]:
    return {"prompt": result.task.prompt, "seed": result.task.seed, "seconds": result.seconds, **result.figures}


def contact_sheet(results: list[Result]) -> Image.Image:
    """The first clips of each class, one a row: frames from the first to the last, with the prompt below."""
    rows = []
    for motion in dict.fromkeys(result.task.motion for result in results):
        rows += [result for result in results if result.task.motion == motion][:SHEET_ROWS_A_CLASS]
    count, height, width, _ = rows[0].frames.shape
    shown = np.linspace(0, count - 1, min(SHEET_FRAMES, count)).round().astype(int)
    line = height + 14
    sheet = Image.new("RGB", (len(shown) * (width + 2), len(rows) * line), "white")
    draw = ImageDraw.Draw(sheet)
    for row, result in enumerate(rows):
        for column, number in enumerate(shown):
            sheet.paste(Image.fromarray(result.frames[number]), (column * (width + 2), row * line))
        draw.text((2, row * line + height), f"{result.task.motion}: {result.task.prompt}", fill="black")
    return sheet


def rows_of(clips: Sequence[np.ndarray]) -> Image.Image:
    """A few frames of each clip, a row a clip."""
    strips = []
    for frames in clips:
        chosen = np.linspace(0, len(frames) - 1, SHEET_FRAMES).round().astype(int)
        strips.append(np.concatenate(list(frames[chosen]), axis=1))
    return Image.fromarray(np.concatenate(strips))


if __name__ == "__main__":
    main()
