"""From a recipe and a photo to frames: the one place that knows the order of the steps."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import consisti2v_cli
from consisti2v_cli.diffusion import (
    Guidance,
    alphas_cumprod,
    draw_noise,
    frameinit_noise,
    low_pass_mask,
    make_scheduler,
    sample,
)
from consisti2v_cli.errors import ConsistI2VError, RequestError, lacks_memory
from consisti2v_cli.media.image import fit_image, parse_colour, read_image, read_size
from consisti2v_cli.media.video import encode_video, write_video
from consisti2v_cli.recipe import Recipe, check, to_json
from consisti2v_cli.weights import ModelFolder, ModelSettings, choose, read_settings, require
from consisti2v_cli.weights.devices import choose_device, choose_dtype
from consisti2v_cli.weights.folder import vae_factor
from consisti2v_cli.weights.load import DTYPES, Model, load_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOADING, STEPS, DECODING = "loading", "steps", "decoding"  # the stages that `on_event` hears of

Image = Path | str | bytes  # a file, or a file's content
OnEvent = Callable[
    [str, int, int], None
]  # stage, how much of it is done, how much there is; what it raises ends the run
OnNotice = Callable[[str], None]  # a sentence for a person

MASK = "gaussian"  # FrameInit's filter


@dataclass(frozen=True)
class Clip:
    """A finished clip and how it was made."""

    frames: NDArray[np.uint8]  # f h w 3
    recipe: Recipe  # with everything resolved

    def save(
        self, path: Path | str, *, overwrite: bool = False, format: str | None = None, metadata: bool = True
    ) -> Path:
        """Write the clip, by default in the format of the path's suffix, with its recipe inside.

        Raises:
            RequestError: unknown format.
            TakenError: the file exists and `overwrite` is not set.
        """
        comment = to_json(self.recipe) if metadata else None
        return write_video(path, self.frames, self.recipe.fps, format=format, comment=comment, overwrite=overwrite)

    def encode(self, format: str, *, metadata: bool = True) -> bytes:
        """The bytes of the file that `save` would write."""
        comment = to_json(self.recipe) if metadata else None
        return encode_video(self.frames, self.recipe.fps, format, comment=comment)


def animate(
    image: Image,
    prompt: str,
    *,
    seed: int | None = None,
    model: str | Model | None = None,
    device: str = "auto",
    dtype: str = "auto",
    on_event: OnEvent | None = None,
    on_notice: OnNotice | None = None,
    **options: Any,
) -> Clip:
    """Animate a photo.

    Args:
        image: a file, or a file's content.
        prompt: what happens.
        seed: of all noise; random by default, and in the clip's recipe.
        model: a name, hub repository, folder, or a loaded `Model`; by default the released model if its weights
            are on this machine, else the bundled one.
        device, dtype: as on the command line; those of a loaded model win.
        on_event, on_notice: see `render`.
        options: any other field of `Recipe`; those not given have the model's own defaults.

    Raises:
        RequestError, WeightsError, ConsistI2VError: see `render`.
    """
    loaded = model if isinstance(model, Model) else None
    folder = loaded.folder if loaded else require(str(model) if model else choose(), options.get("revision"))
    place = str(loaded.device) if loaded else choose_device(device)
    defaults = asdict(read_settings(folder))
    del defaults["native_size"]
    asked = {
        "prompt": prompt,
        "seed": secrets.randbelow(2**32) if seed is None else seed,
        "model": str(model) if model and not loaded else folder.name,
        "device": place,
        "dtype": choose_dtype(dtype, place),
    }
    possible = [entry.name for entry in fields(Recipe)]
    if unknown := sorted(options.keys() - set(possible)):
        raise RequestError(f"Unknown option {unknown[0]!r}; possible: {', '.join(possible)}.")
    recipe = Recipe(**(defaults | options | asked))
    return render(recipe, image, model=loaded, on_event=on_event, on_notice=on_notice)


def render(
    recipe: Recipe,
    image: Image,
    *,
    model: Model | None = None,
    on_event: OnEvent | None = None,
    on_notice: OnNotice | None = None,
) -> Clip:
    """Make the clip of a recipe. The same recipe gives the same frames, bit for bit, on one machine and device.

    Random numbers come from one generator on the CPU, seeded by the recipe and drawn in this order: the autoencoder's
    (`1 c h w`), then the noise of the frames (`draw_noise`). So a seed means the same on every device.

    Args:
        recipe: what to make; see `resolve` for what may be left open.
        image: a file, or a file's content.
        model: loaded for several clips; by default the recipe's own is loaded.
        on_event: called with the stage (`LOADING`, `STEPS`, `DECODING`), how much of it is done, and how much there is.
        on_notice: called with a sentence about anything out of the ordinary, such as a prompt that is too long.

    Raises:
        RequestError: a value that cannot be rendered, an unreadable image.
        WeightsError: weights missing or damaged.
        ConsistI2VError: out of memory, or the result is not finite.
    """
    event, notice = on_event or _ignore, on_notice or _ignore
    folder = model.folder if model else require(recipe.model, recipe.revision)
    recipe = resolve(recipe, image, folder)
    photo = read_image(image, background=recipe.background, name=recipe.input_name)
    if model is None:
        choose_device(recipe.device)
        model = load_model(folder, device=recipe.device, dtype=recipe.dtype, attention=recipe.attention, on_part=event)
    recipe = _as_loaded(recipe, model)
    with torch.no_grad(), _steady(), _memory_in_words(recipe):
        frames = _decode(model, _denoise(recipe, photo, model, event, notice), event)
    return Clip(frames, recipe)


def resolve(recipe: Recipe, image: Image, folder: ModelFolder) -> Recipe:
    """Settle what depends on image and model, and check everything. Reads headers only, and hashes the image.

    Width and height, where both are open, cover the model's native area in the image's own aspect. The input's name
    and hash are filled in; the model's name becomes one without folders, and gets its revision.

    Raises:
        RequestError: a value that cannot be rendered, an unreadable image.
        WeightsError: the model's settings are damaged.
    """
    if not isinstance(image, (str, Path, bytes)):
        raise RequestError(f"An image is a path or the bytes of a file, not {type(image).__name__}.")
    width, height = recipe.width, recipe.height
    if (width is None) != (height is None):
        raise RequestError("Width and height are given together or not at all.")
    name = recipe.input_name or ("image" if isinstance(image, bytes) else Path(image).name)
    size = read_size(image, name=name)
    if width is None or height is None:
        width, height = native_size(*size, read_settings(folder))
    factor = vae_factor(folder)
    if width % factor or height % factor:
        raise RequestError(f"The size is {width}x{height}; possible for this model: multiples of {factor}.")
    parse_colour(recipe.background)
    recipe = replace(
        recipe,
        width=width,
        height=height,
        input_name=name,
        input_sha256=_sha256(image),
        model=folder.name,
        revision=folder.revision,
    )
    check(recipe)
    return recipe


def native_size(width: int, height: int, settings: ModelSettings) -> tuple[int, int]:
    """The model's native area in an image's aspect, sides rounded to 32 pixels, or to 16 for small models."""
    step = 32 if settings.native_size >= 256 else 16
    stretch = (width / height) ** 0.5
    sides = (settings.native_size * stretch, settings.native_size / stretch)
    return (max(step, round(sides[0] / step) * step), max(step, round(sides[1] / step) * step))


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


class _Border:
    """The network in its own precision behind a border of float32: the sampler adds up small steps."""

    def __init__(self, model: Model) -> None:
        self.unet = model.unet
        self.dtype = model.dtype

    def __call__(
        self, latents: Tensor, timestep: Any, text: Any, /, *, first_frame: Tensor, frame_stride: Any
    ) -> Tensor:
        predicted: Tensor = self.unet(
            latents.to(self.dtype), timestep, text, first_frame=first_frame.to(self.dtype), frame_stride=frame_stride
        )
        return predicted.float()

    def project_text(self, text: Tensor) -> Any:
        return self.unet.project_text(text)


def _denoise(recipe: Recipe, photo: NDArray[np.uint8], model: Model, event: OnEvent, notice: OnNotice) -> Tensor:
    """The clip's latents, `1 c f h w`, float32."""
    generator = torch.Generator().manual_seed(recipe.seed)
    z1 = _encode(recipe, photo, model, generator)
    noise = _initial_noise(recipe, z1, model, generator)
    text = encode_text(model, recipe.prompt, notice)
    negative = encode_text(model, recipe.negative, notice) if _guide(recipe).branches > 1 else text
    event(STEPS, 0, recipe.steps)
    latents = sample(
        _Border(model),
        noise.to(model.device),
        z1.to(model.device),
        text,
        negative,
        steps=recipe.steps,
        guidance=recipe.guidance,
        image_guidance=recipe.image_guidance,
        guidance_rescale=recipe.guidance_rescale,
        frame_stride=recipe.motion,
        scheduler=make_scheduler(recipe.sampler, model.scheduler_config),
        on_step=lambda done, total: event(STEPS, done, total),
    )
    if not torch.isfinite(latents).all():
        raise ConsistI2VError(f"The network gave numbers that are not finite in {recipe.dtype}; try --dtype fp32.")
    return latents


