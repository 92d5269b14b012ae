"""Sampling: the authors' runs, and guidance by its formulas."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import reference_numbers as reference
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from consisti2v_cli.diffusion import (
    SAMPLERS,
    Guidance,
    frameinit_noise,
    low_pass_mask,
    make_scheduler,
    mixed_noise,
    sample,
)
from consisti2v_cli.recipe import RANGES


def initial_noise(case: dict[str, Any], chunk: int, first_frame: Tensor) -> Tensor:
    salt, (f, h, w) = case["salt"], (case["frames"], case["height"], case["width"])
    shared = reference.input_tensor(salt, f"noise_shared/{chunk}", 1, 4, 1, h, w)
    independent = reference.input_tensor(salt, f"noise_frame/{chunk}", 1, 4, f, h, w)
    noise = mixed_noise(shared, independent, case["noise_alpha"])
    if not case["frameinit"]:
        return noise
    layout = first_frame.expand_as(noise)
    if case["layout_given"]:
        layout = reference.input_tensor(salt, "layout", 1, 4, f, h, w)
    mask = low_pass_mask(case["filter"], f, h, w, case["cutoff_spatial"], case["cutoff_temporal"])
    return frameinit_noise(noise, layout, case["noise_level"], mask)


@pytest.mark.parametrize("case", reference.cases("sampler"), ids=lambda case: case["name"])
def test_runs_match_the_authors(case: dict[str, Any]) -> None:
    name, salt, results = case["name"], case["salt"], reference.results()
    unet = reference.unet(case)
    text = reference.input_tensor(salt, "text", 1, case["text_tokens"], 24)
    negative = reference.input_tensor(salt, "negative_text", 1, case["text_tokens"], 24)
    first_frame = reference.input_tensor(salt, "first_frame", 1, 4, case["height"], case["width"])[:, :, None]
    for chunk in range(case["chunks"]):
        noise = initial_noise(case, chunk, first_frame)
        error = reference.relative_error(noise, results[f"sampler/{name}/init/{chunk}"])
        assert error < (1e-6 if chunk == 0 else 1e-5)
        scheduler = make_scheduler("ddim")
        clip = sample(
            unet,
            noise,
            first_frame,
            text,
            negative,
            scheduler=scheduler,
            frame_stride=case["frame_stride"],
            **{key: case[key] for key in ("steps", "guidance", "image_guidance", "guidance_rescale")},
        )
        assert reference.relative_error(clip, results[f"sampler/{name}/final/{chunk}"]) < 1e-5
        assert scheduler.timesteps.tolist() == results[f"sampler/{name}/timesteps"].tolist()
        first_frame = clip[:, :, -1:]  # chunks of a long clip share this frame


PREDICTIONS = ["epsilon", "v_prediction"]
SOLVERS = ["ddim", "dpm++", "unipc"]  # of the differential equation: no noise on the way
COUNTS = [4, 12, 50]  # possible for every sampler
LONG = [*((name, count) for name in [*SOLVERS, "euler-a"] for count in (334, RANGES["steps"][1]))]
MEAN, DEVIATION = 0.7, 0.5

Endpoint = Callable[[Tensor, Tensor], Tensor]  # noisy latents, cumulative alpha -> clean latents


def predicting(
    scheduler: Any, clean: Endpoint, seen: list[tuple[float, Tensor]] | None = None
) -> Callable[..., Tensor]:
    """A denoiser that predicts what a function makes of noisy latents, in the scheduler's kind of prediction."""

    def denoiser(latents: Tensor, timestep: Tensor, text: Any, /, *, first_frame: Tensor, frame_stride: int) -> Tensor:
        alpha = scheduler.alphas_cumprod[int(timestep)]
        found = clean(latents, alpha)
        noise = (latents - alpha.sqrt() * found) / (1 - alpha).sqrt()
        if seen is not None:
            seen.append((float(timestep), latents))
        is_v = scheduler.config.prediction_type == "v_prediction"
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * found if is_v else noise

    return denoiser


def expected(latents: Tensor, alpha: Tensor) -> Tensor:
    """The mean of the clean latents behind noisy ones, where latents are normal with MEAN and DEVIATION."""
    gain = alpha.sqrt() * DEVIATION**2 / (alpha * DEVIATION**2 + 1 - alpha)
    return MEAN + gain * (latents - alpha.sqrt() * MEAN)


