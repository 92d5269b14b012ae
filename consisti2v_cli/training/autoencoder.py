"""Training the autoencoder: photos through diffusers' AutoencoderKL and back."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Generator, Tensor, nn

from consisti2v_cli.training.loop import Draw, Figures, Model, Part, autocast, seeded
from consisti2v_cli.training.objective import (
    charbonnier,
    normal_divergence,
    signal_to_noise,
    squared_error,
)
from consisti2v_cli.training.pca import start_from_components
from consisti2v_cli.training.pictures import grid
from consisti2v_cli.training.records import publishing
from consisti2v_cli.training.settings import AutoencoderSettings
from consisti2v_cli.weights.load import load_part

SHOWN = 8  # photos in a picture of samples


class Photos(Protocol):
    """Where photos come from; see `data.PhotoSource`."""

    def draw(self, batch: int, generator: Generator) -> Tensor:
        """`b 3 h w` in [-1, 1]."""


class Rebuild(nn.Module):
    """Encode, draw a latent, decode. `latent_noise` is its deviation; without one, what the encoder says."""

    def __init__(self, vae: AutoencoderKL, latent_noise: float | None = None) -> None:
        super().__init__()
        self.vae: Any = vae
        self.latent_noise = latent_noise

    def encoder_learns(self, learns: bool) -> None:
        """Whether the encoder is trained from now on."""
        for part in (self.vae.encoder, self.vae.quant_conv):
            part.requires_grad_(learns)

    def forward(self, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`b 3 h w` -> the rebuilt pictures, the latents' mean and logarithm of the variance.

        `noise` is standard normal, of the latents' shape.
        """
        posterior = self.vae.encode(pictures).latent_dist
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        deviation = (0.5 * log_variance).exp() if self.latent_noise is None else self.latent_noise
        return self.vae.decode(mean + deviation * noise).sample, mean, log_variance


