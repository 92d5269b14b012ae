"""Between pictures, text and latents: what a loaded model's autoencoder and text encoder do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

from consisti2v_cli.errors import ConsistI2VError
from consisti2v_cli.weights.load import Model

if TYPE_CHECKING:
    from numpy.typing import NDArray

OnNotice = Callable[[str], None]  # a sentence for a person


def encode_text(model: Model, text: str, notice: OnNotice) -> Tensor:
    """The text condition, `1 tokens width`: the text encoder's last hidden state, padded to its full length.

    Text beyond the model's length is cut off, with a notice.
    """
    length = model.max_tokens
    whole = model.tokenizer(text, verbose=False).input_ids
    if len(whole) > length:
        lost = shorten(model.tokenizer.decode(whole[length - 1 : -1]), 80, placeholder=" ...")
        notice(f"The model reads {length - 2} tokens of text; cut off: {lost}")
    tokens = model.tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    hidden: Tensor = model.text_encoder(tokens.input_ids.to(model.device)).last_hidden_state
    return hidden


def encode_picture(model: Model, picture: NDArray[np.uint8], generator: Generator | None = None) -> Tensor:
    """A picture's latent, float32 on the CPU.

    Args:
        model: whose autoencoder encodes.
        picture: `h w 3`.
        generator: draws from the autoencoder's posterior, `1 c h w`; without one its mean is taken.

    Returns:
        `1 c 1 h w`.
    """
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1  # 1 3 h w
    posterior = model.vae.encode(pixels.to(model.device)).latent_dist
    latent: Tensor = posterior.mean.cpu()
    if generator is not None:
        latent = latent + posterior.std.cpu() * torch.randn(latent.shape, generator=generator)
    shift, scale = _latent_scale(model)
    return ((latent - shift) * scale)[:, :, None]


def encode_pictures(model: Model, pictures: Iterable[NDArray[np.uint8]]) -> Tensor:
    """Pictures `h w 3` -> the means of their latents, `1 c f h w`, float32 on the CPU."""
    return torch.cat([encode_picture(model, picture) for picture in pictures], dim=2)


def decode_frames(model: Model, latents: Tensor) -> Iterator[NDArray[np.uint8]]:
    """Latents `1 c f h w` -> frames `h w 3`, one at a time: the decoder needs far more memory than the latents.

    Raises:
        ConsistI2VError: a frame is not finite.
    """
    shift, scale = _latent_scale(model)
    for number, latent in enumerate(latents.unbind(2), start=1):
        pixels = model.vae.decode(latent.to(model.device) / scale + shift).sample[0]  # 3 h w
        if not torch.isfinite(pixels).all():
            raise ConsistI2VError(f"The decoder gave numbers that are not finite for frame {number}.")
        levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        yield levels.permute(1, 2, 0).cpu().numpy()


def _latent_scale(model: Model) -> tuple[float, float]:
    config = model.vae.config
    return config.get("shift_factor") or 0.0, config.scaling_factor
