"""Clips made on the fly, on the training device, from photos: every class of motion is a caption that can be checked.

Time runs in units in which 16 frames at the middle stride of 3 last from 0 to 1. All that moves is a function of that
time, so a stride of 5 moves five times as far a frame as a stride of 1, and the first 4 frames of a clip do not depend
on how many are drawn. Distances are in sides of the frame.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from consisti2v_cli.errors import RequestError
from consisti2v_cli.training.batch import STRIDES, Batch, send
from consisti2v_cli.training.captions import caption
from consisti2v_cli.training.photos import LEVELS, Photos, open_photos

HORIZON = 16  # frames for which a path is kept inside the photo, if the photo is large enough
FRAMES_A_UNIT_OF_TIME = 15 * 3  # frames of the source
DRAWS = 24  # random numbers a clip, by the columns named below
LEVEL, SIDE, X, Y, SPEED, ANGLE, EASE, EASE_PHASE, EASE_RATE, SHAPE = range(10)  # SHAPE and on: what the class needs
PIXELS_AHEAD = (0.85, 1.3)  # range of pixels of the photo a pixel of the clip

PAN = (0.15, 0.40)  # distance in a unit of time
CUTOUT_PAN = (0.20, 0.40)
ZOOM = (0.15, 0.35)  # logarithm of the scale
TURN = (12.0, 35.0)  # degrees
BRIGHTEN, DARKEN = (1.6, 2.3), (0.45, 0.62)  # factor of the slope at black; all of the range
RIPPLE = (0.008, 0.022)  # amplitude


@dataclass(frozen=True)
class Motion:
    """A class of motion. `direction` is that of the content in the picture: x to the right, y down."""

    kind: str  # pan, zoom, turn, light, still, cutout, weather, ripple
    direction: tuple[float, float] = (0.0, 0.0)  # of unit length, for pans and cutouts
    sign: int = 0  # zoom: 1 in, -1 out; turn: 1 counterclockwise; light: 1 brighter; weather: 1 rain, -1 snow


_D = math.sqrt(0.5)
_SIDES = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
_DIAGONALS = {"up-left": (-_D, -_D), "up-right": (_D, -_D), "down-left": (-_D, _D), "down-right": (_D, _D)}

MOTIONS: dict[str, Motion] = {
    **{name: Motion("pan", direction) for name, direction in {**_SIDES, **_DIAGONALS}.items()},
    "zoom-in": Motion("zoom", sign=1),
    "zoom-out": Motion("zoom", sign=-1),
    "turn-left": Motion("turn", sign=1),
    "turn-right": Motion("turn", sign=-1),
    "brighten": Motion("light", sign=1),
    "darken": Motion("light", sign=-1),
    "still": Motion("still"),
    **{f"cutout-{name}": Motion("cutout", direction) for name, direction in _SIDES.items()},
    "snow": Motion("weather", sign=-1),
    "rain": Motion("weather", sign=1),
    "ripple": Motion("ripple"),
}
GROUPS: dict[str, tuple[str, ...]] = {
    "pans": tuple(_SIDES),
    "diagonals": tuple(_DIAGONALS),
    "zooms": ("zoom-in", "zoom-out"),
    "turns": ("turn-left", "turn-right"),
    "lights": ("brighten", "darken"),
    "cutouts": tuple(f"cutout-{name}" for name in _SIDES),
    "weather": ("snow", "rain"),
}


def parse_motions(motions: Sequence[str] | None) -> dict[str, float]:
    """The share of each class. `["pans:4", "still"]` draws each of the four pans four times as often as stillness.

    Raises:
        RequestError: a name that is neither a class nor a group, or a weight that is not a number above 0.
    """
    shares: dict[str, float] = {}
    for item in motions if motions is not None else list(MOTIONS):
        name, _, weight = item.partition(":")
        names = GROUPS.get(name, (name,) if name in MOTIONS else ())
        try:
            share = float(weight or 1)
        except ValueError:
            share = 0.0
        if not names or not share > 0:
            known = ", ".join([*MOTIONS, *GROUPS])
            raise RequestError(
                f"{item!r} is no class of motion, or its weight is wrong: NAME or NAME:WEIGHT, of {known}"
            )
        shares.update(dict.fromkeys(names, share))
    if not shares:
        raise RequestError("no class of motion is left to draw from")
    return shares


@dataclass(frozen=True)
class _Plan:
    """All that decides a batch of clips, on the CPU; `draws` are the random numbers of each clip."""

    motions: list[str]
    strides: Tensor  # b
    photo: Tensor  # b
    second: Tensor  # b, the photo of which a cutout is made
    draws: Tensor  # b DRAWS

    def between(self, column: int, low: float, high: float) -> Tensor:
        return low + (high - low) * self.draws[:, column]

    def rows(self, *kinds: str) -> list[int]:
        return [row for row, name in enumerate(self.motions) if MOTIONS[name].kind in kinds]


class SyntheticClips:
    """A `ClipSource` that makes clips from a folder of photos.

    Args:
        folder: photos, see `Photos`.
        size: side of the frames in pixels.
        motions: classes or groups of classes with optional weights, see `parse_motions`; None: all alike.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        size: int,
        device: torch.device | str = "cpu",
        motions: Sequence[str] | None = None,
    ) -> None:
        shares = parse_motions(motions)
        self.photos = open_photos(folder, size, device)
        self.names = list(shares)
        self.shares = torch.tensor(list(shares.values()))

    def draw(self, batch: int, frames: int, generator: Generator) -> Batch:
        """Draw clips; the caption of each names what happens in it."""
        plan, rng = self._plan(batch, generator)
        time = plan.strides[:, None] * torch.arange(frames) / FRAMES_A_UNIT_OF_TIME  # b f
        points, level = _place(plan, time, self.photos)
        clips = self._sample(plan.photo, level, points)
        self._light(clips, plan, time)
        self._cutouts(clips, plan, time)
        self._weather(clips, plan, time, generator)
        captions = [caption(name, int(stride), rng) for name, stride in zip(plan.motions, plan.strides, strict=True)]
        strides = send(plan.strides, self.photos.device)
        return Batch(clips.mul_(2).sub_(1), captions, plan.motions, strides)

    def _plan(self, batch: int, generator: Generator) -> tuple[_Plan, random.Random]:
        chosen = torch.multinomial(self.shares, batch, replacement=True, generator=generator)
        plan = _Plan(
            motions=[self.names[int(number)] for number in chosen],
            strides=torch.randint(1, STRIDES + 1, (batch,), generator=generator),
            photo=self.photos.choose(batch, generator),
            second=self.photos.choose(batch, generator),
            draws=torch.rand(batch, DRAWS, generator=generator),
        )
        return plan, random.Random(int(torch.randint(2**62, (1,), generator=generator)))

    def _sample(self, photo: Tensor, level: Tensor, points: Tensor) -> Tensor:
        """Read the photos at `b f h w 2` points; -> b f 3 h w in [0, 1]."""
        batch, frames, height, width, _ = points.shape
        clips = torch.empty(batch, frames, 3, height, width, device=self.photos.device)
        for number in range(len(LEVELS)):
            rows = (level == number).nonzero()[:, 0]
            if len(rows):
                on_device = send(rows, self.photos.device)
                found = self.photos.sample(photo[rows], number, points[on_device].flatten(1, 2))
                clips[on_device] = found.unflatten(2, (frames, height)).transpose(1, 2)
        return clips

    def _light(self, clips: Tensor, plan: _Plan, time: Tensor) -> None:
        """Turn the light up (the dark pixels most, so that nothing is clipped) or down."""
        for row in plan.rows("light"):
            low, high = BRIGHTEN if MOTIONS[plan.motions[row]].sign > 0 else DARKEN
            full = math.log(low + (high - low) * float(plan.draws[row, SPEED]))
            factor = send((_ease(plan, time)[row] * full).exp(), clips.device)[:, None, None, None]
            clips[row] = 1 - (1 - clips[row]).clamp(min=0) ** factor if full > 0 else clips[row] * factor

    def _cutouts(self, clips: Tensor, plan: _Plan, time: Tensor) -> None:
        """Lay a soft-edged piece of a second photo over the still background and move it."""
        rows = plan.rows("cutout")
        if not rows:
            return
        part = _Plan(
            [plan.motions[r] for r in rows], *(t[rows] for t in (plan.strides, plan.photo, plan.second, plan.draws))
        )
        size, device = self.photos.size, clips.device
        sprite = _sprites(part, self.photos)  # b 4 h w
        shift = (
            _directions(part)[:, None, :]
            * (part.between(SPEED, *CUTOUT_PAN)[:, None] * _ease(part, time[rows]))[..., None]
        )
        centre = send(_cutout_start(part)[:, None, :] + shift, device)  # b f 2, in sides of the frame
        grid = (_pixel_grid(size, device) - centre[:, :, None, None, :] * size) * (2 / size)  # b f h w 2
        moved = F.grid_sample(sprite, grid.flatten(1, 2), align_corners=False).unflatten(2, (-1, size)).transpose(1, 2)
        colour, alpha = moved[:, :, :3], moved[:, :, 3:]  # the colour is already multiplied by alpha
        where = send(torch.tensor(rows), device)
        clips[where] = clips[where] * (1 - alpha) + colour

    def _weather(self, clips: Tensor, plan: _Plan, time: Tensor, generator: Generator) -> None:
        """Let it snow or rain: two sheets of flakes or streaks that come in from the top."""
        size, device = self.photos.size, clips.device
        for row in plan.rows("weather"):
            rain = MOTIONS[plan.motions[row]].sign > 0
            sheets = send(_sheets(size, rain, plan.draws[row], generator), device)  # 2 1 h w
            speed = (2.2 if rain else 0.8) + 0.4 * plan.draws[row, SPEED]
            drift = (plan.draws[row, ANGLE] - 0.5) * (0.2 if rain else 0.5)
            for sheet, nearness in zip(sheets, (0.75, 1.0), strict=True):
                fallen = (time[row] * speed * nearness * size)[:, None, None]  # f 1 1, in pixels
                fallen = send(fallen, device)
                x, y = _pixel_grid(size, device).unbind(-1)
                x, y = x - fallen * drift, y - fallen  # f h w: where the flake seen here was at first
                wrapped = torch.stack((x.remainder(size), y.remainder(size)), dim=-1) * (2 / size) - 1
                seen = F.grid_sample(sheet[None].expand(len(fallen), -1, -1, -1), wrapped, align_corners=False)
                amount = seen * (y < 0)[:, None] * 0.85 * nearness
                clips[row] += amount * ((0.85 if rain else 1.0) - clips[row])


