"""Estimates of memory hold what is counted, and plans keep to budgets."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from benchmarks.memory_tracker import (
    RELEASED_TEXT_ENCODER,
    RELEASED_VAE,
    MemoryTracker,
    autoencoder_peaks,
    largest_weight,
    network_peak,
    weight_bytes,
)

from consisti2v_cli.budget import BASELINE, CHUNKED_MAPS, DECODER_MAPS, GIB, NETWORK_MAPS, choose_plan, estimate
from consisti2v_cli.model import UNetConfig, VideoUNet
from consisti2v_cli.plans import ALL_AT_ONCE, CHUNKS, PLANS, MemoryPlan, next_plan, plans_for, smallest
from consisti2v_cli.recipe import Recipe
from consisti2v_cli.weights import ModelFolder

RELEASED = Path(__file__).parent / "fixtures" / "reference" / "released_unet_config.json"
PHOTO = (4000, 3000)
GB = 10**9
OTHER_PLANS = (*PLANS[1:-1], MemoryPlan(tiled=True))
APART, SMALLEST = PLANS[1], PLANS[-1]


@pytest.fixture(scope="module")
def unet():
    config = UNetConfig.from_dict(json.loads(RELEASED.read_text()))
    with torch.device("meta"):
        return VideoUNet(config).half().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae():
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        return AutoencoderKL(**RELEASED_VAE).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def text_encoder():
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        return CLIPTextModel(CLIPTextConfig(**RELEASED_TEXT_ENCODER)).half().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def released(unet, vae, text_encoder, tmp_path_factory):
    """A folder with the headers of the released model's files, and holes where the numbers would be."""
    folder = tmp_path_factory.mktemp("released")
    for part, module, stem in (
        ("unet", unet, "diffusion_pytorch_model"),
        ("vae", vae, "diffusion_pytorch_model"),
        ("text_encoder", text_encoder, "model"),
    ):
        (folder / part).mkdir()
        config = json.loads(RELEASED.read_text()) if part == "unet" else RELEASED_VAE
        (folder / part / "config.json").write_text(json.dumps(config))
        write_hollow(folder / part / f"{stem}.safetensors", module)
    return ModelFolder(folder, "consisti2v")


def write_hollow(path, module):
    kinds, end, entries = {torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}, 0, {}
    for name, tensor in module.state_dict().items():
        entries[name] = {
            "dtype": kinds[tensor.dtype],
            "shape": [*tensor.shape],
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)


def recipe(size=256, **changes):
    return Recipe(
        **{"prompt": "left", "seed": 1, "width": size, "height": size, "dtype": "fp16", "device": "cuda"} | changes
    )


def counted(unet, vae, text_encoder, size, plan):
    """Bytes of a graphics card at the peak of a clip."""
    network, pictures = (
        network_peak(unet, (size, size), plan=plan),
        max(autoencoder_peaks(vae, (size, size), plan=plan)),
    )
    layers = 3 * largest_weight(unet) if plan.streamed else weight_bytes(unet)
    waits = 0 if plan.streamed else layers
    assert plan.parts_apart
    return max(layers + network, waits + weight_bytes(vae) + pictures, waits + weight_bytes(text_encoder))


def test_half_precision_at_256_stays_below_4_gb_and_gets_below_2(unet, vae, text_encoder):
    assert sum(map(weight_bytes, (unet, vae, text_encoder))) + network_peak(unet, (256, 256)) < 3.75 * GIB
    assert counted(unet, vae, text_encoder, 256, APART) < 3.3 * GB  # 0.7 are left for what libraries take
    assert counted(unet, vae, text_encoder, 256, SMALLEST) < 1 * GB
    assert counted(unet, vae, text_encoder, 512, SMALLEST) < 1.5 * GB


