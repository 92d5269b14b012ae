"""The noise schedule, and the samplers that walk down it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

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


def _ddim(config: dict[str, Any]) -> SchedulerMixin:
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(config)


def _dpm_plus_plus(config: dict[str, Any]) -> SchedulerMixin:
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++")


SAMPLERS: dict[str, Callable[[dict[str, Any]], SchedulerMixin]] = {"ddim": _ddim, "dpm++": _dpm_plus_plus}