def _ease(plan: _Plan, time: Tensor) -> Tensor:
    """The way gone at a time, `b f` -> `b f`: rises from 0 with a speed that changes smoothly by up to 30 %."""
    strength = plan.between(EASE, -0.3, 0.3)[:, None]
    rate = plan.between(EASE_RATE, 2.0, 5.0)[:, None]
    phase = plan.between(EASE_PHASE, 0.0, 2 * math.pi)[:, None]
    return time + strength / rate * (torch.sin(rate * time + phase) - torch.sin(phase))


def _directions(plan: _Plan) -> Tensor:
    """Unit vectors `b 2` of the motion, up to 6 degrees beside the class's direction; 0 for classes without."""
    angle = plan.between(ANGLE, -6.0, 6.0).deg2rad()
    x, y = torch.tensor([MOTIONS[name].direction for name in plan.motions]).unbind(-1)
    return torch.stack((x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()), dim=-1)


def _place(plan: _Plan, time: Tensor, photos: Photos) -> tuple[Tensor, Tensor]:
    """Where in its photo each pixel of each frame is found.

    Returns:
        points `b f h w 2` in pixels of the level, on the device, and the level `b` of each clip, on the CPU.
    """
    kinds = [MOTIONS[name].kind for name in plan.motions]
    signs = torch.tensor([MOTIONS[name].sign for name in plan.motions])
    pan, zoom, turn = (torch.tensor([kind == wanted for kind in kinds]) for wanted in ("pan", "zoom", "turn"))
    distance = _directions(plan) * (plan.between(SPEED, *PAN) * pan)[:, None]  # b 2, content's, in a unit of time
    growth = plan.between(SPEED, *ZOOM) * signs * zoom  # logarithm, in a unit of time
    turning = plan.between(SPEED, *TURN).deg2rad() * signs * turn  # radians counterclockwise, in a unit of time
    # the room that the whole path needs, in sides of the first crop
    end = _ease(plan, plan.strides[:, None] * (HORIZON - 1.0) / FRAMES_A_UNIT_OF_TIME)  # b 1
    angle = (turning.abs()[:, None] * end).clamp(max=math.pi / 4)
    need = (distance.abs() * end + 1) * (-growth[:, None] * end).exp().clamp(min=1) * (angle.cos() + angle.sin())  # b 2
    level, side = _choose_level(plan, need, photos)
    extent = photos.extents[level, plan.photo].float()  # b 2
    room = (extent - need * side[:, None]).clamp(min=0)
    start = room * plan.draws[:, X : Y + 1] + torch.minimum(need * side[:, None], extent) / 2  # the middle of the path
    middle = start + distance * end / 2 * side[:, None]  # of the first crop; what is read moves against the content
    way = _ease(plan, time)  # b f
    centre = middle[:, None, :] - distance[:, None, :] * way[..., None] * side[:, None, None]  # b f 2
    scale = side[:, None] * (-growth[:, None] * way).exp() / photos.size  # b f, pixels of the level a pixel of the clip
    angle = turning[:, None] * way
    # the content turns counterclockwise (y points down), so what is read turns the other way
    rows = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), dim=-1).unflatten(-1, (2, 2))
    matrix = send(rows * scale[..., None, None], photos.device)
    offsets = _pixel_grid(photos.size, photos.device) - photos.size / 2  # h w 2
    points = torch.einsum("bfij,hwj->bfhwi", matrix, offsets)
    points += send(centre[:, :, None, None, :], photos.device)
    return _ripple(points, plan, time, photos), level


