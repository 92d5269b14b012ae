"""The switches of the paper's Table 3: each changes what it should, and nothing is left switched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from made_up_model import UNET
from torch import Tensor

from consisti2v_cli.errors import RequestError
from consisti2v_cli.evaluation.ablations import PAPER, VARIANTS, WHOLE, ablation_lines, apply, rows
from consisti2v_cli.evaluation.quick import CONSISTENCY
from consisti2v_cli.model import UNetConfig, VideoUNet
from consisti2v_cli.recipe import Recipe
from consisti2v_cli.weights.load import load_part

FRAMEINIT_OFF, WINDOW_OFF, ALL_OFF = VARIANTS[1:]


@pytest.fixture
def unet(tiny_model: Path) -> VideoUNet:
    return load_part(tiny_model, "unet")


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def run(unet: VideoUNet) -> Tensor:
    """What the network makes of one clip of 4 frames."""
    draw = torch.Generator().manual_seed(0)
    channels, width = unet.config.in_channels, unet.config.cross_attention_dim
    latents = torch.randn(1, channels, 3, 8, 8, generator=draw)
    text = torch.randn(1, 5, width, generator=draw)
    first = torch.randn(1, channels, 1, 8, 8, generator=draw)
    return unet(latents, 500, text, first_frame=first, frame_stride=3)


def test_each_step_changes_the_network_and_all_is_restored(unet: VideoUNet) -> None:
    whole = run(unet)
    made = {}
    for variant in VARIANTS:
        with apply(unet, variant):
            made[variant.key] = run(unet)
        assert torch.equal(run(unet), whole), variant.name
    assert torch.equal(made["whole"], whole)
    assert torch.equal(made["no-frameinit"], whole)  # a matter of sampling
    assert not torch.allclose(made["no-frameinit-temporal"], whole, atol=1e-4)
    assert not torch.allclose(made["no-frameinit-temporal-spatial"], made["no-frameinit-temporal"], atol=1e-4)


@pytest.mark.parametrize("variant", [WINDOW_OFF, ALL_OFF])
def test_the_switches_are_those_of_the_configuration(unet: VideoUNet, variant) -> None:
    """A network that is built without the conditioning, with the same weights, computes the same."""
    mode = "concat" if variant.first_frame else "input_only"
    built = VideoUNet(
        UNetConfig.from_dict({**UNET, "augment_temporal_attention": variant.window, "first_frame_condition_mode": mode})
    )
    built.load_state_dict(unet.state_dict())
    with apply(unet, variant):
        torch.testing.assert_close(run(unet), run(built.eval()), rtol=1e-4, atol=1e-5)


def test_all_is_restored_when_the_block_fails(unet: VideoUNet) -> None:
    whole = run(unet)
    with pytest.raises(KeyboardInterrupt), apply(unet, ALL_OFF):
        raise KeyboardInterrupt
    assert torch.equal(run(unet), whole)


def test_what_a_network_lacks_cannot_be_left_out(unet: VideoUNet) -> None:
    with apply(unet, ALL_OFF):
        for variant in (WINDOW_OFF, ALL_OFF):
            with pytest.raises(RequestError, match="no such attention"), apply(unet, variant):
                pytest.fail("entered")
        with apply(unet, FRAMEINIT_OFF):
            pass


def test_the_order_is_the_papers() -> None:
    assert [variant.name for variant in VARIANTS] == [
        "ConsistI2V",
        "w/o FrameInit",
        "w/o FrameInit & T.Cond.",
        "w/o FrameInit & T.Cond. & S.Cond.",
    ]
    assert [variant.frameinit for variant in VARIANTS] == [True, False, False, False]
    assert [variant.window for variant in VARIANTS] == [True, True, False, False]
    assert [variant.first_frame for variant in VARIANTS] == [True, True, True, False]
    recipes = [Recipe(prompt="p", seed=0, **variant.settings) for variant in VARIANTS]
    assert [recipe.frameinit for recipe in recipes] == [True, False, False, False]
    assert [values[0] for values in PAPER.values()] == [177.66, 245.79, 224.16, 704.48]


def test_the_table_has_the_papers_rows_and_ours() -> None:
    measured = {
        "whole": {"fvd_i3d": 200.129, CONSISTENCY.key: 0.9},
        "no-frameinit-temporal-spatial": {"fvd_i3d": None, CONSISTENCY.key: 0.5},
    }
    lines = [" ".join(line.split()) for line in ablation_lines(measured, name="sketch", stand_ins=[CONSISTENCY])]
    assert lines[:5] == [
        "Table 3: ablations on UCF-101",
        "FVD IS FID consistency",
        "(EfficientNet-",
        "Lite0)",
        "better lower higher lower higher",
    ]
    assert lines[5:9] == [
        "ConsistI2V 177.66 56.22 15.74 -",
        "w/o FrameInit 245.79 42.21 24.08 -",
        "w/o FrameInit & T.Cond. 224.16 42.98 24.04 -",
        "w/o FrameInit & T.Cond. & S.Cond. 704.48 21.97 68.39 -",
    ]
    assert lines[9:13] == [
        "sketch: ConsistI2V 200.12 - - 90.00",
        "sketch: w/o FrameInit - - - -",
        "sketch: w/o FrameInit & T.Cond. - - - -",
        "sketch: w/o FrameInit & T.Cond. & S.Cond. - - - 50.00",
    ]
    assert len(lines) > 13


def test_rows_are_named_and_complete() -> None:
    found = rows({"no-frameinit": {"fvd_i3d": 1.0}})
    assert list(found) == [variant.name for variant in VARIANTS]
    assert found["w/o FrameInit"] == {"fvd_i3d": 1.0}
    assert found[WHOLE.name] == {}
    with pytest.raises(ValueError, match="no variant is called seine"):
        rows({"seine": {}})
