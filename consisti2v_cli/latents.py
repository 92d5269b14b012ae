"""Between pictures, text and latents: what a loaded model's autoencoder and text encoder do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor

from consisti2v_cli.errors import ConsistI2VError
from consisti2v_cli.recipe import SIZE_STEP
from consisti2v_cli.weights.load import Model
from consisti2v_cli.weights.offload import OnNotice, in_less_memory, on_device, say_nothing, tiles_first, visit

if TYPE_CHECKING:
    from numpy.typing import NDArray


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

    def encode() -> Tensor:
        hidden: Tensor = on_device(model, "text_encoder")(tokens.input_ids.to(model.device)).last_hidden_state
        return hidden

    with visit(model, "text_encoder"):
        return in_less_memory(model, encode, notice)


def encode_picture(
    model: Model, picture: NDArray[np.uint8], generator: Generator | None = None, notice: OnNotice = say_nothing
) -> Tensor:
    """A picture's latent, float32 on the CPU.

    Args:
        model: whose autoencoder encodes.
        picture: `h w 3`.
        generator: draws from the autoencoder's posterior, `1 c h w`; without one its mean is taken.
        notice: hears where memory lacks.

    Returns:
        `1 c 1 h w`.
    """
    with visit(model, "vae"):
        return _encode(model, picture, generator, notice)


def _encode(model: Model, picture: NDArray[np.uint8], generator: Generator | None, notice: OnNotice) -> Tensor:
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1  # 1 3 h w

    def encode() -> Any:
        return on_device(model, "vae").encode(pixels.to(model.device)).latent_dist

    posterior = in_less_memory(model, encode, notice, step=partial(tiles_first, side=max(pixels.shape[2:])))
    latent: Tensor = posterior.mean.cpu()
    if generator is not None:
        latent = latent + posterior.std.cpu() * torch.randn(latent.shape, generator=generator)
    shift, scale = latent_scale(model.vae)
    return ((latent - shift) * scale)[:, :, None]


def encode_pictures(model: Model, pictures: Iterable[NDArray[np.uint8]], notice: OnNotice = say_nothing) -> Tensor:
    """Pictures `h w 3` -> the means of their latents, `1 c f h w`, float32 on the CPU."""
    with visit(model, "vae"):
        return torch.cat([_encode(model, picture, None, notice) for picture in pictures], dim=2)


def decode_frames(model: Model, latents: Tensor, notice: OnNotice = say_nothing) -> Iterator[NDArray[np.uint8]]:
    """Latents `1 c f h w` -> frames `h w 3`, one at a time: the decoder needs far more memory than the latents.

    Raises:
        ConsistI2VError: a frame is not finite.
    """
    step = partial(tiles_first, side=SIZE_STEP * max(latents.shape[3:]))
    with visit(model, "vae"):
        for number, latent in enumerate(latents.unbind(2), start=1):
            pixels = in_less_memory(model, partial(_decode, model, latent), notice, step=step)
            if not torch.isfinite(pixels).all():
                raise ConsistI2VError(f"The decoder gave numbers that are not finite for frame {number}.")
            levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            yield levels.permute(1, 2, 0).cpu().numpy()


def _decode(model: Model, latent: Tensor) -> Tensor:
    """A frame's latent `1 c h w` -> pixels `3 h w`, -1..1."""
    shift, scale = latent_scale(model.vae)
    pixels: Tensor = on_device(model, "vae").decode(latent.to(model.device) / scale + shift).sample[0]
    return pixels


def latent_scale(vae: Any) -> tuple[float, float]:
    """What is subtracted from an autoencoder's latents, and what they are then multiplied by, for the network."""
    config = vae.config
    return config.get("shift_factor") or 0.0, config.scaling_factor
