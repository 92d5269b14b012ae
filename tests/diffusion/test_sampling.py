"""Sampling: the authors' runs, and guidance by its formulas."""

from __future__ import annotations

from typing import Any

import pytest
import reference_numbers as reference
import torch
from torch import Tensor

from consisti2v_cli.diffusion import Guidance, frameinit_noise, low_pass_mask, make_scheduler, mixed_noise, sample
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


@pytest.mark.parametrize("count", [12, 334, RANGES["steps"][1]])
@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_a_perfect_denoiser_finds_the_clip(sampler: str, count: int) -> None:
    """A denoiser that knows the clip: what a sampler makes of it does not depend on the noise."""
    clip, noise = torch.randn(2, 1, 4, 5, 6, 6).unbind(0)
    scheduler = make_scheduler(sampler)
    alphas = scheduler.alphas_cumprod
    seen: list[int] = []

    def denoiser(
        latents: Tensor, timestep: Tensor, text: Tensor, /, *, first_frame: Tensor, frame_stride: int
    ) -> Tensor:
        seen.append(int(timestep))
        alpha = alphas[int(timestep)]
        return (latents - alpha.sqrt() * clip[:, :, 1:]) / (1 - alpha).sqrt()

    text, steps = torch.zeros(1, 2, 3), []
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
    )
    assert torch.allclose(result, clip, atol=2e-2)
    assert torch.equal(result[:, :, 0], clip[:, :, 0])
    assert steps == [(i, count) for i in range(1, count + 1)]
    assert len(seen) == count
    assert seen[0] < 1000
    assert seen == sorted(seen, reverse=True)


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