def _choose_level(plan: _Plan, need: Tensor, photos: Photos) -> tuple[Tensor, Tensor]:
    """A scale of the photo at which the path fits, and the side of the crop in its pixels: `b`, `b`."""
    room = (photos.extents[:, plan.photo] / need).amin(dim=-1)  # level b: the largest side with which the path fits
    fits = room >= PIXELS_AHEAD[0] * photos.size
    fits[-1] = True
    smallest = fits.int().argmax(dim=0)  # b
    level = (smallest + (plan.draws[:, LEVEL] * (len(LEVELS) - smallest)).long()).clamp(max=len(LEVELS) - 1)
    wanted = plan.between(SIDE, *PIXELS_AHEAD) * photos.size
    side = torch.minimum(wanted, room.gather(0, level[None])[0])
    return level, side.clamp(min=0.6 * photos.size)


def _ripple(points: Tensor, plan: _Plan, time: Tensor, photos: Photos) -> Tensor:
    """Bend the points of the rippling clips: two crossing waves that grow from nothing."""
    for row in plan.rows("ripple"):
        draws = plan.draws[row]
        amplitude = (RIPPLE[0] + (RIPPLE[1] - RIPPLE[0]) * float(draws[SPEED])) * photos.size
        grown = send((time[row] * 3).clamp(max=1) * amplitude, points.device)[:, None, None]  # f 1 1
        x, y = (_pixel_grid(photos.size, points.device) * (2 * math.pi / photos.size)).unbind(-1)  # h w
        beat = send(time[row] * (12 + 8 * draws[SHAPE]), points.device)[:, None, None]
        waves = 2 + 3 * float(draws[SHAPE + 1])
        points[row, ..., 0] += grown * torch.sin(y * waves + x + beat + 6 * float(draws[SHAPE + 2]))
        points[row, ..., 1] += grown * torch.sin(x * waves * 0.8 - y - beat + 6 * float(draws[SHAPE + 3]))
    return points


