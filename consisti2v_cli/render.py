"""From a recipe and a photo to frames: the one place that knows the order of the steps."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from consisti2v_cli.budget import choose_plan
from consisti2v_cli.clip import Clip
from consisti2v_cli.denoiser import ClipDenoiser
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
from consisti2v_cli.latents import decode_frames, encode_picture, encode_pictures, encode_text
from consisti2v_cli.layout import camera_frames, first_picture, layout_clip
from consisti2v_cli.media.image import read_image
from consisti2v_cli.media.preview import fit_colours, paint
from consisti2v_cli.recipe import CAMERA, Recipe
from consisti2v_cli.resolve import Source, model_defaults, resolve
from consisti2v_cli.version import __version__
from consisti2v_cli.weights import ModelFolder, choose, require
from consisti2v_cli.weights.devices import choose_device, choose_dtype
from consisti2v_cli.weights.load import DTYPES, Model, load_model
from consisti2v_cli.weights.offload import OnNotice, hold_to, say_nothing

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOADING, STEPS, DECODING = "loading", "steps", "decoding"  # the stages that `on_event` hears of

# Stage, how much of it is done, how much there is; what it raises ends the run.
OnEvent = Callable[[str, int, int], None]
OnPreview = Callable[["NDArray[np.uint8]"], None]  # small frames f h w 3, as far as they are made

MASK = "gaussian"  # FrameInit's filter


def animate(
    image: Source,
    prompt: str,
    *,
    seed: int | None = None,
    model: str | Model | None = None,
    device: str = "auto",
    dtype: str = "auto",
    vram: float | None = None,
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
        vram, on_event, on_notice: see `render`.
        options: any other field of `Recipe`; those not given have the model's own defaults.

    Raises:
        RequestError, WeightsError, ConsistI2VError: see `render`.
    """
    loaded = model if isinstance(model, Model) else None
    folder = loaded.folder if loaded else require(str(model) if model else choose(), options.get("revision"))
    place = str(loaded.device) if loaded else choose_device(device)
    defaults = model_defaults(folder, options.get("command", "animate"))
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
    return render(recipe, image, model=loaded, vram=vram, on_event=on_event, on_notice=on_notice)


def render(
    recipe: Recipe,
    image: Source,
    *,
    model: Model | None = None,
    vram: float | None = None,
    on_event: OnEvent | None = None,
    on_notice: OnNotice | None = None,
    on_preview: OnPreview | None = None,
) -> Clip:
    """Make the clip of a recipe. The same recipe gives the same frames, bit for bit, on one machine and device.

    Random numbers come from one generator on the CPU, seeded by the recipe and drawn in this order: the autoencoder's
    (`1 c h w`), then the noise of the frames (`draw_noise`). So a seed means the same on every device.

    Args:
        recipe: what to make; see `resolve` for what may be left open.
        image: a file, or a file's content.
        model: loaded for several clips; by default the recipe's own is loaded.
        vram: a memory budget in GiB for the model that is loaded; by default most of a graphics card's.
        on_event: called with the stage (`LOADING`, `STEPS`, `DECODING`), how much of it is done, and how much there is.
        on_notice: called with a sentence about anything out of the ordinary, such as a prompt that is too long.
        on_preview: called after each step with small frames `f h w 3` of what it predicts, as large as the latents.

    Raises:
        RequestError: a value that cannot be rendered, an unreadable image.
        WeightsError: weights missing or damaged.
        ConsistI2VError: out of memory, or the result is not finite.
    """
    if recipe.command == "extend":
        raise RequestError("A recipe of extend makes a film, not a clip: render it with consisti2v_cli.chunks.")
    event, notice = on_event or _ignore, on_notice or _ignore
    folder = model.folder if model else require(recipe.model, recipe.revision)
    recipe = resolve(recipe, image, folder)
    if recipe.layout_only:
        return layout_clip(recipe, image)
    photo = read_image(image, background=recipe.background, name=recipe.input_name)
    if model is None:
        model = load_for(recipe, folder, (photo.shape[1], photo.shape[0]), vram=vram, on_part=event)
    recipe = as_loaded(recipe, model)
    with running(recipe):
        latents = _latents(recipe, photo, model, event, notice, on_preview)
        return Clip(decode(model, latents, event, notice), recipe, latents[0].cpu().numpy())


def load_for(
    recipe: Recipe, folder: ModelFolder, size: tuple[int, int], *, vram: float | None, on_part: OnEvent
) -> Model:
    """Load a resolved recipe's model, by the plan that its memory asks for.

    Args:
        recipe: whose clip is to be made.
        folder: the model's.
        size: the photo's width and height.
        vram: a memory budget in GiB; see `choose_plan`.
        on_part: as of `load_model`.

    Raises:
        RequestError, WeightsError: as `load_model`; a device that this machine lacks.
    """
    choose_device(recipe.device)
    plan, _ = choose_plan(recipe, folder, size, vram)
    hold_to(recipe.device, vram)
    chosen: dict[str, Any] = {name: getattr(recipe, name) for name in ("device", "dtype", "attention", "compile")}
    return load_model(folder, **chosen, plan=plan, on_part=on_part)


