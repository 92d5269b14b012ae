"""From noise to a clip: the sampling loop, a function of any denoiser."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property
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
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    frame_stride: int = 3,
    scheduler: SchedulerMixin | None = None,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_estimate: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Denoise frames 2..f behind a clean first frame (paper, sections 3.1 and 3.5).

    With the sampler ddim or dpm++ nothing in the loop waits for the device: the scheduler's numbers are the host's and
    go to the device with the work that is queued there, and the network's timesteps lie on the device beforehand.

    Args:
        denoiser: called as a `VideoUNet`; its `project_text`, if it has one, is called once. Where it says
            `shares_branches`, branches of guidance that differ in their text alone are given as texts alone.
        noise: `b c f h w`, of unit variance for every sampler, after FrameInit; its first frame stands for "no image"
            in image guidance.
        first_frame: clean latent `z1`, `b c 1 h w`.
        text, negative_text: text conditions, `b tokens width`.
        steps: how many, 1..500, of lcm no more than it was distilled for (50). Those of ddim and euler-a are a whole
            number of timesteps apart, counted from the last (leading spacing), so that some counts begin well below
            999: 334 steps at 667.
        guidance, image_guidance, guidance_rescale: see `Guidance`.
        guidance_interval: from which share of the steps to which there is guidance (after Kynkäänniemi et al.,
            "Applying guidance in a limited interval"); before and after, a step takes one prediction.
        frame_stride: how much happens between frames, 1..5.
        scheduler: from `make_scheduler`; DDIM with the released settings by default.
        generator: for the samplers that draw noise on their way (euler-a, lcm): on the CPU, so that a seed means the
            same on every device; torch's own by default.
        on_step: called after each step with the steps done and the steps in all; what it raises ends the run.
        on_estimate: called after each step with the clean latents that it predicts, `b c f h w`, first frame included.

    Returns:
        `b c f h w`: the first frame as it was given, then the denoised ones.
    """
    scheduler = scheduler or make_scheduler("ddim")
    set_steps(scheduler, steps)
    no_image, latents = noise[:, :, :1], noise[:, :, 1:] * scheduler.init_noise_sigma
    guide = Guidance(guidance, image_guidance, guidance_rescale)
    guided, alone = (
        _Branches(denoiser, some, text, negative_text, first_frame, no_image, frame_stride)
        for some in (guide, Guidance(text=1.0))
    )
    draws = _draws(scheduler, generator or torch.default_generator)
    on_device = scheduler.timesteps.to(noise.device)
    begin, end = (round(share * steps, 6) for share in guidance_interval)  # 0.58 * 50 is a little less than 29
    for done, timestep in enumerate(scheduler.timesteps, start=1):
        noisy = scheduler.scale_model_input(latents, timestep)
        predict = guided if begin < done <= end else alone
        predicted = predict(noisy, on_device[done - 1])
        latents = scheduler.step(predicted, timestep, latents, **draws).prev_sample
        if on_estimate:
            on_estimate(torch.cat([first_frame, _clean(scheduler, predicted, timestep, noisy)], dim=2))
        if on_step:
            on_step(done, steps)
    return torch.cat([first_frame, latents], dim=2)


class _Branches:
    """The guided prediction of a step: what its branches are conditioned on is prepared when they are first needed."""

    def __init__(
        self,
        denoiser: Denoiser,
        guide: Guidance,
        text: Tensor,
        negative_text: Tensor,
        first_frame: Tensor,
        no_image: Tensor,
        frame_stride: int,
    ) -> None:
        self.denoiser = denoiser
        self.guide = guide
        self.texts = guide.texts(text, negative_text)
        shares = getattr(denoiser, "shares_branches", False) and not guide.by_image
        self.copies = 1 if shares else guide.branches  # of what the branches have in common
        self.first_frames = first_frame if shares else guide.first_frames(first_frame, no_image)
        self.stride = torch.tensor(frame_stride, device=first_frame.device)

    @cached_property
    def conditions(self) -> Any:
        return self.denoiser.project_text(self.texts) if isinstance(self.denoiser, ProjectsText) else self.texts

    def __call__(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        """`b c f-1 h w` -> the same."""
        inputs = noisy.repeat(self.copies, 1, 1, 1, 1)
        predictions = self.denoiser(
            inputs, timestep, self.conditions, first_frame=self.first_frames, frame_stride=self.stride
        )
        return self.guide.combine(predictions)


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
