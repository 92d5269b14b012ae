"""A folder of photos on the training device, and crops of them for the autoencoder."""

from __future__ import annotations

import logging
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Generator, Tensor

from consisti2v_cli.errors import RequestError
from consisti2v_cli.kinds import suffixes
from consisti2v_cli.training.batch import send

LEVELS = (1.0, 1.3, 1.75)  # short sides of the kept copies, in crop sizes: crops near 1:1 need no further filter
WIDEST, TALLEST = 16 / 9, 3 / 4  # width to height; what is beyond is cut off at both ends

_log = logging.getLogger(__name__)


class Photos:
    """All photos of a folder, each at three scales, as bytes on a device.

    Args:
        folder: searched recursively for pictures, in the order of their paths.
        size: side of the crops that will be taken, in pixels.

    Raises:
        RequestError: the folder does not exist, or no picture in it can be read.
    """

    def __init__(self, folder: str | Path, size: int, device: torch.device | str = "cpu") -> None:
        found = _read_all(Path(folder))
        images = list(found.values())
        self.size = size
        self.device = torch.device(device)
        self.pixels: list[Tensor] = []  # a level: photos 3 h w, uint8, edges repeated at the right and the bottom
        extents = []  # a level: photos 2, (width, height) of what is not padding
        for level in LEVELS:
            canvas, extent = _stack([_to_level(image, round(level * size)) for image in images])
            self.pixels.append(canvas.to(self.device))
            extents.append(extent)
        self.extents = torch.stack(extents)  # level photos 2, in pixels, on the CPU
        self._extents = self.extents.to(self.device, torch.float32)
        self._wholes = torch.tensor([[level.shape[-1], level.shape[-2]] for level in self.pixels], device=self.device)
        self.shares = _shares(list(found))

    def __len__(self) -> int:
        return self.extents.shape[1]

    def choose(self, count: int, generator: Generator) -> Tensor:
        """Draw `count` numbers of photos. Frames of one film (`NAME-012.jpg`) are drawn less than others."""
        return torch.multinomial(self.shares, count, replacement=True, generator=generator)

    def sample(self, photo: Tensor, level: int, points: Tensor, mode: str = "bilinear") -> Tensor:
        """Read photos between their pixels.

        Args:
            photo: `b`, which photos, on the CPU.
            points: `b rows columns 2`, (x, y) in pixels of the level from the photo's upper left corner; on the device.
                What lies outside the photo is its mirror image.

        Returns:
            `b 3 rows columns`, float32 in [0, 1].
        """
        number = send(photo, self.device)
        canvas = self.pixels[level][number].float().div_(255)
        extent = self._extents[level][number][:, None, None, :]
        inside = points.sub(extent).abs_().neg_().add_(extent).abs_()  # one reflection at either end
        inside = torch.minimum(inside, extent).mul_(2 / self._wholes[level]).sub_(1)
        return F.grid_sample(canvas, inside, mode=mode, padding_mode="border", align_corners=False)


class PhotoSource:
    """Random crops of photos for the autoencoder: many of them the whole short side, flipped half the time.

    A fifth of the crops has its brightness, contrast and colourfulness changed a little.
    """

    def __init__(self, folder: str | Path, size: int, device: torch.device | str = "cpu") -> None:
        self.photos = open_photos(folder, size, device)

    def draw(self, batch: int, generator: Generator) -> Tensor:
        """Draw `b 3 size size` in [-1, 1] with a generator on the CPU."""
        photos, size = self.photos, self.photos.size
        photo = photos.choose(batch, generator)
        level = torch.randint(len(LEVELS), (batch,), generator=generator)
        draws = torch.rand(batch, 8, generator=generator)
        extent = photos.extents[level, photo].float()  # b 2
        # at the smallest scale the whole short side, elsewhere crops of 0.85 to 1.3 of the output's size
        side = torch.where(level == 0, size, size * (0.85 + 0.45 * draws[:, 0])).clamp(max=extent.amin(dim=1))
        corner = (extent - side[:, None]) * draws[:, 1:3]
        unit = (torch.arange(size) + 0.5) / size
        flipped = torch.where(draws[:, 3:4] < 0.5, 1 - unit, unit)  # b size
        x = send(corner[:, :1] + side[:, None] * flipped, photos.device)
        y = send(corner[:, 1:] + side[:, None] * unit, photos.device)
        points = torch.stack((x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)), dim=-1)
        crops = torch.empty(batch, 3, size, size, device=photos.device)
        for number in range(len(LEVELS)):
            chosen = (level == number).nonzero()[:, 0]
            if len(chosen):
                rows = send(chosen, photos.device)
                crops[rows] = photos.sample(photo[chosen], number, points[rows], mode="bicubic")
        return _jitter(crops.clamp_(0, 1), send(draws[:, 4:], photos.device)).mul_(2).sub_(1)


@lru_cache(maxsize=2)
def open_photos(folder: str | Path, size: int, device: torch.device | str) -> Photos:
    """The photos of a folder, shared by all who open it: stages of a training differ in their motions only."""
    return Photos(folder, size, device)


def _jitter(crops: Tensor, draws: Tensor) -> Tensor:
    """Change brightness, contrast and colourfulness of every fifth crop by up to a quarter."""
    change = (draws[:, :1] < 0.2) * (draws[:, 1:] - 0.5) * 0.5  # b 3
    brightness, contrast, colour = (change[:, i, None, None, None] for i in range(3))
    grey = crops.mean(dim=1, keepdim=True)
    crops = grey + (crops - grey) * (1 + colour)
    mean = crops.mean(dim=(1, 2, 3), keepdim=True)
    return (mean + (crops - mean) * (1 + contrast)).mul_(1 + brightness).clamp_(0, 1)


def _read_all(folder: Path) -> dict[Path, Image.Image]:
    if not folder.is_dir():
        raise RequestError(f"{folder} is not a folder of photos")
    images = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes("picture")):
        try:
            with Image.open(path) as image:
                images[path] = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, ValueError) as error:
            _log.warning("left out: cannot read %s: %s", path, error)
    if not images:
        raise RequestError(f"no photo in {folder} can be read; known are {', '.join(suffixes('picture'))}")
    return images


def _shares(paths: list[Path]) -> Tensor:
    """The share of each photo. The n frames of a film resemble each other: together they count for n ** 0.75 photos."""
    series = [re.sub(r"-\d+$", "", path.stem) for path in paths]
    sizes = Counter(series)
    return torch.tensor([sizes[name] ** -0.25 for name in series])


def _to_level(image: Image.Image, short_side: int) -> Tensor:
    """`3 h w` bytes of a photo, cut to at most WIDEST or TALLEST and scaled with an anti-aliasing filter."""
    width = min(image.width, image.height * WIDEST)
    height = min(image.height, image.width / TALLEST)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    scale = short_side / min(width, height)
    shape = (round(width * scale), round(height * scale))
    resized = image.resize(shape, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1)


def _stack(pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Pictures of many shapes in one tensor `n 3 h w`, their edges repeated, and their `n 2` (width, height)."""
    extent = torch.tensor([[picture.shape[2], picture.shape[1]] for picture in pictures])
    columns, rows = (torch.arange(int(side)) for side in extent.amax(dim=0))
    padded = [p[:, rows.clamp(max=p.shape[1] - 1)][:, :, columns.clamp(max=p.shape[2] - 1)] for p in pictures]
    return torch.stack(padded), extent