class AutoencoderPart(Part):
    """The autoencoder as the loop sees it; it writes `vae/`."""

    name = "autoencoder"

    def __init__(
        self,
        settings: AutoencoderSettings,
        photos: Photos,
        folder: Path,
        device: torch.device,
        validation: Tensor | None = None,
        start: Path | None = None,
    ) -> None:
        """`validation`: photos that are not trained on, `n 3 h w`; `start`: a model folder to go on from."""
        torch.manual_seed(settings.seed)
        vae = load_part(start, "vae").requires_grad_(True) if start else AutoencoderKL(**settings.model)
        if settings.components_photos and not start:
            drawn = photos.draw(settings.components_photos, seeded(settings.seed, self.name, "components"))
            start_from_components(vae, drawn.cpu())
        self.settings, self.photos, self.folder, self.device = settings, photos, folder, device
        self.module = Rebuild(vae, settings.latent_noise)
        self.validation = None if validation is None else validation.to(device)

    def loss(self, model: Model, draw: Draw) -> tuple[Tensor, Figures]:
        """How far rebuilt photos are from the photos, and the latents from a standard normal."""
        settings, share = self.settings, draw.step / self.settings.steps
        pictures = self.photos.draw(settings.batch, draw.generator("photos")).to(self.device)
        if settings.tile and share < settings.tiled_until:
            pictures = _tiles(pictures, settings.tile)
        self.module.encoder_learns(share >= settings.encoder_from)
        noise = self._noise(pictures, draw.generator("latents", device=self.device))
        with autocast(self.device, settings.dtype, cached=not settings.compile):
            rebuilt, mean, log_variance = model(pictures, noise)
        distance = (squared_error if share >= settings.squared_from else charbonnier)(rebuilt, pictures)
        divergence = normal_divergence(mean, None if settings.latent_noise is not None else log_variance)
        figures = {"psnr": signal_to_noise(rebuilt.detach(), pictures).mean(), "divergence": divergence}
        return distance + settings.kl * divergence, figures

    def sample(self, step: int) -> tuple[dict[str, float], Image.Image | None]:
        """Photos above what became of them; PSNR mean and worst of the held-out photos where there are any."""
        shown = self.validation
        if shown is None:
            shown = self.photos.draw(SHOWN, seeded(self.settings.seed, self.name, "samples")).to(self.device)
        rebuilt = torch.cat([self._rebuild(photos) for photos in shown.split(16)])
        quality = signal_to_noise(rebuilt, shown)
        prefix = "training" if self.validation is None else "heldout"
        figures = {f"{prefix}_psnr": quality.mean().item(), f"{prefix}_psnr_worst": quality.min().item()}
        return figures, grid([shown[:SHOWN], rebuilt[:SHOWN]])

    def save(self) -> None:
        """Write `vae/`, the latents' mean, deviation and balance folded in."""
        vae = copy.deepcopy(self.module.vae)
        if self.settings.latent_noise is not None:
            fix_deviation(vae, self.settings.latent_noise)
        fold_statistics(vae, *self._statistics())
        if self.settings.balance:
            self._balance(vae)
        vae.register_to_config(scaling_factor=1.0)
        with publishing(self.folder / "vae") as folder:
            vae.save_pretrained(folder)

    def _noise(self, pictures: Tensor, generator: Generator) -> Tensor:
        """Standard normal, of the shape of the pictures' latents."""
        config = self.module.vae.config
        count, _, height, width = pictures.shape
        smaller = 2 ** (len(config.block_out_channels) - 1)
        shape = (count, config.latent_channels, height // smaller, width // smaller)
        return torch.randn(shape, generator=generator, device=self.device)

    def _rebuild(self, photos: Tensor) -> Tensor:
        vae = self.module.vae
        rebuilt: Tensor = vae.decode(vae.encode(photos).latent_dist.mean).sample
        return rebuilt

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each latent channel over photos that are the same every time."""
        values = torch.cat(list(self._latents(self.module.vae))).transpose(0, 1).flatten(1)
        return values.mean(dim=1), values.std(dim=1)

    def _latents(self, vae: AutoencoderKL) -> Iterator[Tensor]:
        for index in range(0, self.settings.statistics_photos, 16):
            photos = self.photos.draw(16, seeded(self.settings.seed, self.name, "statistics", index))
            yield vae.encode(photos.to(self.device)).latent_dist.mean.float()

    def _balance(self, vae: AutoencoderKL) -> None:
        """Give channels of deviation 1 deviations that grow with what the channel changes in the picture."""
        latents = next(self._latents(vae))
        weights = picture_weights(vae, latents) ** self.settings.balance
        deviation = weights / weights.square().mean().sqrt()
        fold_statistics(vae, torch.zeros_like(deviation), 1 / deviation)


def _tiles(pictures: Tensor, side: int) -> Tensor:
    """`b c h w` cut into squares, `(b rows columns) c side side`."""
    squares = pictures.unfold(2, side, side).unfold(3, side, side)
    return squares.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


@torch.no_grad()
def fix_deviation(vae: AutoencoderKL, deviation: float) -> None:
    """Make the encoder say the same deviation everywhere: that of the noise the decoder was trained with.

    Without it the log variance is what no loss has looked at, and drawing from the posterior would spoil the picture.
    """
    channels = vae.config.latent_channels
    vae.quant_conv.weight[channels:] = 0
    vae.quant_conv.bias[channels:] = 2 * math.log(deviation)


@torch.no_grad()
def picture_weights(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """How much a channel says of the picture, `c`: the deviation of the pixels where its latents `b c h w` are 0."""
    whole = vae.decode(latents).sample.float()
    errors = []
    for channel in range(latents.shape[1]):
        without = latents.clone()
        without[:, channel] = 0
        errors.append((vae.decode(without).sample.float() - whole).square().mean().sqrt())
    return torch.stack(errors)


@torch.no_grad()
def fold_statistics(vae: AutoencoderKL, mean: Tensor, deviation: Tensor) -> None:
    """Give each latent channel mean 0 and deviation 1 by changing the two 1x1 quant convolutions, and nothing else.

    Encoding then yields `(z - mean) / deviation`, its log variance lowered alike, and decoding that yields what
    decoding `z` did. `mean` and `deviation` are one value a channel, as measured on `z`.
    """
    encode, decode = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    encode.weight[:channels] /= deviation[:, None, None, None]
    encode.bias[:channels] = (encode.bias[:channels] - mean) / deviation
    encode.bias[channels:] -= 2 * deviation.log()
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= deviation[None, :, None, None]