def _cutout_start(plan: _Plan) -> Tensor:
    """The middle of the cutout in the first frame, `b 2`: so that the middle of its way is near that of the frame."""
    end = _ease(plan, plan.strides[:, None] * (HORIZON - 1.0) / FRAMES_A_UNIT_OF_TIME)
    way = _directions(plan) * plan.between(SPEED, *CUTOUT_PAN)[:, None] * end
    return 0.5 + (plan.draws[:, X : Y + 1] - 0.5) * 0.3 - way / 2


def _sprites(plan: _Plan, photos: Photos) -> Tensor:
    """`b 4 h w`: a blob of the second photo in the middle, its colour multiplied by alpha, and alpha."""
    size = photos.size
    offsets = _pixel_grid(size, torch.device("cpu")) - size / 2
    x, y = (offsets / size).unbind(-1)  # h w
    angle, distance = torch.atan2(y, x), torch.hypot(x, y)
    radius = plan.between(SHAPE, 0.16, 0.28)[:, None, None]
    waves = torch.zeros(len(plan.photo), size, size)
    for number in (2, 3, 5):
        strength = 0.22 / number * plan.draws[:, SHAPE + number, None, None]
        waves += strength * torch.cos(number * angle + 6.3 * plan.draws[:, SHAPE + 5 + number, None, None])
    alpha = torch.sigmoid((radius * (1 + waves) - distance) * size / 1.2)[:, None]  # an edge of about 3 pixels
    extent = photos.extents[0, plan.second].float()
    half = size / 2
    centre = half + (extent - size) * plan.draws[:, SHAPE + 1, None]
    points = send(centre[:, None, None, :] + offsets, photos.device)
    colour = photos.sample(plan.second, 0, points)
    alpha = send(alpha, photos.device)
    return torch.cat((colour * alpha, alpha), dim=1)


