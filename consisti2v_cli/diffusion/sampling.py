"""From noise to a clip: the sampling loop, a function of any denoiser."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from .guidance import Guidance
from .schedule import make_scheduler, set_steps

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


class Denoiser(Protocol):
    """Predicts the noise of frames 2..f; `VideoUNet` is one."""

    def __call__(
        self, latents: Tensor, timestep: Any, text: Any, /, *, first_frame: Tensor, frame_stride: Any
    ) -> Tensor: ...


@runtime_checkable
class ProjectsText(Protocol):
    """A denoiser that can prepare the text condition once for all steps."""

    def project_text(self, text: Tensor) -> Any: ...


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    noise: Tensor,
    first_frame: Tensor,
    text: Tensor,
    negative_text: Tensor,
    *,
    steps: int,
    guidance: float,
    image_guidance: float = 1.0,
    guidance_rescale: float = 0.0,
    frame_stride: int = 3,
    scheduler: SchedulerMixin | None = None,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_estimate: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Denoise frames 2..f behind a clean first frame (paper, sections 3.1 and 3.5).

    Args:
        denoiser: called as a `VideoUNet`; its `project_text`, if it has one, is called once.
        noise: `b c f h w`, of unit variance for every sampler, after FrameInit; its first frame stands for "no image"
            in image guidance.
        first_frame: clean latent `z1`, `b c 1 h w`.
        text, negative_text: text conditions, `b tokens width`.
        steps: how many, 1..500, of lcm no more than it was distilled for (50). Those of ddim and euler-a are a whole
            number of timesteps apart, counted from the last (leading spacing), so that some counts begin well below
            999: 334 steps at 667.
        guidance, image_guidance, guidance_rescale: see `Guidance`.
        frame_stride: how much happens between frames, 1..5.
        scheduler: from `make_scheduler`; DDIM with the released settings by default.
        generator: for the samplers that draw noise on their way (euler-a, lcm): on the CPU, so that a seed means the
            same on every device; torch's own by default.
        on_step: called after each step with the steps done and the steps in all; what it raises ends the run.
        on_estimate: called after each step with the clean latents that it predicts, `b c f h w`, first frame included.

    Returns:
        `b c f h w`: the first frame as it was given, then the denoised ones.
    """
    guide = Guidance(guidance, image_guidance, guidance_rescale)
    scheduler = scheduler or make_scheduler("ddim")
    set_steps(scheduler, steps, noise.device)
    conditions: Any = guide.texts(text, negative_text)
    if isinstance(denoiser, ProjectsText):
        conditions = denoiser.project_text(conditions)
    no_image, latents = noise[:, :, :1], noise[:, :, 1:] * scheduler.init_noise_sigma
    first_frames = guide.first_frames(first_frame, no_image)
    draws = _draws(scheduler, generator or torch.default_generator)
    for done, timestep in enumerate(scheduler.timesteps, start=1):
        noisy = scheduler.scale_model_input(latents, timestep)
        inputs = noisy.repeat(guide.branches, 1, 1, 1, 1)
        predicted = guide.combine(
            denoiser(inputs, timestep, conditions, first_frame=first_frames, frame_stride=frame_stride)
        )
        latents = scheduler.step(predicted, timestep, latents, **draws).prev_sample
        if on_estimate:
            on_estimate(torch.cat([first_frame, _clean(scheduler, predicted, timestep, noisy)], dim=2))
        if on_step:
            on_step(done, steps)
    return torch.cat([first_frame, latents], dim=2)


def _draws(scheduler: SchedulerMixin, generator: torch.Generator) -> dict[str, torch.Generator]:
    """The generator as an argument of the scheduler's `step`, where it takes one."""
    return {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}


def _clean(scheduler: SchedulerMixin, predicted: Tensor, timestep: Tensor, noisy: Tensor) -> Tensor:
    """The clean latents that a prediction at a timestep stands for; `noisy` is what the network saw."""
    alpha: float = scheduler.alphas_cumprod[round(timestep.item())].item()
    signal, noise = alpha**0.5, (1 - alpha) ** 0.5
    is_v = scheduler.config.prediction_type == "v_prediction"
    clean: Tensor = signal * noisy - noise * predicted if is_v else (noisy - noise * predicted) / signal
    return clean
