"""The noise schedule, and the samplers that walk down it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

# The released model's (`model.md`, Sampling); a checkpoint's scheduler_config.json may hold others.
RELEASED_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": True,
}


def alphas_cumprod(config: Mapping[str, Any] | None = None) -> Tensor:
    """Cumulative products of `1 - beta`, float32, one value a training timestep; the released model's by default."""
    table: Tensor = make_scheduler("ddim", config).alphas_cumprod
    return table


def make_scheduler(name: str, config: Mapping[str, Any] | None = None) -> SchedulerMixin:
    """Make the diffusers scheduler of a sampler.

    Args:
        name: a key of `SAMPLERS` (KeyError otherwise).
        config: a checkpoint's `scheduler_config.json`; missing keys have the released model's values.
    """
    given = {key: value for key, value in (config or {}).items() if not key.startswith("_")}
    return SAMPLERS[name](RELEASED_SCHEDULE | given)


def set_steps(scheduler: SchedulerMixin, steps: int) -> None:
    """Choose the timesteps that a scheduler visits; they stay on the CPU, with the scheduler's other numbers.

    As diffusers does, but for one thing: leading spacing of the multistep solvers. There diffusers rounds the distance
    of two timesteps down to a whole number, so that 500 steps would begin at 501, where much of the clip should be
    there already, and 334 at 669. Here the timesteps themselves are rounded: they begin near the end of the schedule
    for any count.
    """
    scheduler.set_timesteps(steps)
    config = scheduler.config
    if config.timestep_spacing != "leading" or "solver_order" not in config:
        return
    behind = torch.arange(steps, 0, -1, dtype=torch.float64)  # how many steps are left, with the one to clean
    timesteps = (behind * config.num_train_timesteps / (steps + 1)).round().long() + config.steps_offset
    alphas = scheduler.alphas_cumprod[timesteps]
    scheduler.timesteps = timesteps
    scheduler.sigmas = torch.cat([((1 - alphas) / alphas).sqrt(), scheduler.sigmas[-1:]])


def _ddim(config: dict[str, Any]) -> SchedulerMixin:
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(config)


def _dpm_plus_plus(config: dict[str, Any]) -> SchedulerMixin:
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++")


def _unipc(config: dict[str, Any]) -> SchedulerMixin:
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler.from_config(config)


def _euler_ancestral(config: dict[str, Any]) -> SchedulerMixin:
    from diffusers import EulerAncestralDiscreteScheduler

    return EulerAncestralDiscreteScheduler.from_config(config)


def _lcm(config: dict[str, Any]) -> SchedulerMixin:
    """Only for networks distilled to it; its timesteps are those of the distillation, whatever the spacing."""
    from diffusers import LCMScheduler

    return LCMScheduler.from_config(config)


SAMPLERS: dict[str, Callable[[dict[str, Any]], SchedulerMixin]] = {
    "ddim": _ddim,
    "dpm++": _dpm_plus_plus,
    "unipc": _unipc,
    "euler-a": _euler_ancestral,
    "lcm": _lcm,
}
