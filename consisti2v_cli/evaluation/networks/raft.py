"""RAFT (Teed and Deng 2020, the large model): optical flow. Module names are those of raft-things.pth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .files import fill, read_tensors

STEP = 8  # pixels of a side for each place of the maps
SMALLEST = 64  # pixels: side of the frames; the coarsest level would be empty below
LEVELS = 4  # of the correlation pyramid
RADIUS = 4  # places of a level that are looked at in each direction
HIDDEN = 128  # channels of the state, and of the context

Norm = Callable[[int], nn.Module]


class ResidualBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1)
        self.norm1, self.norm2 = norm(c_out), norm(c_out)
        self.downsample = nn.Sequential()
        if stride > 1:
            self.norm3 = norm(c_out)  # the file has it under both names
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride), self.norm3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        h = F.relu(self.norm2(self.conv2(h)))
        return F.relu(self.downsample(x) + h)


class Encoder(nn.Module):
    """Pictures `b 3 h w` -> maps `b c h/8 w/8`."""

    def __init__(self, c_out: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        self.norm1 = norm(64)
        self.layer1 = nn.Sequential(ResidualBlock(64, 64, 1, norm), ResidualBlock(64, 64, 1, norm))
        self.layer2 = nn.Sequential(ResidualBlock(64, 96, 2, norm), ResidualBlock(96, 96, 1, norm))
        self.layer3 = nn.Sequential(ResidualBlock(96, 128, 2, norm), ResidualBlock(128, 128, 1, norm))
        self.conv2 = nn.Conv2d(128, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        out: Tensor = self.conv2(self.layer3(self.layer2(self.layer1(h))))
        return out


class MotionEncoder(nn.Module):
    """Correlations and flow -> `b 128 h w`, the last two channels the flow itself."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(LEVELS * (2 * RADIUS + 1) ** 2, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(192 + 64, HIDDEN - 2, 3, padding=1)

    def forward(self, flow: Tensor, correlations: Tensor) -> Tensor:
        c = F.relu(self.convc2(F.relu(self.convc1(correlations))))
        f = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat([F.relu(self.conv(torch.cat([c, f], dim=1))), flow], dim=1)


class SeparableGRU(nn.Module):
    """A gated unit along the rows, then one along the columns."""

    def __init__(self) -> None:
        super().__init__()
        for part, kernel, padding in ((1, (1, 5), (0, 2)), (2, (5, 1), (2, 0))):
            for gate in "zrq":
                self.add_module(f"conv{gate}{part}", nn.Conv2d(3 * HIDDEN, HIDDEN, kernel, padding=padding))

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        for part in (1, 2):
            z, r, q = (self.get_submodule(f"conv{gate}{part}") for gate in "zrq")
            hx = torch.cat([h, x], dim=1)
            update = torch.sigmoid(z(hx))
            fresh = torch.tanh(q(torch.cat([torch.sigmoid(r(hx)) * h, x], dim=1)))
            h = (1 - update) * h + update * fresh
        return h


class FlowHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(HIDDEN, 256, 3, padding=1)
        self.conv2 = nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.conv2(F.relu(self.conv1(h)))
        return out


