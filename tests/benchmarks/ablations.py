"""The paper's Table 3 in miniature: FrameInit, temporal and spatial first-frame attention, switched off in turn.

    pip install '.[evaluate]'
    python tests/benchmarks/ablations.py [--model sketch] [--clips 4] [--classes left right ...] [--sheet sheet.png]

Photos, prompts and seeds are those of ``small_model.py``, the same in every row; other settings are the model's own.

- distance: Frechet distance between the EfficientNet-Lite0 features of all frames behind the first of the clips made,
  and of clips that are as they should be (``small_model.py --truth``): synthetic ones of the same photos and classes.
- first frame: mean cosine of the frames' features and the first frame's, times 100. (A still clip has 100.)
- moved: how far the flow goes along a clip, in per cent of the width; the mean over clips.

Run by hand; it takes four times ``clips`` x classes x the seconds of a clip.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import small_model
import torch

from consisti2v_cli.evaluation.ablations import PAPER, VARIANTS, apply
from consisti2v_cli.evaluation.extractors import EfficientNetFeatures
from consisti2v_cli.evaluation.metrics import frechet_distance, unit
from consisti2v_cli.render import choose_device, choose_dtype
from consisti2v_cli.weights import choose, require
from consisti2v_cli.weights.load import Model, load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="name, repository or folder; as for consisti2v animate")
    parser.add_argument("--clips", type=int, default=4, help="clips a class (4)")
    parser.add_argument("--classes", nargs="+", default=list(small_model.DEFAULT_CLASSES), metavar="CLASS")
    parser.add_argument("--steps", type=int, help="denoising steps")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sheet", type=Path, help="write the first clip of all rows (PNG) here")
    options = parser.parse_args()
    device = choose_device(options.device)
    model = load_model(require(options.model or choose()), device=device, dtype=choose_dtype("auto", device))
    extract = EfficientNetFeatures(device)
    steps = {} if options.steps is None else {"steps": options.steps}
    features, figures, first = defaultdict(list), defaultdict(list), {}
    for task in small_model.tasks(options.classes, options.clips):
        true = small_model.synthetic(task, model.settings.native_size, model.settings.frames)
        features["true"].append(extract(true)[1:])
        for variant in VARIANTS:
            with apply(model, variant):
                frames = small_model.make(task, model, {**variant.settings, **steps}).frames
            found = extract(frames)
            features[variant.name].append(found[1:])
            figures[variant.name].append((first_frame(found), moved(frames)))
            first.setdefault(variant.name, frames)
        print(f"{task.motion}, {task.photo.stem}", flush=True)
    print_table(model, features, figures)
    if options.sheet:
        small_model.rows_of(list(first.values())).save(options.sheet)


def first_frame(features: np.ndarray) -> float:
    """Mean cosine of the later frames and the first."""
    rows = unit(features)
    return float((rows[1:] @ rows[0]).mean())


def moved(frames: np.ndarray) -> float:
    """Length of the flow added up over the clip, averaged over the picture, in widths."""
    return float(np.linalg.norm(small_model.flows(frames).sum(axis=0), axis=-1).mean())


def print_table(model: Model, features: dict[str, list[np.ndarray]], figures: dict[str, list[Any]]) -> None:
    """In Markdown, and whether the rows come in the paper's order."""
    true = np.concatenate(features["true"])
    print(f"\n{date.today()}, torch {torch.__version__}, {model.folder.name}, {len(features['true'])} clips a row\n")
    print("| | distance (EfficientNet-Lite0) | first frame | moved, % |\n|---|---|---|---|")
    distances = {}
    for name in (variant.name for variant in VARIANTS):
        distances[name] = frechet_distance(np.concatenate(features[name]), true)
        same, way = np.mean(figures[name], axis=0)
        print(f"| {name} | {distances[name]:.1f} | {100 * same:.1f} | {100 * way:.1f} |")
    print(f"\nFrom the nearest to the farthest: {'; '.join(sorted(distances, key=distances.__getitem__))}.")
    printed = ", ".join(f"{PAPER[variant.key][0]:.2f}" for variant in VARIANTS)
    print(f"The paper's Table 3 (UCF-101, FVD): {printed}.")


if __name__ == "__main__":
    main()
