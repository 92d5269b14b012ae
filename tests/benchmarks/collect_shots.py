"""Cut a film into shots and say of each what its optical flow does: captioned real motion for `consisti2v train`.

    pip install opencv-python-headless imageio-ffmpeg
    python tests/benchmarks/collect_shots.py OUT_DIR [--film FILM] [--size 128]

Without --film the film is Big Buck Bunny ((c) 2008 Blender Foundation, CC-BY 3.0), out of the source distribution of
moviepy 2.2.1, which pip downloads, without its credits. Writes `OUT_DIR/*.mp4`, squares of `size` pixels, and
`OUT_DIR/captions.csv`, which `--videos OUT_DIR` reads.

A scene ends where the colours' histogram jumps. A shot is a stretch of a scene of at most `SHOT` frames in which one
thing happens, by OpenCV's DIS flow from frame to frame: nothing, the whole picture moves one way, it grows or shrinks,
or something moves before a background that does not. What is none of these is left out, as is what is nearly black; of
stillness no more is kept than of all motion. Directions are those of the content.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import random
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import collect_photos
import cv2
import imageio_ffmpeg
import numpy as np

from consisti2v_cli.training.captions import caption

SHOT, SHORTEST = 48, 20  # frames of a shot
JUMP = 0.35  # distance of two frames' histograms (0 the same, 1 nothing in common) that ends a scene
DARK = 14  # mean brightness, of 255, below which nothing is seen
STILL, MOVES = 0.0008, 0.0025  # of the width a frame: mean flow of stillness at most, of a motion at least
UNIFORM = 0.6  # share of the flow that a pan or a zoom must explain
ALIKE = 0.6  # share of a shot's frames in which the same must happen
SMALL = 96  # pixels: the side at which flow is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--film", type=Path, help="any film that ffmpeg reads (default: Big Buck Bunny)")
    parser.add_argument("--moviepy", type=Path, help="moviepy-2.2.1.tar.gz, if it is already downloaded")
    parser.add_argument("--size", type=int, default=128, help="height and width of the shots in pixels (128)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        film = options.film or collect_photos.unpack_film(Path(folder), options.moviepy)
        found = list(write_shots(read(film, options.size), options.out))
    with (options.out / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "caption"))
        writer.writerows((name, words) for name, words, _ in found)
    kinds = Counter(kind for _, _, kind in found)
    print(f"{len(found)} shots in {options.out}: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}")


def read(film: Path, size: int) -> Iterator[np.ndarray]:
    """The frames' middle squares, `size size 3`, one after the other."""
    picture = f"scale={size}:{size}:force_original_aspect_ratio=increase:flags=area,crop={size}:{size}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(film), "-vf", picture, "-an"]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while len(raw := process.stdout.read(size * size * 3)) == size * size * 3:
            yield np.frombuffer(raw, np.uint8).reshape(size, size, 3)


def write_shots(frames: Iterator[np.ndarray], out: Path) -> Iterator[tuple[str, str, str]]:
    """Write each shot in which one thing happens; yields its file's name, a caption, and what happens."""
    rng = random.Random(0)
    stills = moving = 0
    for scene in scenes(frames):
        for start in range(0, len(scene) - SHORTEST + 1, SHOT):
            shot = scene[start : start + SHOT]
            kind = happening(shot)
            if kind is None or (kind == "still" and stills > moving):
                continue
            name = f"shot-{stills + moving:04d}.mp4"
            write(out / name, shot)
            stills, moving = stills + (kind == "still"), moving + (kind != "still")
            yield name, caption(kind, None, rng), kind


def scenes(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Stretches between cuts, each `f h w 3`."""
    scene: list[np.ndarray] = []
    before = None
    for frame in frames:
        histogram = cv2.calcHist([frame], [0, 1, 2], None, [8] * 3, [0, 256] * 3)
        histogram /= histogram.sum()
        if before is not None and 1 - np.minimum(histogram, before).sum() > JUMP:
            yield np.stack(scene)
            scene = []
        scene.append(frame)
        before = histogram
    if scene:
        yield np.stack(scene)


def happening(shot: np.ndarray) -> str | None:
    """The class of motion of a shot, as `consisti2v_cli.training.captions` names it; None: none of them, or several."""
    if len(shot) < SHORTEST or shot.mean() < DARK:
        return None
    seen = Counter(kind_of(flow) for flow in flows(shot))
    kind, count = seen.most_common(1)[0]
    return kind if count >= ALIKE * (len(shot) - 1) else None


def flows(shot: np.ndarray) -> Iterator[np.ndarray]:
    """From each frame to the next, `h w 2`, in widths."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    greys = [cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (SMALL, SMALL)) for frame in shot]
    for before, after in itertools.pairwise(greys):
        yield dis.calc(before, after, None) / SMALL


def kind_of(flow: np.ndarray) -> str | None:
    """What one flow field shows."""
    speed = np.linalg.norm(flow, axis=-1)
    if speed.mean() < STILL:
        return "still"
    mean = flow.mean(axis=(0, 1))
    if np.linalg.norm(mean) > MOVES and explained(flow, np.broadcast_to(mean, flow.shape)) > UNIFORM:
        return towards(mean)
    centre = (np.stack(np.meshgrid(np.arange(SMALL), np.arange(SMALL)), axis=-1) + 0.5) / SMALL - 0.5
    growth = float((flow * centre).sum() / (centre**2).sum())
    if abs(growth) > 2 * MOVES and explained(flow, growth * centre) > UNIFORM:
        return "zoom-in" if growth > 0 else "zoom-out"
    moving = speed > MOVES
    if 0.02 < moving.mean() < 0.4 and speed[~moving].mean() < 2 * STILL:
        direction = towards(flow[moving].mean(axis=0))
        return f"cutout-{direction}" if direction else None
    return None


def explained(flow: np.ndarray, model: np.ndarray) -> float:
    """The share of the flow's energy that a model of it accounts for."""
    return float(1 - np.square(flow - model).sum() / np.square(flow).sum())


def towards(way: np.ndarray) -> str | None:
    """left, right, up or down; None where it goes aslant."""
    x, y = way
    if abs(x) > 2 * abs(y):
        return "left" if x < 0 else "right"
    if abs(y) > 2 * abs(x):
        return "up" if y < 0 else "down"
    return None


def write(path: Path, shot: np.ndarray) -> None:
    """Nearly without loss, 24 frames a second."""
    _, height, width, _ = shot.shape
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", "24", "-i", "-", "-c:v", "libx264", "-crf", "12", str(path)]
    subprocess.run(command, input=shot.tobytes(), check=True)


if __name__ == "__main__":
    main()