def _sheets(size: int, rain: bool, draws: Tensor, generator: Generator) -> Tensor:
    """`2 1 h w` in [0, 1]: far and near flakes or streaks, that continue at the opposite edge."""
    flakes = (60 + 100 * float(draws[SHAPE])) / size**2
    seeds = (torch.rand(2, 1, size, size, generator=generator) < flakes).float()
    sheets = []
    for seed, width in zip(seeds, (0.006, 0.010), strict=True):
        sigma = max(0.6, width * size * (0.5 if rain else 1.0))
        reach = math.ceil(3 * sigma)
        bell = (-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2)).exp()
        column = torch.ones(max(3, round(0.07 * size)) | 1) if rain else bell
        blurred = _wrapped_blur(_wrapped_blur(seed[None], column[:, None]), bell[None, :])
        sheets.append(blurred[0].clamp(max=1) * (0.5 if rain else 1.0))
    return torch.stack(sheets)


def _wrapped_blur(image: Tensor, kernel: Tensor) -> Tensor:
    rows, columns = kernel.shape
    padded = F.pad(image, (columns // 2, columns // 2, rows // 2, rows // 2), mode="circular")
    return F.conv2d(padded, kernel[None, None])


def _pixel_grid(size: int, device: torch.device) -> Tensor:
    """`h w 2`: (x, y) of the middle of each pixel."""
    at = torch.arange(size, device=device) + 0.5
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack((x, y), dim=-1)
