"""FrameInit: initial noise whose low frequencies come from a layout video (paper, section 3.5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fft import fftn, ifftn, ifftshift

from .schedule import alphas_cumprod


def low_pass_mask(
    kind: str,
    frames: int,
    height: int,
    width: int,
    cutoff_spatial: float,
    cutoff_temporal: float,
    order: int = 4,
) -> Tensor:
    """A low-pass mask over the frequencies of time, height and width, the zero frequency in the centre.

    Args:
        kind: a key of `MASKS`: gaussian (the paper's), butterworth, ideal, box (KeyError otherwise).
        frames, height, width: the size of the latents.
        cutoff_spatial, cutoff_temporal: the paper's D0 in space and time, 0..1; all is 0 where one of them is.
        order: of the butterworth mask.

    Returns:
        `f h w`, float32, 0..1.
    """
    if cutoff_spatial == 0 or cutoff_temporal == 0:
        return torch.zeros(frames, height, width)
    return MASKS[kind]((frames, height, width), cutoff_spatial, cutoff_temporal, order).float()


def frameinit_noise(
    noise: Tensor, layout: Tensor, noise_level: int, mask: Tensor, *, alphas: Tensor | None = None
) -> Tensor:
    """Replace the noise's low frequencies by those of the layout video, noised with the same noise.

    Args:
        noise: `b c f h w`.
        layout: latents of the layout video `z0`, of the same shape; by default the first frame's, repeated.
        noise_level: the paper's tau, 0..999.
        mask: from `low_pass_mask`, `f h w`.
        alphas: cumulative alphas of the noise schedule, 1000 values; the released model's by default.

    Returns:
        `b c f h w`, computed in float32.
    """
    alpha = (alphas_cumprod() if alphas is None else alphas)[noise_level].to(noise.device, torch.float32)
    noise = noise.float()
    noised_layout = alpha.sqrt() * layout.float() + (1 - alpha).sqrt() * noise
    # low(noised_layout) + high(noise), the mask being linear
    spectrum = fftn(noised_layout - noise, dim=(-3, -2, -1)) * ifftshift(mask.to(noise.device))
    low: Tensor = ifftn(spectrum, dim=(-3, -2, -1)).real
    return noise + low


Size = tuple[int, int, int]


def _squared_distance(size: Size, spatial: float, temporal: float) -> Tensor:
    time, rows, columns = (2 * torch.arange(n, dtype=torch.float64) / n - 1 for n in size)
    time = spatial / temporal * time
    return time[:, None, None] ** 2 + rows[None, :, None] ** 2 + columns[None, None, :] ** 2


def _gaussian(size: Size, spatial: float, temporal: float, order: int) -> Tensor:
    return torch.exp(-_squared_distance(size, spatial, temporal) / (2 * spatial**2))


def _butterworth(size: Size, spatial: float, temporal: float, order: int) -> Tensor:
    ratio = _squared_distance(size, spatial, temporal) / spatial**2
    return torch.reciprocal(1 + ratio**order)


def _ideal(size: Size, spatial: float, temporal: float, order: int) -> Tensor:
    return (_squared_distance(size, spatial, temporal) <= 2 * spatial).float()


def _box(size: Size, spatial: float, temporal: float, order: int) -> Tensor:
    frames, height, width = size
    t = round(frames // 2 * temporal)
    s = round(height // 2 * spatial)  # the reference's: from the height, and for the width too
    mask = torch.zeros(size)
    centres_and_reaches = ((frames // 2, t), (height // 2, s), (width // 2, s))
    mask[tuple(slice(max(centre - reach, 0), centre + reach) for centre, reach in centres_and_reaches)] = 1
    return mask


MASKS: dict[str, Callable[[Size, float, float, int], Tensor]] = {
    "gaussian": _gaussian,
    "butterworth": _butterworth,
    "ideal": _ideal,
    "box": _box,
}