def endpoint(latents: Tensor, alpha: Tensor) -> Tensor:
    """Where the differential equation leads from noisy latents of such data: its solution in closed form."""
    return MEAN + DEVIATION * (latents - alpha.sqrt() * MEAN) / (alpha * DEVIATION**2 + 1 - alpha).sqrt()


def run(scheduler: Any, clean: Endpoint, noise: Tensor, steps: int, **options: Any) -> Tensor:
    """Sample without guidance, with a first frame of zeros; the frames behind it."""
    seen = options.pop("seen", None)
    text, first_frame = torch.zeros(1, 2, 3), torch.zeros_like(noise[:, :, :1])
    options |= {"steps": steps, "guidance": 1.0, "scheduler": scheduler}
    return sample(predicting(scheduler, clean, seen), noise, first_frame, text, text, **options)[:, :, 1:]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("sampler", "count"), [*((name, count) for name in SAMPLERS for count in COUNTS), *LONG])
def test_a_perfect_denoiser_finds_the_clip(sampler: str, count: int, prediction: str) -> None:
    """A denoiser that knows the clip: what a sampler makes of it does not depend on the noise."""
    clip, noise = torch.randn(2, 1, 4, 5, 6, 6).unbind(0)
    scheduler = make_scheduler(sampler, {"prediction_type": prediction})
    denoiser = predicting(scheduler, lambda latents, alpha: clip[:, :, 1:], seen := [])
    text, steps, estimates = torch.zeros(1, 2, 3), [], []
    result = sample(
        denoiser,
        noise,
        clip[:, :, :1],
        text,
        text,
        steps=count,
        guidance=1.0,
        scheduler=scheduler,
        on_step=lambda done, total: steps.append((done, total)),
        on_estimate=estimates.append,
    )
    assert torch.allclose(result, clip, atol=2e-2)
    assert torch.equal(result[:, :, 0], clip[:, :, 0])
    assert steps == [(i, count) for i in range(1, count + 1)]
    timesteps = [timestep for timestep, _ in seen]
    assert len(timesteps) == count
    assert timesteps[0] < 1000
    assert timesteps == sorted(timesteps, reverse=True)
    assert len(estimates) == count
    assert max((estimate - clip).abs().max() for estimate in estimates) < 1e-3


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("sampler", "bound"), [("ddim", 0.02), ("dpm++", 0.003), ("unipc", 0.003)])
def test_solvers_find_the_solution(sampler: str, bound: float, prediction: str) -> None:
    """With many steps, the end is that of the differential equation, which is known for normal data."""
    noise = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    scheduler = make_scheduler(sampler, {"prediction_type": prediction})
    solution = endpoint(noise[:, :, 1:], scheduler.alphas_cumprod[-1])
    errors = {count: (run(scheduler, expected, noise, count) - solution).abs().mean() for count in (10, 50, 250, 500)}
    assert errors[500] < bound
    assert errors[500] < errors[50] / 3 < errors[10] / 9
    assert errors[250] < errors[50]


def test_solvers_of_higher_order_need_fewer_steps() -> None:
    noise = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    solution = endpoint(noise[:, :, 1:], make_scheduler("ddim").alphas_cumprod[-1])
    ddim, *others = ((run(make_scheduler(name), expected, noise, 20) - solution).abs().mean() for name in SOLVERS)
    assert all(error < 0.8 * ddim for error in others)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("sampler", "count", "clean"), [("euler-a", 500, expected), ("lcm", 4, endpoint)])
def test_noise_on_the_way_gives_the_right_distribution(
    sampler: str, count: int, clean: Endpoint, prediction: str
) -> None:
    """Normal data, and for lcm a network distilled to perfection: mean and deviation come out, in bits that stay."""
    noise = torch.randn(1, 4, 5, 48, 48, generator=torch.Generator().manual_seed(3))
    scheduler = make_scheduler(sampler, {"prediction_type": prediction})
    first, again, other = (
        run(scheduler, clean, noise, count, generator=torch.Generator().manual_seed(seed)) for seed in (4, 4, 5)
    )
    assert first.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert first.std().item() == pytest.approx(DEVIATION, rel=0.03)
    assert torch.equal(first, again)
    assert (first - other).std() > 0.1
    solved = run(make_scheduler("ddim", {"prediction_type": prediction}), clean, noise, count)
    assert (first - solved).std() > 0.1  # it did draw


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_network_sees_noise_of_the_level_it_expects(sampler: str) -> None:
    """Data of unit variance stay so with any share of noise, if the sampler scales as the network was trained."""
    noise = torch.randn(1, 4, 5, 32, 32, generator=torch.Generator().manual_seed(6))
    levels: list[tuple[float, Tensor]] = []
    clean, count = (endpoint_of_unit, 50) if sampler == "lcm" else (expected_of_unit, 200)
    run(make_scheduler(sampler), clean, noise, count, seen=levels)
    assert len(levels) == count
    assert all(latents.std().item() == pytest.approx(1, rel=0.04) for _, latents in levels)


