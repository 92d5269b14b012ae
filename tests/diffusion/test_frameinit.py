"""FrameInit and the noise, against the authors' numbers and their own definitions."""

from __future__ import annotations

from typing import Any

import pytest
import reference_numbers as reference
import torch

from consisti2v_cli.diffusion import alphas_cumprod, draw_noise, frameinit_noise, low_pass_mask, progressive_noise


@pytest.mark.parametrize("case", reference.cases("frameinit"), ids=lambda case: case["key"])
def test_masks_match_the_authors_exactly(case: dict[str, Any]) -> None:
    size = (case["frames"], case["height"], case["width"])
    cutoffs = (case["cutoff_spatial"], case["cutoff_temporal"])
    mask = low_pass_mask(case["filter"], *size, *cutoffs, order=case["butterworth_order"])
    assert torch.equal(mask, reference.results()[case["key"]])


def test_no_temporal_cutoff_keeps_the_noise_as_it_is() -> None:
    noise, layout = torch.randn(2, 1, 4, 6, 8, 8).unbind(0)
    mask = low_pass_mask("gaussian", 6, 8, 8, 0.25, 0.0)
    assert torch.allclose(frameinit_noise(noise, layout, 850, mask), noise, atol=1e-6)


def test_an_all_pass_mask_gives_the_noised_layout() -> None:
    noise, layout = torch.randn(2, 1, 4, 5, 9, 7).unbind(0)
    alpha = alphas_cumprod()[750]
    expected = alpha.sqrt() * layout + (1 - alpha).sqrt() * noise
    assert torch.allclose(frameinit_noise(noise, layout, 750, torch.ones(5, 9, 7)), expected, atol=1e-5)


def test_schedule_is_linear_over_a_thousand_steps() -> None:
    betas = torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)
    assert torch.allclose(alphas_cumprod().double(), (1 - betas).cumprod(0), atol=1e-6)


@pytest.mark.parametrize("correlation", [0.5, 1.0, 1.5])
def test_mixed_noise_has_the_correlation_that_the_paper_gives_it(correlation: float) -> None:
    noise = draw_noise("mixed", 4, 4, 64, 64, generator=torch.Generator().manual_seed(1), correlation=correlation)
    correlations = torch.corrcoef(noise[0].transpose(0, 1).flatten(1))
    expected = torch.full((4, 4), correlation**2 / (1 + correlation**2)).fill_diagonal_(1)
    assert torch.allclose(correlations, expected, atol=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.02)


def test_progressive_noise_forgets_frame_by_frame() -> None:
    noise = draw_noise("progressive", 3, 4, 64, 64, generator=torch.Generator().manual_seed(2), correlation=2.0)
    correlations = torch.corrcoef(noise[0].transpose(0, 1).flatten(1))
    step = (4 / 5) ** 0.5
    assert torch.allclose(correlations[0], torch.tensor([1, step, step**2]), atol=0.03)


def test_progressive_noise_by_hand() -> None:
    fresh = torch.randn(1, 1, 3, 2, 2)
    half = 0.5**0.5
    second = half * fresh[:, :, 0] + half * fresh[:, :, 1]
    expected = torch.stack([fresh[:, :, 0], second, half * second + half * fresh[:, :, 2]], dim=2)
    assert torch.allclose(progressive_noise(fresh, 1.0), expected)


def test_vanilla_noise_is_independent_and_seeded() -> None:
    def draw(seed: int) -> torch.Tensor:
        return draw_noise("vanilla", 3, 4, 32, 32, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.corrcoef(draw(1)[0].transpose(0, 1).flatten(1)).fill_diagonal_(0).abs().max() < 0.06
