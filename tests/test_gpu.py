"""On a CUDA device: what is made there is what the CPU makes, whatever way is taken to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consisti2v_cli.plans import MemoryPlan, plans_for
from consisti2v_cli.render import animate
from consisti2v_cli.training.run import run
from consisti2v_cli.weights.load import load_model

pytestmark = pytest.mark.gpu

CONFIG = Path(__file__).parent / "training" / "tiny.toml"
LEVELS = {"fp32": 0.1, "fp16": 1.0, "bf16": 4.0}  # mean difference allowed, of 255
MakePhoto = Callable[..., Path]


@pytest.fixture
def on_cpu(tiny_model: Path, photo: MakePhoto) -> np.ndarray:
    return frames(tiny_model, photo, device="cpu", dtype="fp32")


def frames(model: Any, photo: MakePhoto, **options: Any) -> np.ndarray:
    """The frames of one clip, `f h w 3`."""
    return animate(photo(), "it moves", seed=3, model=model, steps=4, **options).frames


def difference(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("dtype", LEVELS)
def test_a_clip_is_the_cpus(tiny_model: Path, photo: MakePhoto, on_cpu: np.ndarray, dtype: str) -> None:
    assert difference(frames(tiny_model, photo, device="cuda", dtype=dtype), on_cpu) < LEVELS[dtype]


@pytest.mark.parametrize("options", [{"sampler": "dpm++", "reuse": 2}, {"guidance_begin": 0.2, "guidance_end": 0.8}])
def test_the_fast_ways_are_the_cpus(tiny_model: Path, photo: MakePhoto, options: dict[str, Any]) -> None:
    clips = [frames(tiny_model, photo, device=device, dtype="fp32", **options) for device in ("cpu", "cuda")]
    assert difference(*clips) < LEVELS["fp32"]


@pytest.mark.parametrize("plan", [*plans_for("cuda"), MemoryPlan(tiled=True)], ids=str)
def test_every_plan_makes_the_same_clip(
    tiny_model: Path, photo: MakePhoto, on_cpu: np.ndarray, plan: MemoryPlan
) -> None:
    model = load_model(tiny_model, device="cuda", dtype="fp32", plan=plan)
    for _ in range(2):  # what was fetched for the first clip is fetched again for the second
        assert difference(frames(model, photo), on_cpu) < LEVELS["fp32"]


def test_a_compiled_network_makes_the_same_clip(tiny_model: Path, photo: MakePhoto, on_cpu: np.ndarray) -> None:
    model = load_model(tiny_model, device="cuda", dtype="fp32", compile=True)
    for _ in range(2):
        assert difference(frames(model, photo), on_cpu) < LEVELS["fp32"]


@pytest.mark.parametrize("compiled", [False, True])
def test_training_goes_on_and_learns_what_the_cpu_learns(
    photo: MakePhoto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG.read_text().replace("[network]", f"[network]\ncompile = {str(compiled).lower()}"))
    for number in range(4):
        photo(f"photos-{number}.png")
    data, losses = f"synthetic:{tmp_path}", {}
    for device in ("cpu", "cuda"):
        monkeypatch.setattr("consisti2v_cli.training.network.draw_noise", noise_of_the_cpu)
        folder, used = tmp_path / device, str(CONFIG if device == "cpu" else config)
        run("autoencoder", used, folder, data=data, device="cpu")
        run("text", used, folder, device="cpu")
        run("network", used, folder, data=data, device=device, steps=4)
        run("network", used, folder, data=data, device=device, steps=8)
        lines = (folder / "training" / "network" / "log.jsonl").read_text().splitlines()
        losses[device] = json.loads(lines[-1])["loss"]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.05)  # latents are drawn from other random numbers


def noise_of_the_cpu(kind: str, *sizes: int, generator: Any, **options: Any) -> Any:
    """`draw_noise`, the same on every device."""
    import torch

    from consisti2v_cli.diffusion import draw_noise

    source = torch.Generator().manual_seed(generator.initial_seed())
    return draw_noise(kind, *sizes, generator=source, **options).to(generator.device)