def expected_of_unit(latents: Tensor, alpha: Tensor) -> Tensor:
    return alpha.sqrt() * latents


def endpoint_of_unit(latents: Tensor, alpha: Tensor) -> Tensor:
    return latents


@pytest.mark.parametrize("sampler", [*SOLVERS, "euler-a"])
@pytest.mark.parametrize("count", [4, 10, 25, 50, 250, 500])
def test_samplers_begin_near_the_end_of_the_schedule(sampler: str, count: int) -> None:
    scheduler = make_scheduler(sampler)
    levels: list[tuple[float, Tensor]] = []
    run(scheduler, expected, torch.randn(1, 1, 2, 2, 2), count, seen=levels)
    timesteps = [timestep for timestep, _ in levels]
    assert timesteps[0] >= 1000 - 1000 / count
    gaps = [one - other for one, other in pairwise(timesteps)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_guidance_and_no_image_are_the_same_for_every_sampler(sampler: str) -> None:
    """All three branches: 'no image' is the noise as it was given, not as a sampler scales it."""
    noise = torch.randn(1, 4, 3, 4, 4)
    first_frame, text = torch.ones(1, 4, 1, 4, 4), torch.zeros(1, 2, 3)
    firsts: list[Tensor] = []

    def denoiser(latents: Tensor, timestep: Tensor, text: Any, /, *, first_frame: Tensor, frame_stride: int) -> Tensor:
        firsts.append(first_frame)
        return latents

    sample(
        denoiser, noise, first_frame, text, text,
        steps=3, guidance=7.5, image_guidance=1.5, scheduler=make_scheduler(sampler),
    )  # fmt: skip
    assert len(firsts) == 3
    assert all(torch.equal(first, torch.cat([noise[:, :, :1], first_frame, first_frame])) for first in firsts)


@pytest.mark.gpu
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_seed_means_the_same_on_every_device(sampler: str) -> None:
    noise = torch.randn(1, 4, 5, 16, 16)
    scheduler = make_scheduler(sampler)
    text, first_frame = torch.zeros(1, 2, 3), torch.zeros_like(noise[:, :, :1])
    clips = []
    for device in ("cpu", "cuda"):
        alphas = scheduler.alphas_cumprod.to(device)

        def denoiser(latents: Tensor, timestep: Tensor, text: Any, /, alphas: Tensor = alphas, **_: Any) -> Tensor:
            alpha = alphas[int(timestep)]
            return (latents - alpha.sqrt() * expected(latents, alpha)) / (1 - alpha).sqrt()

        estimates: list[Tensor] = []
        inputs = (tensor.to(device) for tensor in (noise, first_frame, text, text))
        generator = torch.Generator().manual_seed(7)
        options = {"scheduler": scheduler, "generator": generator, "on_estimate": estimates.append}
        clips.append(sample(denoiser, *inputs, steps=20, guidance=1.0, **options))
        assert len(estimates) == 20
    assert torch.allclose(clips[0], clips[1].cpu(), atol=1e-4)


def test_a_checkpoints_schedule_is_honoured() -> None:
    scheduler = make_scheduler("ddim", {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"})
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.set_alpha_to_one is True
    assert scheduler.config.beta_schedule == "linear"


def test_branches_and_their_conditions() -> None:
    text, negative = torch.ones(1, 2, 3), torch.zeros(1, 2, 3)
    image, no_image = torch.ones(1, 4, 1, 2, 2), torch.zeros(1, 4, 1, 2, 2)
    conditions = {
        (w, w_img): [
            (bool(t.any()), bool(i.any()))
            for t, i in zip(
                Guidance(w, w_img).texts(text, negative), Guidance(w, w_img).first_frames(image, no_image), strict=True
            )
        ]
        for w, w_img in [(1.0, 1.0), (7.5, 1.0), (7.5, 1.5), (1.0, 1.5)]
    }
    three = [(False, False), (False, True), (True, True)]
    assert conditions == {
        (1.0, 1.0): [(True, True)],
        (7.5, 1.0): [(False, True), (True, True)],
        (7.5, 1.5): three,
        (1.0, 1.5): three,
    }


def test_guidance_by_its_formulas() -> None:
    none, image, full = torch.randn(3, 2, 4, 3, 5, 5).unbind(0)
    assert torch.allclose(Guidance(7.5).combine(torch.cat([image, full])), image + 7.5 * (full - image))
    both = none + 1.5 * (image - none) + 7.5 * (full - image)
    assert torch.allclose(Guidance(7.5, 1.5).combine(torch.cat([none, image, full])), both, atol=1e-5)
    rescaled = Guidance(7.5, rescale=1.0).combine(torch.cat([image, full]))
    assert torch.allclose(rescaled.std((1, 2, 3, 4)), full.std((1, 2, 3, 4)), rtol=1e-4)


class Recording:
    """A denoiser that notes what it is called with; it shares branches or not."""

    def __init__(self, shares: bool) -> None:
        self.shares_branches = shares
        self.calls: list[tuple[int, int]] = []  # batches of latents and of text

    def __call__(self, latents: Tensor, timestep: Any, text: Any, /, **_: Any) -> Tensor:
        self.calls.append((latents.shape[0], text.shape[0]))
        return text.mean() * latents.expand(text.shape[0], *latents.shape[1:])


@pytest.mark.parametrize(
    ("options", "shares", "calls"),
    [
        ({"guidance": 5.0}, True, [(1, 2)] * 4),
        ({"guidance": 5.0}, False, [(2, 2)] * 4),
        ({"guidance": 1.0}, True, [(1, 1)] * 4),
        ({"guidance": 5.0, "image_guidance": 2.0}, True, [(3, 3)] * 4),
        ({"guidance": 5.0, "guidance_interval": (0.25, 0.75)}, True, [(1, 1), (1, 2), (1, 2), (1, 1)]),
        ({"guidance": 5.0, "guidance_interval": (0.0, 0.5)}, False, [(2, 2), (2, 2), (1, 1), (1, 1)]),
        ({"guidance": 5.0, "guidance_interval": (0.5, 0.5)}, True, [(1, 1)] * 4),
        ({"guidance": 5.0, "guidance_interval": (0.0, 0.58), "steps": 50}, True, [(1, 2)] * 29 + [(1, 1)] * 21),
    ],
)
def test_branches_that_a_step_takes(options: dict[str, Any], shares: bool, calls: list[tuple[int, int]]) -> None:
    denoiser = Recording(shares)
    noise, text = torch.randn(1, 4, 3, 2, 2), torch.randn(1, 5, 6)
    sample(denoiser, noise, noise[:, :, :1], text, -text, **{"steps": 4, **options})
    assert denoiser.calls == calls


@pytest.mark.parametrize(
    ("sampler", "options"), [("ddim", {"image_guidance": 2.0, "guidance_rescale": 0.5}), ("dpm++", {})]
)
def test_no_step_waits_for_the_device(sampler: str, options: dict[str, Any]) -> None:
    """On the meta device numbers cannot be read, nor brought there in the loop unseen."""
    moved: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            there = isinstance(result, Tensor) and result.device.type == "meta" and result.ndim > 0
            if there and any(isinstance(given, Tensor) and given.ndim and given.device.type == "cpu" for given in args):
                moved.append(str(func))
            return result

    case = reference.cases("unet")[0]
    unet = reference.unet(case).to("meta")
    noise, text = torch.empty(1, 4, 4, 8, 8, device="meta"), torch.empty(1, 7, 24, device="meta")

    def watch(done: int, total: int) -> None:
        if done == 1:
            moved.clear()

    with Watch():
        sample(
            unet,
            noise,
            noise[:, :, :1],
            text,
            text,
            steps=4,
            guidance=5.0,
            scheduler=make_scheduler(sampler),
            on_step=watch,
            **options,
        )
    assert moved == []
