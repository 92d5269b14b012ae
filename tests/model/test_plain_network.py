"""The plain network that speed is measured against: the same numbers, the same tensors, and all the work there is."""

from __future__ import annotations

from typing import Any

import pytest
import reference_numbers as reference
import torch
from benchmarks.plain_network import PlainNetwork
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from consisti2v_cli.model import UNetConfig, VideoUNet

CASES = {case["name"]: case for case in reference.cases("unet")}


def plain(config: UNetConfig) -> PlainNetwork:
    with torch.device("meta"):
        return PlainNetwork(config).eval().requires_grad_(False)


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def error_of(case: dict[str, Any], results: dict[str, Tensor]) -> float:
    salt, (b, f, h, w) = case["salt"], (case["batch"], case["frames"], case["height"], case["width"])
    network = plain(UNetConfig.from_dict(case["config"]))
    weights = {key: reference.weight(salt, key, shape) for key, shape in shapes(network).items()}
    network.load_state_dict(weights, assign=True)
    result = network(
        reference.input_tensor(salt, "latents", b, 4, f - 1, h, w),
        case["timestep"],
        reference.input_tensor(salt, "text", b, case["text_tokens"], case["config"]["cross_attention_dim"]),
        first_frame=reference.input_tensor(salt, "first_frame", b, 4, 1, h, w),
        frame_stride=case["frame_stride"],
    )
    return reference.relative_error(result, results[f"unet/{case['name']}"])


@pytest.mark.parametrize("name", CASES)
def test_passes_match_the_authors(name: str) -> None:
    assert error_of(CASES[name], reference.results()) < 3e-6


@pytest.mark.slow
def test_full_size_pass_matches_the_authors() -> None:
    (case,) = reference.cases("unet", "full_size.json")
    assert error_of(case, reference.results("full_size.safetensors")) < 3e-6


@pytest.mark.parametrize("config", [UNetConfig(), *(UNetConfig.from_dict(case["config"]) for case in CASES.values())])
def test_one_state_dict_fits_both_networks(config: UNetConfig) -> None:
    with torch.device("meta"):
        unet = VideoUNet(config)
    assert shapes(plain(config)) == shapes(unet)


@pytest.mark.parametrize(("size", "tera"), [(256, 10.88), (512, 49.01)])
def test_nothing_is_shared(size: int, tera: float) -> None:
    """The work of one guided step (two branches, 16 frames), as the design counts it."""
    h = w = size // 8
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        latents, first_frame, text = torch.empty(2, 4, 15, h, w), torch.empty(2, 4, 1, h, w), torch.empty(2, 77, 1024)
        plain(UNetConfig())(latents, 500, text, first_frame=first_frame)
    assert round(counter.get_total_flops() / 1e12, 2) == tera
