"""What the parts are trained for (paper, sections 3.1, 5.1, A.1): functions of tensors, with every draw passed in.

Clips are latents `b c f h w`; `levels` are cumulative alphas of each clip's timestep, `b`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from consisti2v_cli.training.batch import send


def draw_timesteps(batch: int, generator: Generator, *, low: int = 0, high: int = 1000, power: float = 1.0) -> Tensor:
    """One timestep a clip, `low <= t < high`; with `power` above 1 high noise comes more often.

    The density is proportional to `(t - low)^(power - 1)`; 1 is uniform. Returns whole numbers, `b`.
    """
    where = torch.rand(batch, generator=generator, dtype=torch.float64) ** (1 / power)
    return (low + where * (high - low)).long().clamp(max=high - 1)


def add_noise(clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
    """`sqrt(level) * clean + sqrt(1 - level) * noise`."""
    signal, rest = _factors(levels, clean)
    return signal * clean + rest * noise


def target(prediction_type: str, clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
    """What the network is to predict: the noise (`epsilon`), or the velocity (`v_prediction`, Salimans and Ho 2022)."""
    if prediction_type == "epsilon":
        return noise
    signal, rest = _factors(levels, clean)
    return signal * noise - rest * clean


def predicted_clean(prediction_type: str, predicted: Tensor, noisy: Tensor, levels: Tensor) -> Tensor:
    """The clean latents that a prediction stands for: `target` the other way round."""
    signal, rest = _factors(levels, noisy)
    if prediction_type == "epsilon":
        return (noisy - rest * predicted) / signal
    return signal * noisy - rest * predicted


def min_snr_weights(prediction_type: str, levels: Tensor, limit: float) -> Tensor:
    """Min-SNR weights, `b` (Hang et al. 2023): `min(snr, limit)` over `snr`, or over `snr + 1` for velocities."""
    snr = levels / (1 - levels)
    return snr.clamp(max=limit) / (snr if prediction_type == "epsilon" else snr + 1)


def diffusion_loss(predicted: Tensor, wanted: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error in float32 over frames 2..f, each clip with its weight."""
    errors = (predicted.float() - wanted.float()).square().flatten(1).mean(dim=1)
    return (errors if weights is None else errors * weights).mean()


def drop_captions(captions: Sequence[str], probability: float, generator: Generator) -> list[str]:
    """Captions, some of them replaced by the empty one that guidance compares with."""
    dropped = torch.rand(len(captions), generator=generator) < probability
    return ["" if drop else caption for caption, drop in zip(captions, dropped.tolist(), strict=True)]


def drop_images(first_frame: Tensor, noisy: Tensor, probability: float, generator: Generator) -> Tensor:
    """First frames `b c 1 h w`, some of them replaced by their noisy version."""
    dropped = torch.rand(len(first_frame), generator=generator) < probability
    return torch.where(send(dropped, first_frame.device)[:, None, None, None, None], noisy, first_frame)


def charbonnier(rebuilt: Tensor, pictures: Tensor) -> Tensor:
    """Mean of `sqrt(difference^2 + 1e-4)`: the absolute difference, but smooth below a hundredth."""
    return ((rebuilt.float() - pictures.float()).square() + 1e-4).sqrt().mean()


def squared_error(rebuilt: Tensor, pictures: Tensor) -> Tensor:
    """Mean squared difference in float32, what PSNR is made of."""
    return (rebuilt.float() - pictures.float()).square().mean()


def normal_divergence(mean: Tensor, log_variance: Tensor | None) -> Tensor:
    """Kullback-Leibler divergence from a standard normal, a mean over the latent's values.

    Without a variance of its own only the part that depends on the mean is left.
    """
    if log_variance is None:
        return 0.5 * mean.square().mean()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def signal_to_noise(rebuilt: Tensor, pictures: Tensor) -> Tensor:
    """PSNR in dB of each picture, `n`, as it would be shown: `n c h w` in [-1, 1], rounded to 8 bits."""
    shown = ((rebuilt.float().clamp(-1, 1) + 1) * 127.5).round()
    errors = (shown - (pictures.float() + 1) * 127.5).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(255**2 / errors.clamp(min=1e-6))


def _factors(levels: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    shaped = levels.to(like.device).reshape(-1, *[1] * (like.ndim - 1))
    return shaped.sqrt(), (1 - shaped).sqrt()