class UpdateBlock(nn.Module):
    """One iteration: the new state, and by how much the flow changes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MotionEncoder()
        self.gru = SeparableGRU()
        self.flow_head = FlowHead()
        self.mask = nn.Sequential(nn.Conv2d(HIDDEN, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 9 * STEP**2, 1))

    def forward(self, h: Tensor, context: Tensor, correlations: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        h = self.gru(h, torch.cat([context, self.encoder(flow, correlations)], dim=1))
        return h, self.flow_head(h)

    def weights(self, h: Tensor) -> Tensor:
        """Logits `b 576 h w` of the convex upsampling; they were trained at a quarter of their size."""
        out: Tensor = 0.25 * self.mask(h)
        return out


class RAFT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fnet = Encoder(256, nn.InstanceNorm2d)
        self.cnet = Encoder(2 * HIDDEN, nn.BatchNorm2d)
        self.update_block = UpdateBlock()

    def forward(self, before: Tensor, after: Tensor, iterations: int = 20) -> Tensor:
        """Where each pixel of one frame is found in the next.

        Args:
            before, after: `b 3 h w`, RGB, 0 to 255; sides are multiples of 8, and 64 or more.
            iterations: how often the flow is refined, from zero.

        Returns:
            `b 2 h w`: to the right and down, in pixels, after the last iteration.

        Raises:
            ValueError: the sides are no multiples of 8, or too small.
        """
        if any(side % STEP or side < SMALLEST for side in before.shape[-2:]):
            raise ValueError(f"RAFT needs frames whose sides are multiples of {STEP}, and {SMALLEST} or more")
        one, other = (frames / 127.5 - 1 for frames in (before, after))
        pyramid = correlation_pyramid(self.fnet(one), self.fnet(other))
        h, context = self.cnet(one).split(HIDDEN, dim=1)
        h, context = torch.tanh(h), F.relu(context)
        start = places(h)
        flow = torch.zeros_like(start)
        for _ in range(iterations):
            h, change = self.update_block(h, context, look_up(pyramid, start + flow), flow)
            flow = flow + change
        return upsample(flow, self.update_block.weights(h))


def places(maps: Tensor) -> Tensor:
    """The place of each entry of maps `b c h w`: `b 2 h w`, x and y."""
    batch, _, height, width = maps.shape
    y, x = torch.meshgrid(
        torch.arange(height, device=maps.device), torch.arange(width, device=maps.device), indexing="ij"
    )
    return torch.stack([x, y]).to(maps.dtype).expand(batch, 2, height, width)


def correlation_pyramid(one: Tensor, other: Tensor) -> list[Tensor]:
    """How much each place of one map resembles each of another, ever coarser in the other (section 3.2).

    Args:
        one, other: `b c h w`.

    Returns:
        For each level `b*h*w 1 h/2^level w/2^level`: dot products over the root of `c`, averaged.
    """
    volume = torch.einsum("bchw,bcyx->bhwyx", one, other) / math.sqrt(one.shape[1])
    levels = [volume.flatten(0, 2).unsqueeze(1)]
    for _ in range(LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def look_up(pyramid: Sequence[Tensor], points: Tensor) -> Tensor:
    """Correlations around points: `b 2 h w` -> `b 324 h w`, level after level; outside the map they are 0.

    Of the 9 x 9 neighbours of a level the first axis goes to the right, the second down.
    """
    batch, _, height, width = points.shape
    reach = torch.arange(-RADIUS, RADIUS + 1, device=points.device, dtype=points.dtype)
    window = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), dim=-1)  # 9 9 2
    middle = points.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    found = []
    for level, volume in enumerate(pyramid):
        sides = torch.tensor(volume.shape[:1:-1], device=points.device, dtype=points.dtype)  # w, h
        where = (2 * (middle / 2**level + window) + 1) / sides - 1  # as grid_sample counts: -1 to 1, edge to edge
        seen = F.grid_sample(volume, where, mode="bilinear", padding_mode="zeros", align_corners=False)
        found.append(seen.reshape(batch, height, width, -1))
    return torch.cat(found, dim=-1).permute(0, 3, 1, 2)


def upsample(flow: Tensor, logits: Tensor) -> Tensor:
    """Flow at an eighth of the size -> at full size, each pixel a convex mixture of 3 x 3 neighbours (section 3.3).

    Args:
        flow: `b 2 h w`, in places.
        logits: `b 576 h w`: 9 neighbours x 8 rows x 8 columns.

    Returns:
        `b 2 8h 8w`, in pixels; beyond the border the flow counts as 0.
    """
    batch, _, height, width = flow.shape
    weights = logits.view(batch, 1, 9, STEP, STEP, height, width).softmax(dim=2)
    neighbours = F.unfold(STEP * flow, 3, padding=1).view(batch, 2, 9, 1, 1, height, width)
    mixed = (weights * neighbours).sum(dim=2)  # b 2 8 8 h w
    return mixed.permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, STEP * height, STEP * width)


def load_raft(path: Path, device: torch.device | str = "cpu") -> RAFT:
    """RAFT with the weights of a file such as raft-things.pth. WeightsError: not a file, or not its tensors."""
    with torch.device("meta"):
        network = RAFT()
    return fill(network, read_tensors(path), path, device=device)
