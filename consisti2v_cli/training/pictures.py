"""Pictures to watch a training by: grids of frames, and the loss curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

WIDTH, HEIGHT, MARGIN = 900, 480, 60


def grid(rows: Sequence[Tensor]) -> Image.Image:
    """Lay out frames: each row `n 3 h w` in [-1, 1], rows one above the other."""
    lines = [torch.cat(list(row), dim=2) for row in rows]
    whole = torch.cat(lines, dim=1).float().cpu().clamp(-1, 1)
    return Image.fromarray(((whole + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous().numpy())


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG so that a reader never meets half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    picture.save(partial, format="PNG")
    partial.replace(path)


def loss_curve(steps: Sequence[int], losses: Sequence[float]) -> Image.Image:
    """Draw losses over steps on a logarithmic scale: every line of the log pale, a running mean dark."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    points = [(step, math.log10(loss)) for step, loss in zip(steps, losses, strict=True) if loss > 0]
    if len(points) < 2:
        return picture
    low, high = min(y for _, y in points), max(y for _, y in points)
    span = max(high - low, 1e-3)

    def place(step: float, value: float) -> tuple[float, float]:
        across = (step - points[0][0]) / max(points[-1][0] - points[0][0], 1)
        return MARGIN + across * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - (value - low) / span * (HEIGHT - 2 * MARGIN)

    for part in range(5):
        value = low + span * part / 4
        left, y = place(points[0][0], value)
        draw.line([(left, y), (WIDTH - MARGIN, y)], fill="#dddddd")
        draw.text((6, y - 6), f"{10**value:.3g}", fill="#555555")
    for step in (points[0][0], points[-1][0]):
        draw.text((place(step, low)[0] - 10, HEIGHT - MARGIN + 10), str(step), fill="#555555")
    draw.line([place(*point) for point in points], fill="#9dbbe0", width=1)
    draw.line([place(*point) for point in _running_mean(points)], fill="#1f4e8c", width=2)
    return picture


def _running_mean(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    width = max(len(points) // 30, 1)
    means = []
    for index, (step, _) in enumerate(points):
        window = [value for _, value in points[max(0, index - width + 1) : index + 1]]
        means.append((float(step), sum(window) / len(window)))
    return means