@pytest.mark.parametrize("size", [256, pytest.param(512, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "plan",
    [ALL_AT_ONCE, SMALLEST, *(pytest.param(plan, marks=pytest.mark.slow) for plan in OTHER_PLANS)],
    ids=str,
)
def test_estimates_hold_what_is_counted(unet, vae, size, plan):
    branches = 1 if plan.branches_apart else 2
    one = branches * 16 * (size // 8) ** 2 * 320 * 2
    maps = network_peak(unet, (size, size), plan=plan) / one
    most = NETWORK_MAPS if plan.feed_forward_chunks == 1 else CHUNKED_MAPS
    assert 0.85 * most < maps < most
    encoder, decoder = (peak / (size**2 * 256 * 4) for peak in autoencoder_peaks(vae, (size, size), plan=plan))
    assert encoder < decoder < DECODER_MAPS


def test_tiles_need_no_more_than_one(vae):
    whole, tiled = (autoencoder_peaks(vae, (1024, 1024), plan=MemoryPlan(tiled=tiled))[1] for tiled in (False, True))
    assert tiled < 0.27 * whole


def test_the_tracker_counts_what_lives():
    given = torch.empty(1000, device="meta")
    with MemoryTracker([given]) as tracker:
        one = given + 1
        two = one * 2
        del one
        three = two[:500]
        four = three.clone()
    assert tracker.peak == 8000
    assert tracker.live == 6000
    del two, three, four


@pytest.mark.parametrize(
    ("size", "dtype", "vram", "expected"),
    [
        (256, "fp16", 80, ALL_AT_ONCE),
        (256, "fp16", 4.1, ALL_AT_ONCE),
        (256, "fp16", 3.9, APART),
        (256, "fp16", 2, PLANS[4]),
        (512, "fp16", 8, ALL_AT_ONCE),
        (512, "fp16", 5.3, APART),
        (512, "fp16", 2.2, PLANS[5]),
        (512, "fp16", 2, SMALLEST),
        (256, "fp32", 8, ALL_AT_ONCE),
        (1024, "fp16", 4, MemoryPlan(True, CHUNKS, True, True, True)),
        (256, "fp16", 0.1, MemoryPlan(True, CHUNKS, True, True, True)),  # the smallest there is
    ],
)
def test_the_fastest_plan_that_keeps_to_the_budget(released, size, dtype, vram, expected):
    asked = recipe(size, dtype=dtype)
    plan, memory = choose_plan(asked, released, PHOTO, vram)
    assert plan == expected
    assert memory == estimate(asked, released, PHOTO, plan)
    assert memory <= vram * GIB or vram == 0.1


def test_the_card_is_the_budget_whatever_is_free_of_it(released, monkeypatch):
    """So that the same recipe is computed in the same way each time."""
    for total, expected in ((80, ALL_AT_ONCE), (4, APART), (2.1, PLANS[4])):
        card = SimpleNamespace(total_memory=int(total * GIB))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        assert choose_plan(recipe(), released, PHOTO)[0] == expected


def test_one_plan_for_clips_of_several_sizes():
    assert smallest([ALL_AT_ONCE, PLANS[3], PLANS[1]]) == PLANS[3]
    assert smallest([PLANS[4], PLANS[3]]) == PLANS[4]
    assert smallest([MemoryPlan(tiled=True), PLANS[2]]) == replace(PLANS[2], tiled=True)


def test_on_a_cpu_only_a_budget_makes_a_plan(released):
    asked = recipe(512, device="cpu", dtype="fp32")
    plan, memory = choose_plan(asked, released, PHOTO)
    assert plan == ALL_AT_ONCE
    assert memory < 16 * GB
    plan, less = choose_plan(asked, released, PHOTO, 9)
    assert plan == MemoryPlan(feed_forward_chunks=CHUNKS, branches_apart=True)
    assert BASELINE < less <= 9 * GIB < memory
    assert choose_plan(recipe(512, device="cpu", dtype="bf16"), released, PHOTO)[1] < 8 * GB


def test_plans_follow_each_other_to_the_end():
    for device, plans in (("cuda:1", [*PLANS]), ("cpu", plans_for("mps"))):
        assert plans_for(device) == plans
        for plan, following in zip(plans, [*plans[1:], None], strict=True):
            assert next_plan(plan, device) == following
    assert next_plan(MemoryPlan(tiled=True), "cuda") == MemoryPlan(parts_apart=True, tiled=True)
    assert len(plans_for("cpu")) == 3
    assert not any(plan.parts_apart or plan.streamed for plan in plans_for("cpu"))


def test_plans_in_words():
    assert str(ALL_AT_ONCE) == "all at once"
    assert str(MemoryPlan(parts_apart=True, branches_apart=True)) == (
        "text encoder and autoencoder wait on the CPU; one branch of guidance at a time"
    )
    assert len({str(plan) for plan in PLANS}) == len(PLANS)


@pytest.mark.slow
@pytest.mark.slow
def test_the_benchmark_prints_its_table():
    script = Path(__file__).parent / "benchmarks" / "memory.py"
    ran = subprocess.run(
        [sys.executable, script, "peaks", "--sizes", "256x256"], capture_output=True, text=True, check=True
    )
    assert all(str(plan) in ran.stdout for plan in PLANS)