def _encode(recipe: Recipe, photo: NDArray[np.uint8], model: Model, generator: torch.Generator) -> Tensor:
    """The photo's latent `z1`, `1 c 1 h w`, float32 on the CPU: a draw from the autoencoder's posterior."""
    width, height = _sides(recipe)
    fitted = fit_image(photo, width, height, recipe.fit, background=recipe.background)
    pixels = torch.from_numpy(fitted).permute(2, 0, 1)[None].float() / 127.5 - 1  # 1 3 h w
    posterior = model.vae.encode(pixels.to(model.device)).latent_dist
    mean, std = posterior.mean.cpu(), posterior.std.cpu()
    latent = mean + std * torch.randn(mean.shape, generator=generator)
    shift, scale = _latent_scale(model)
    z1: Tensor = (latent - shift) * scale
    return z1[:, :, None]


def _initial_noise(recipe: Recipe, z1: Tensor, model: Model, generator: torch.Generator) -> Tensor:
    """The noise that sampling begins from, `1 c f h w`, on the CPU; its low frequencies are the still photo's."""
    _, channels, _, height, width = z1.shape
    noise = draw_noise(
        recipe.noise,
        recipe.frames,
        channels,
        height,
        width,
        generator=generator,
        correlation=recipe.noise_correlation,
    )
    if not recipe.frameinit:
        return noise
    z0 = z1.expand_as(noise)
    mask = low_pass_mask(MASK, recipe.frames, height, width, recipe.layout_cutoff, recipe.layout_cutoff)
    return frameinit_noise(noise, z0, recipe.layout_strength, mask, alphas=alphas_cumprod(model.scheduler_config))