def denoise(
    recipe: Recipe,
    model: Model,
    z1: Tensor,
    texts: tuple[Tensor, Tensor],
    generator: torch.Generator,
    *,
    layout: Tensor | None = None,
    on_event: OnEvent,
    on_notice: OnNotice = say_nothing,
    on_estimate: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """One clip's latents behind its first frame (paper, sections 3.1 and 3.5).

    Args:
        recipe: resolved.
        z1: the first frame's latent, `1 c 1 h w`.
        texts: the conditions of prompt and negative prompt, each `1 tokens width`.
        generator: on the CPU; draws the noise.
        layout: the layout video's latents, `1 c f h w`; by default the first frame's, repeated.
        on_event: called with `STEPS`, the steps done and the steps in all.
        on_notice: hears where memory lacks, and what is done then.
        on_estimate: called after each step with the clean latents that it predicts, `1 c f h w`.

    Returns:
        `1 c f h w`, float32, on the model's device.

    Raises:
        ConsistI2VError: the result is not finite.
    """
    noise = _initial_noise(recipe, z1 if layout is None else layout, model, generator)
    on_event(STEPS, 0, recipe.steps)
    latents = sample(
        ClipDenoiser(model, recipe.reuse, on_notice),
        noise.to(model.device),
        z1.to(model.device),
        *texts,
        steps=recipe.steps,
        guidance=recipe.guidance,
        image_guidance=recipe.image_guidance,
        guidance_rescale=recipe.guidance_rescale,
        guidance_interval=(recipe.guidance_begin, recipe.guidance_end),
        frame_stride=recipe.motion,
        scheduler=make_scheduler(recipe.sampler, model.scheduler_config),
        generator=generator,
        on_step=lambda done, total: on_event(STEPS, done, total),
        on_estimate=on_estimate,
    )
    if not torch.isfinite(latents).all():
        raise ConsistI2VError(f"The network gave numbers that are not finite in {recipe.dtype}; try --dtype fp32.")
    return latents


def encode_prompts(recipe: Recipe, model: Model, notice: OnNotice, prompt: str | None = None) -> tuple[Tensor, Tensor]:
    """The text conditions of a prompt, by default the recipe's, and of its negative prompt where anything guides."""
    text = encode_text(model, recipe.prompt if prompt is None else prompt, notice)
    guide = Guidance(recipe.guidance, recipe.image_guidance, recipe.guidance_rescale)
    return text, encode_text(model, recipe.negative, notice) if guide.branches > 1 else text


def _initial_noise(recipe: Recipe, layout: Tensor, model: Model, generator: torch.Generator) -> Tensor:
    """The noise that sampling begins from, `1 c f h w`, on the CPU; its low frequencies are the layout's."""
    _, channels, _, height, width = layout.shape
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
    mask = low_pass_mask(MASK, recipe.frames, height, width, recipe.layout_cutoff, recipe.layout_cutoff)
    z0 = layout.expand_as(noise)
    return frameinit_noise(noise, z0, recipe.layout_strength, mask, alphas=alphas_cumprod(model.scheduler_config))


def _latents(
    recipe: Recipe,
    photo: NDArray[np.uint8],
    model: Model,
    event: OnEvent,
    notice: OnNotice,
    on_preview: OnPreview | None,
) -> Tensor:
    """The latents of a clip that begins from a photo, `1 c f h w`."""
    generator = torch.Generator().manual_seed(recipe.seed)
    pictures = camera_frames(recipe, photo) if recipe.command in CAMERA else first_picture(recipe, photo)[None]
    z1 = encode_picture(model, pictures[0], generator, notice)
    layout = torch.cat([z1, encode_pictures(model, pictures[1:], notice)], dim=2) if len(pictures) > 1 else None
    texts = encode_prompts(recipe, model, notice)
    estimate = painter(z1, pictures[0], on_preview) if on_preview else None
    return denoise(
        recipe, model, z1, texts, generator, layout=layout, on_event=event, on_notice=notice, on_estimate=estimate
    )


def painter(z1: Tensor, picture: NDArray[np.uint8], on_preview: OnPreview) -> Callable[[Tensor], None]:
    """Turns latents `1 c f h w` into small frames, in the colours that the first picture has, for `on_preview`."""
    colours = fit_colours(z1[0, :, 0].numpy(), picture)
    return lambda latents: on_preview(paint(latents[0].float().cpu().numpy(), colours))


def decode(model: Model, latents: Tensor, event: OnEvent, notice: OnNotice = say_nothing) -> NDArray[np.uint8]:
    """Latents `1 c f h w` -> frames `f h w 3`; `event` hears of `DECODING`."""
    total = latents.shape[2]
    event(DECODING, 0, total)
    frames = []
    for done, frame in enumerate(decode_frames(model, latents, notice), start=1):
        frames.append(frame)
        event(DECODING, done, total)
    return np.stack(frames)


def as_loaded(recipe: Recipe, model: Model) -> Recipe:
    """The recipe with what a loaded model decides, and with the versions of what runs."""
    dtype = next(name for name, kind in DTYPES.items() if kind == model.dtype)
    return replace(
        recipe,
        device=str(model.device),
        dtype=dtype,
        attention=model.attention,
        compile=model.compiled,
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    libraries = {package: version(package) for package in ("torch", "diffusers", "transformers")}
    return {"consisti2v": __version__, **libraries}


@contextmanager
def running(recipe: Recipe) -> Iterator[None]:
    """What the network needs around it: no gradients, steady algorithms, and a lack of memory said in words."""
    with torch.no_grad(), _steady(), _memory_in_words(recipe):
        yield


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
