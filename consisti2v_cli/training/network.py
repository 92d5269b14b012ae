"""Training the video U-Net on clips (paper, 5.1 and A.2), alone or with the text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Generator, Tensor, nn
from transformers import CLIPTokenizer

from consisti2v_cli.diffusion import alphas_cumprod, draw_noise, frameinit_noise, low_pass_mask, make_scheduler, sample
from consisti2v_cli.errors import WeightsError
from consisti2v_cli.latents import latent_scale
from consisti2v_cli.model import UNetConfig, VideoUNet
from consisti2v_cli.training import objective
from consisti2v_cli.training.batch import ClipSource, send
from consisti2v_cli.training.loop import Draw, Figures, Model, Part, autocast, decay_groups, seeded
from consisti2v_cli.training.pictures import grid
from consisti2v_cli.training.records import keep, publishing, write_json
from consisti2v_cli.training.settings import NetworkSettings, Stage
from consisti2v_cli.training.text import BEFORE_NETWORK, save_text_encoder, tokenize
from consisti2v_cli.weights.load import load_part

CODED_AT_ONCE = 64  # frames through the autoencoder
SHOWN = 8  # frames of a sample clip that are shown
CHECKED = 8  # clips of the fixed batch that figures are measured on
CHECKED_AT = 850  # their timestep: the noise level at which motion is decided


@dataclass(frozen=True)
class Clips:
    """A batch as the network sees it."""

    latents: Tensor  # b c f h w
    captions: list[str]
    motions: list[str]
    strides: Tensor  # b


class TextToNoise(nn.Module):
    """Text encoder and U-Net as one module."""

    def __init__(self, unet: VideoUNet, text_encoder: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder: Any = text_encoder

    def forward(self, ids: Tensor, latents: Tensor, timesteps: Tensor, first_frame: Tensor, strides: Tensor) -> Tensor:
        """Predict frames 2..f: see `VideoUNet`; `ids` are tokens, `b tokens`."""
        text = self.text_encoder(ids).last_hidden_state
        predicted: Tensor = self.unet(latents, timesteps, text, first_frame=first_frame, frame_stride=strides)
        return predicted


class NetworkPart(Part):
    """The U-Net as the loop sees it.

    It writes `unet/`, `scheduler/`, `consisti2v.json`, and `text_encoder/` if that learns. The text encoder that it
    found is then kept in `training/network/start/`, so that starting again begins with the same weights; training the
    text again removes this copy. Whoever puts another `text_encoder/` there by hand removes it too.
    """

    name = "network"

    def __init__(
        self,
        settings: NetworkSettings,
        sources: Sequence[ClipSource],
        folder: Path,
        device: torch.device,
        *,
        about: dict[str, Any],
        validation: Tensor | None = None,
        start: Path | None = None,
    ) -> None:
        """Build or load what learns, and load what does not.

        Args:
            sources: of clips, one a stage.
            folder: the model folder, with `vae/`, `text_encoder/` and `tokenizer/` from the other parts.
            about: what `consisti2v.json` will say.
            validation: photos for the sample pictures, `n 3 h w`; first frames of clips otherwise.
            start: a model folder whose U-Net is trained further.

        Raises:
            WeightsError: the folder lacks a part, or one does not load.
        """
        torch.manual_seed(settings.seed)
        self.settings, self.sources, self.folder, self.device, self.about = settings, sources, folder, device, about
        for part in ("vae", "text_encoder", "tokenizer"):
            if not (folder / part).is_dir():
                raise WeightsError(f"{folder} has no {part}/ yet: train the autoencoder and the text first.")
        self.vae = load_part(folder, "vae", device=device)
        self.tokenizer: Any = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        text_encoder = self._load_text()
        unet = load_part(start, "unet").requires_grad_(True) if start else _fresh(settings)
        unet.gradient_checkpointing = settings.checkpointing
        unet.set_attention("math" if device.type == "cpu" else "sdpa")  # sdpa's backward pass is slow on the CPU
        self.module = TextToNoise(unet, text_encoder)
        self.levels = alphas_cumprod().to(device)
        self.photos = self._first_frames() if validation is None else validation
        self._encoded: dict[int, tuple[tuple[int, int], Clips]] = {}  # by batch of a step: the group and its clips

    def loss(self, model: Model, draw: Draw) -> tuple[Tensor, Figures]:
        """Error of the predicted noise or velocity of frames 2..f; stage, clips, noise all follow from the step."""
        settings = self.settings
        stage, started = self._stage(draw.step)
        clips = self._clips(draw, stage, started)
        generator = draw.generator("choices")
        timesteps = objective.draw_timesteps(
            len(clips.captions),
            generator,
            low=stage.timestep_low,
            high=stage.timestep_high,
            power=stage.timestep_power,
        )
        noise = self._noise(clips.latents, draw.generator("noise", device=self.device))
        captions = objective.drop_captions(clips.captions, settings.drop_text, generator)
        timesteps = send(timesteps, self.device)
        levels = self.levels[timesteps]
        weights = None
        if settings.snr_limit is not None:
            weights = objective.min_snr_weights(settings.prediction_type, levels, settings.snr_limit)
        noisy = objective.add_noise(clips.latents, noise, levels)
        first = objective.drop_images(clips.latents[:, :, :1], noisy[:, :, :1], settings.drop_image, generator)
        with autocast(self.device, settings.dtype, cached=not settings.compile):
            ids = send(tokenize(self.tokenizer, captions), self.device)
            predicted = model(ids, noisy[:, :, 1:], timesteps, first, clips.strides)
        wanted = objective.target(settings.prediction_type, clips.latents, noise, levels)[:, :, 1:]
        return objective.diffusion_loss(predicted, wanted, weights), {}

    def groups(self) -> list[dict[str, Any]]:
        settings = self.settings
        groups = decay_groups(self.module.unet, settings.weight_decay)
        if settings.joint_text:
            groups += decay_groups(self.module.text_encoder, settings.weight_decay, settings.text_rate)
        return groups

    def learning_rate(self, step: int) -> float:
        rate = self._stage(step)[0].learning_rate
        return self.settings.learning_rate if rate is None else rate

    @torch.no_grad()
    def constrain(self) -> None:
        """Keep the alphas within [0, 1], where they have gradients."""
        for alpha in _alphas(self.module.unet):
            alpha.clamp_(0, 1)

    def sample(self, step: int) -> tuple[dict[str, float], Image.Image | None]:
        """Figures on a fixed batch at high noise, and a clip for each of the configuration's prompts, one a row."""
        frames = self._stage(max(step - 1, 0))[0].frames
        with autocast(self.device, self.settings.dtype):
            figures = self._check(max(step - 1, 0))
            rows = [self._sample_clip(number, prompt, frames) for number, prompt in enumerate(self.settings.samples)]
        return figures, grid(rows) if rows else None

    def save(self) -> None:
        """Write what has been learned, and how to sample from it."""
        with publishing(self.folder / "unet") as place:
            weights = {name: tensor.contiguous() for name, tensor in self.module.unet.state_dict().items()}
            save_file(weights, place / "diffusion_pytorch_model.safetensors")
            write_json(place / "config.json", self.module.unet.config.to_dict())
        if self.settings.joint_text:
            keep(self.folder / "text_encoder", self.folder / BEFORE_NETWORK / "text_encoder")
            save_text_encoder(self.module.text_encoder, self.folder)
        with publishing(self.folder / "scheduler") as place:
            self._scheduler().save_pretrained(place)
        write_json(self.folder / "consisti2v.json", self.about)

    def _load_text(self) -> Any:
        """The text encoder that joint training began with, where it has begun; else the one that is there."""
        kept = self.folder / BEFORE_NETWORK
        began = self.settings.joint_text and (kept / "text_encoder").is_dir()
        return load_part(kept if began else self.folder, "text_encoder").requires_grad_(self.settings.joint_text)

    def _stage(self, step: int) -> tuple[Stage, int]:
        """The stage of a step, and the step at which it began."""
        stages, started = self.settings.stages(), 0
        for stage in stages[:-1]:
            if step < started + stage.steps:
                return stage, started
            started += stage.steps
        return stages[-1], started

    def _clips(self, draw: Draw, stage: Stage, started: int) -> Clips:
        """The clips of a step: the same for `reuse` steps in a row, encoded once."""
        group = (started, (draw.step - started) // self.settings.reuse)
        if draw.batch not in self._encoded or self._encoded[draw.batch][0] != group:
            named = (draw.seed, draw.part, "clips", *group, draw.process, draw.batch)
            clips = self._draw_clips(stage, stage.batch or self.settings.batch, named)
            self._encoded[draw.batch] = (group, clips)
        return self._encoded[draw.batch][1]

    def _draw_clips(self, stage: Stage, batch: int, named: tuple[str | int, ...]) -> Clips:
        """The clips that follow from `named`, and their latents."""
        source = self.sources[self.settings.stages().index(stage)]
        drawn = source.draw(batch, stage.frames, seeded(*named))
        latents = self._encode(drawn.frames, seeded(*named, "latents", device=self.device))
        return Clips(latents, drawn.captions, drawn.motions, drawn.strides)

    @torch.no_grad()
    def _encode(self, frames: Tensor, generator: Generator) -> Tensor:
        """`b f 3 h w` in [-1, 1] -> latents `b c f h w`, drawn by a generator on the device as the encoder says."""
        means, deviations = [], []
        with autocast(self.device, self.settings.dtype):
            for some in frames.to(self.device).flatten(0, 1).split(CODED_AT_ONCE):
                posterior = self.vae.encode(some).latent_dist
                means.append(posterior.mean.float())
                deviations.append(posterior.std.float())
        mean = torch.cat(means)
        noise = torch.randn(mean.shape, generator=generator, device=self.device)
        shift, scale = latent_scale(self.vae)
        latents = (mean + torch.cat(deviations) * noise - shift) * scale
        clips: Tensor = latents.unflatten(0, frames.shape[:2]).transpose(1, 2)
        return clips

    def _decode(self, latents: Tensor) -> Tensor:
        """`c f h w` -> `f 3 h w`."""
        shift, scale = latent_scale(self.vae)
        some = latents.transpose(0, 1) / scale + shift
        return torch.cat([self.vae.decode(part).sample.float() for part in some.split(CODED_AT_ONCE)])

    def _noise(self, latents: Tensor, generator: Generator) -> Tensor:
        batch, channels, frames, height, width = latents.shape
        correlation = self.settings.correlation
        return draw_noise(
            "mixed", frames, channels, height, width, generator=generator, correlation=correlation, batch=batch
        )

    def _scheduler(self) -> Any:
        return make_scheduler("ddim", {"prediction_type": self.settings.prediction_type})

    def _first_frames(self) -> Tensor:
        generator = seeded(self.settings.seed, self.name, "first frames")
        return self.sources[-1].draw(max(len(self.settings.samples), 1), 1, generator).frames[:, 0]

    def _check(self, step: int) -> dict[str, float]:
        """Does the text matter, and is the prediction better than a clip that stands still?

        `heard`: by what share the error grows when captions are swapped for those of other motions; missing where no
        clip has one to swap with. `moved`: the error as a share of that of the first frame, repeated. Measured at one
        high noise level.
        """
        stage, _ = self._stage(step)
        named = (self.settings.seed, self.name, "check", stage.frames)
        clips = self._draw_clips(stage, CHECKED, named)
        levels = self.levels[[CHECKED_AT] * CHECKED]
        noise = self._noise(clips.latents, seeded(*named, "noise", device=self.device))
        noisy = objective.add_noise(clips.latents, noise, levels)
        kind, first = self.settings.prediction_type, clips.latents[:, :, :1]

        def error(captions: list[str]) -> float:
            ids = tokenize(self.tokenizer, captions).to(self.device)
            timesteps = torch.full((CHECKED,), CHECKED_AT, device=self.device)
            predicted = self.module(ids, noisy[:, :, 1:], timesteps, first, clips.strides)
            clean = objective.predicted_clean(kind, predicted.float(), noisy[:, :, 1:], levels)
            return (clean - clips.latents[:, :, 1:]).square().mean().item()

        right, swapped = error(clips.captions), _swapped(clips)
        heard = {} if swapped == clips.captions else {"heard": error(swapped) / right - 1}
        still = (first - clips.latents[:, :, 1:]).square().mean().item()
        return {"check": right, **heard, "moved": right / max(still, 1e-9)}

    def _sample_clip(self, number: int, prompt: str, frames: int) -> Tensor:
        """Some frames of a clip of a validation photo, sampled as rendering does it: `n 3 h w`."""
        generator = seeded(self.settings.seed, self.name, "sample", number, device=self.device)
        photo = self.photos[number % len(self.photos)][None, None]
        z1 = self._encode(photo, generator)
        layout = z1.expand(-1, -1, frames, -1, -1)
        noise = self._noise(layout, generator)
        height, width = noise.shape[3:]
        strength, cutoff = self.about.get("layout_strength", 850), self.about.get("layout_cutoff", 0.25)
        mask = low_pass_mask("gaussian", frames, height, width, cutoff, cutoff)
        initial = frameinit_noise(noise, layout, strength, mask.to(self.device))
        ids = tokenize(self.tokenizer, [prompt, ""]).to(self.device)
        text, empty = self.module.text_encoder(ids).last_hidden_state.split(1)
        settings = self.settings
        clip = sample(
            self.module.unet,
            initial,
            z1,
            text,
            empty,
            steps=settings.sample_steps,
            guidance=settings.sample_guidance,
            scheduler=self._scheduler(),
        )
        chosen = torch.linspace(0, frames - 1, min(SHOWN, frames)).round().long()
        return self._decode(clip[0][:, chosen.to(self.device)])


def initialise(unet: VideoUNet, alpha: float) -> None:
    """Make a fresh network ready: temporal modules mixed in by `1 - alpha`, and an output of 0 everywhere."""
    with torch.no_grad():
        for mix in _alphas(unet):
            mix.fill_(alpha)
    nn.init.zeros_(unet.conv_out.weight)
    if unet.conv_out.bias is not None:
        nn.init.zeros_(unet.conv_out.bias)


def _fresh(settings: NetworkSettings) -> VideoUNet:
    unet = VideoUNet(UNetConfig.from_dict(settings.model))
    initialise(unet, settings.alpha)
    return unet


def _alphas(unet: nn.Module) -> list[nn.Parameter]:
    return [parameter for name, parameter in unet.named_parameters() if name.endswith("alpha")]


def _swapped(clips: Clips) -> list[str]:
    """For each clip the caption of the next one whose motion differs (its own where none does).

    Where motions are not known, any other caption counts as another motion.
    """
    count, kinds = len(clips.captions), clips.motions if any(clips.motions) else clips.captions
    swapped = []
    for index, kind in enumerate(kinds):
        others = [(index + far) % count for far in range(1, count) if kinds[(index + far) % count] != kind]
        swapped.append(clips.captions[others[0] if others else index])
    return swapped