def _decode(model: Model, latents: Tensor, event: OnEvent) -> NDArray[np.uint8]:
    """Latents `1 c f h w` -> frames `f h w 3`, one at a time: the decoder needs far more memory than the latents."""
    shift, scale = _latent_scale(model)
    frames = []
    total = latents.shape[2]
    for done, latent in enumerate(latents.unbind(2)):
        event(DECODING, done, total)
        pixels = model.vae.decode(latent / scale + shift).sample[0]  # 3 h w
        if not torch.isfinite(pixels).all():
            raise ConsistI2VError(f"The decoder gave numbers that are not finite for frame {done + 1}.")
        levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        frames.append(levels.permute(1, 2, 0).cpu().numpy())
    event(DECODING, total, total)
    return np.stack(frames)


def _latent_scale(model: Model) -> tuple[float, float]:
    config = model.vae.config
    return config.get("shift_factor") or 0.0, config.scaling_factor


def _as_loaded(recipe: Recipe, model: Model) -> Recipe:
    """The recipe with what a loaded model decides, and with the versions of what runs."""
    dtype = next(name for name, kind in DTYPES.items() if kind == model.dtype)
    return replace(recipe, device=str(model.device), dtype=dtype, attention=model.attention, versions=_versions())


def _guide(recipe: Recipe) -> Guidance:
    return Guidance(recipe.guidance, recipe.image_guidance, recipe.guidance_rescale)


def _sides(recipe: Recipe) -> tuple[int, int]:
    """Width and height of a resolved recipe."""
    if recipe.width is None or recipe.height is None:
        raise ValueError("the recipe's size is not resolved")
    return recipe.width, recipe.height


def _versions() -> dict[str, str]:
    libraries = {package: version(package) for package in ("torch", "diffusers", "transformers")}
    return {"consisti2v": consisti2v_cli.__version__, **libraries}


def _sha256(image: Image) -> str:
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    with Path(image).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _steady() -> Iterator[None]:
    """Only algorithms of cuDNN that give the same result each time."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield


@contextmanager
def _memory_in_words(recipe: Recipe) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        half = "bf16" if recipe.device == "cpu" else "fp16"  # CPUs gain nothing from fp16
        advice = f"a smaller --size, fewer --frames, or --dtype {half}"
        raise ConsistI2VError(
            f"Not enough memory on {recipe.device} for {recipe.frames} frames of {recipe.width}x{recipe.height}; "
            f"try {advice if recipe.dtype == 'fp32' else 'a smaller --size or fewer --frames'}."
        ) from error


def _ignore(*_: object) -> None:
    pass
