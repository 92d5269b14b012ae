"""The network against the authors' numbers, the released checkpoint's names, and what training needs of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import reference_numbers as reference
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from consisti2v_cli.model import BACKENDS, DeepFeatures, UNetConfig, VideoUNet, unused_tensor


def run(
    unet: VideoUNet,
    case: dict[str, Any],
    text: Any = None,
    frames: slice = slice(None),
    deep: DeepFeatures | None = None,
) -> Tensor:
    salt, (b, f, h, w) = case["salt"], (case["batch"], case["frames"], case["height"], case["width"])
    width = case["config"]["cross_attention_dim"]
    given = reference.input_tensor(salt, "text", b, case["text_tokens"], width) if text is None else text
    dtype = next(unet.parameters()).dtype
    return unet(
        reference.input_tensor(salt, "latents", b, 4, f - 1, h, w)[:, :, frames].to(dtype),
        case["timestep"],
        given if text is not None else given.to(dtype),
        first_frame=reference.input_tensor(salt, "first_frame", b, 4, 1, h, w).to(dtype),
        frame_stride=case["frame_stride"],
        deep=deep,
    )


CASES = {case["name"]: case for case in reference.cases("unet")}


@pytest.mark.parametrize("name", CASES)
def test_passes_match_the_authors(name: str) -> None:
    result = run(reference.unet(CASES[name]), CASES[name])
    assert reference.relative_error(result, reference.results()[f"unet/{name}"]) < 3e-6


@pytest.mark.slow
def test_full_size_pass_matches_the_authors() -> None:
    """In float64: at this depth the float32 rounding of two processors differs by as much as the tolerance."""
    (case,) = reference.cases("unet", "full_size.json")
    result = run(reference.unet(case).double(), case)
    expected = reference.results("full_size.safetensors")[f"unet/{case['name']}"]
    assert reference.relative_error(result, expected) < 3e-6


def test_released_checkpoint_has_exactly_our_names_and_shapes() -> None:
    released = json.loads((reference.FOLDER / "released_unet_keys.json").read_text())
    config = json.loads((reference.FOLDER / "released_unet_config.json").read_text())
    with torch.device("meta"):
        unet = VideoUNet(UNetConfig.from_dict(config))
    used = {name: shape for name, shape in released.items() if not unused_tensor(name)}
    assert (len(released), len(used)) == (1397, 1323)
    assert {name: list(tensor.shape) for name, tensor in unet.state_dict().items()} == used


@pytest.mark.parametrize("name", ["odd_size", "two_layers_long_text", "sinusoidal_positions"])
def test_text_projected_once_gives_the_same(name: str) -> None:
    case = CASES[name]
    unet = reference.unet(case)
    text = reference.input_tensor(case["salt"], "text", case["batch"], case["text_tokens"], 24)
    assert torch.equal(run(unet, case, unet.project_text(text)), run(unet, case))


@pytest.mark.parametrize("name", ["odd_size", "two_layers_long_text", "sinusoidal_positions", "wide_batch2"])
def test_branches_that_differ_in_their_text_share_the_rest(name: str) -> None:
    """Of one or several videos: the same as the passes of all branches, one behind the other along the batch."""
    case = CASES[name]
    unet = reference.unet(case)
    given = reference.input_tensor(case["salt"], "text", case["batch"], case["text_tokens"], 24)
    text = torch.cat([given, -given, 2 * given])
    together = run(unet, case, text)
    apart = torch.cat([run(unet, case, some) for some in text.split(case["batch"])])
    assert together.shape == apart.shape
    assert reference.relative_error(together, apart) < 3e-6


@pytest.mark.parametrize("layers", [1, 2])
def test_deep_features_of_the_same_step_give_the_same(layers: int) -> None:
    case = CASES["two_layers_long_text"]
    unet = reference.unet(case)
    deep = DeepFeatures(layers)
    whole = run(unet, case, deep=deep)
    assert torch.equal(whole, run(unet, case))
    kept = deep.kept
    assert torch.equal(run(unet, case, deep=deep), whole)
    assert deep.kept is kept
    deep.kept = torch.zeros_like(kept)
    assert reference.relative_error(run(unet, case, deep=deep), whole) > 0.01


def flops(size: int, *, project: bool, deep: DeepFeatures | None = None) -> float:
    """TFLOP of one guided step of the released network, two branches of 16 frames."""
    text = torch.empty(2, 77, 1024, device="meta")
    with torch.device("meta"):
        unet = VideoUNet(UNetConfig()).requires_grad_(False)
        latents, first_frame = torch.empty(1, 4, 15, size // 8, size // 8), torch.empty(1, 4, 1, size // 8, size // 8)
    given = unet.project_text(text) if project else text
    with FlopCounterMode(display=False) as counter:
        unet(latents, torch.tensor(500, device="meta"), given, first_frame=first_frame, deep=deep)
    return counter.get_total_flops() / 1e12


@pytest.mark.parametrize(("size", "most"), [(256, 8.50), pytest.param(512, 39.4, marks=pytest.mark.slow)])
def test_no_work_is_done_twice(size: int, most: float) -> None:
    """The plain way takes 10.88 and 49.01 (test_plain_network.py)."""
    assert 0.95 * most < flops(size, project=True) <= most
    assert flops(size, project=False) > flops(size, project=True)


def test_deep_features_save_most_of_a_step() -> None:
    deep = DeepFeatures()
    whole = flops(256, project=True, deep=deep)
    assert flops(256, project=True, deep=deep) < 0.35 * whole


def test_the_definition_of_attention_agrees_with_the_fast_one() -> None:
    case = CASES["wide_batch2"]
    unet = reference.unet(case)
    fast = run(unet, case)
    unet.set_attention("math")
    assert "math" in BACKENDS
    assert reference.relative_error(run(unet, case), fast) < 3e-6


def test_epsilons_of_the_norms() -> None:
    """A wrong epsilon is worth less than the tolerance of a pass, so look at each."""
    for name, norm in reference.unet(CASES["square"]).named_modules():
        if isinstance(norm, nn.GroupNorm):
            spatial_resnet = ".resnets." in name or name == "conv_norm_out"
            assert norm.eps == (1e-5 if spatial_resnet else 1e-6), name
        if isinstance(norm, nn.LayerNorm):
            assert norm.eps == 1e-5, name


def test_one_timestep_and_stride_a_video() -> None:
    case = CASES["wide_batch2"]
    unet = reference.unet(case)
    both = run(unet, case)
    case_with_tensors = case | {"timestep": torch.tensor([999, 999]), "frame_stride": torch.tensor([1, 1])}
    assert torch.equal(run(unet, case_with_tensors), both)
    other = run(unet, case | {"frame_stride": torch.tensor([1, 5])})
    assert torch.allclose(other[0], both[0], atol=1e-6)
    assert not torch.allclose(other[1], both[1], atol=1e-3)


def test_first_frame_decides_nothing_without_its_conditions_but_sits_in_front() -> None:
    """With alpha 1 and no spatial condition the frames do not see one another: it is the image model."""
    case = CASES["no_spatial_conditioning"]
    unet = reference.unet(case)
    for name, parameter in unet.named_parameters():
        if name.endswith("alpha"):
            parameter.fill_(1.0)
    whole = run(unet, case)
    assert torch.allclose(run(unet, case, frames=slice(0, 2)), whole[:, :, :2], atol=1e-5)


def test_rotary_frequencies_stay_float32() -> None:
    unet = reference.unet(CASES["square"]).to(torch.bfloat16)
    kept = {tensor.dtype for name, tensor in unet.state_dict().items() if name.endswith("rotary_emb.freqs")}
    others = {tensor.dtype for name, tensor in unet.state_dict().items() if not name.endswith("rotary_emb.freqs")}
    assert (kept, others) == ({torch.float32}, {torch.bfloat16})


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_gets_a_gradient(checkpointing: bool) -> None:
    unet = reference.unet(CASES["odd_size"]).requires_grad_(True)
    unet.gradient_checkpointing = checkpointing
    run(unet, CASES["odd_size"]).pow(2).mean().backward()
    without = [name for name, parameter in unet.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in unet.parameters() if parameter.grad is not None)


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        unet = reference.unet(CASES["tall_few_frames"]).requires_grad_(True)
        unet.gradient_checkpointing = checkpointing
        run(unet, CASES["tall_few_frames"]).pow(2).mean().backward()
        gradients.append({name: parameter.grad for name, parameter in unet.named_parameters()})
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-7) for name in gradients[0])


def test_config_reads_back_what_it_writes() -> None:
    config = UNetConfig(block_out_channels=(32, 64), num_heads=(2, 4), cross_attention_dim=24)
    assert UNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_released_config_is_the_default() -> None:
    released = json.loads((reference.FOLDER / "released_unet_config.json").read_text())
    assert UNetConfig.from_dict(released) == UNetConfig() == UNetConfig.from_dict({})


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"center_input_sample": True}, "center_input_sample"),
        ({"mid_block_scale_factor": 2}, "mid_block_scale_factor"),
        ({"use_linear_projection": False}, "use_linear_projection"),
        ({"use_temporal": False}, "use_temporal"),
        ({"down_block_types": ["DownBlock2D"] * 4}, "down_block_types"),
        ({"temp_pos_embedding": "learned"}, "temp_pos_embedding"),
        ({"first_frame_condition_mode": "none"}, "first_frame_condition_mode"),
        ({"attention_head_dim": [5, 10]}, "attention_head_dim"),
        ({"norm_num_groups": 7}, "7 groups"),
        ({"colour": 1}, "colour"),
    ],
)
def test_settings_it_cannot_honour_are_errors(setting: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        UNetConfig.from_dict(setting)
