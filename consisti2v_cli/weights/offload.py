"""Where a model's parts lie and how they compute, as its memory plan says; and the next plan where memory lacks."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch

from consisti2v_cli.errors import lacks_memory
from consisti2v_cli.plans import TILE, MemoryPlan, next_plan

from .loaded import Model

T = TypeVar("T")
OnNotice = Callable[[str], None]  # a sentence for a person

GUESTS = ("text_encoder", "vae")  # the parts that are used before and after the network


def arrange(model: Model) -> None:
    """Put a model's parts where its plan wants them, and have them compute as it says."""
    plan = model.plan
    model.unet.set_feed_forward_chunks(plan.feed_forward_chunks)
    model.vae.use_tiling = plan.tiled
    model.vae.tile_sample_min_size = TILE
    model.vae.tile_latent_min_size = TILE // 2 ** (len(model.vae.config.block_out_channels) - 1)
    if plan.parts_apart:
        for part in GUESTS:
            getattr(model, part).to("cpu")
    if plan.streamed and not _is_streamed(model):
        _stream(model)


def hold_to(device: str, vram: float | None) -> None:
    """Have torch take no more of a graphics card than a budget in GiB, so that what does not fit is noticed.

    `vram`: None for all of it.
    """
    if device.partition(":")[0] == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
        share = 1.0 if vram is None else min(1.0, vram * 2**30 / there)
        torch.cuda.set_per_process_memory_fraction(share, torch.device(device).index)


def on_device(model: Model, part: str) -> Any:
    """The text encoder or the autoencoder, called to the model's device where it waited elsewhere."""
    return getattr(model, part).to(model.device)


@contextmanager
def visit(model: Model, part: str) -> Iterator[None]:
    """Around what a part is called to the device for: then it goes back to where it waits."""
    try:
        yield
    finally:
        if model.plan.parts_apart:
            getattr(model, part).to("cpu")
            _empty_cache(model.device)


def in_less_memory(
    model: Model, work: Callable[[], T], notice: OnNotice, *, step: Callable[[Model], MemoryPlan | None] | None = None
) -> T:
    """Do something; where memory lacks, do it again as the model's next smaller plan says, and stay with that.

    Args:
        model: whose plan changes.
        work: done from its beginning each time.
        notice: hears of each change.
        step: the plan that comes next, None where there is none; by default the network's.

    Raises:
        RuntimeError, MemoryError: torch's own, where the smallest plan lacks memory too.
    """
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            smaller = (step or _smaller)(model) if lacks_memory(error) else None
            if smaller is None:
                raise
        # Not before here: until then, the error keeps all that was computed.
        model.plan = smaller
        arrange(model)
        make_room(model.device)
        notice(f"Not enough memory on {model.device}; going on in less, and more slowly: {smaller}.")


def make_room(device: torch.device) -> None:
    """Give back the memory of what is no longer used, be it in a cycle, or kept by torch for later tensors."""
    gc.collect()
    _empty_cache(device)


def say_nothing(sentence: str) -> None:
    """Stands for whoever would hear of a notice."""


def tiles_first(model: Model, side: int) -> MemoryPlan | None:
    """The plan after one with which the autoencoder lacked memory; `side`: the picture's longer one, in pixels.

    Of the network's plans only those help that move its weights, or the autoencoder's.
    """
    if side > TILE and not model.plan.tiled:  # a smaller one is a tile by itself
        return replace(model.plan, tiled=True)
    plan = _smaller(model)
    while plan and (plan.parts_apart, plan.streamed) == (model.plan.parts_apart, model.plan.streamed):
        plan = next_plan(plan, str(model.device))
    return plan


def _smaller(model: Model) -> MemoryPlan | None:
    return next_plan(model.plan, str(model.device))


def _is_streamed(model: Model) -> bool:
    return any(hasattr(module, "_diffusers_hook") for module in model.unet.modules())


def _stream(model: Model) -> None:
    """Let the network's weights lie on the CPU; each layer's come when it is computed, those of the next meanwhile."""
    from diffusers.hooks import apply_group_offloading

    # It warns of layers that are not used at each step: those that project the text.
    logging.getLogger("diffusers.hooks.group_offloading").setLevel(logging.ERROR)
    model.unet._compiled_call_impl = None  # what is compiled would not stay so where weights come and go
    model.unet.to("cpu")
    _empty_cache(model.device)
    apply_group_offloading(
        model.unet,
        onload_device=model.device,
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
        use_stream=model.device.type == "cuda",
    )


def _empty_cache(device: torch.device) -> None:
    """Give back what torch keeps for later tensors."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
