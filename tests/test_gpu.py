"""On a CUDA device: what is made there is what the CPU makes, whatever way is taken to it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from consisti2v_cli.plans import MemoryPlan, plans_for
from consisti2v_cli.render import animate
from consisti2v_cli.training.capture import Captured
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


def test_a_captured_training_goes_on_and_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step's loss and gradient are those of a training that is not captured; a new stage is captured anew."""
    captured = tmp_path / "captured.toml"
    text = re.sub(r"^(\[(autoencoder|network)\])$", r"\1\ncompile = true", CONFIG.read_text(), flags=re.M)
    captured.write_text(text)
    (tmp_path / "photos").mkdir()
    for number in range(4):
        colours = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((96, 72), Image.Resampling.BICUBIC).save(tmp_path / "photos" / f"{number}.png")
    made, found = [], []
    capture = Captured._capture
    monkeypatch.setattr(Captured, "_capture", lambda self, given: made.append(self) or capture(self, given))
    for config in (CONFIG, captured):
        asked: dict[str, Any] = {"data": f"synthetic:{tmp_path / 'photos'}", "device": "cuda"}
        folder = tmp_path / config.stem
        run("autoencoder", str(config), folder, **asked)
        run("text", str(config), folder, device="cuda")
        for steps in (6, 12):  # the first stage has 10
            run("network", str(config), folder, steps=steps, **asked)
        logs = [folder / "training" / part / "log.jsonl" for part in ("autoencoder", "network")]
        lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
        found.append([line[name] for line in lines for name in ("loss", "gradient")])
        assert len(made) == (0 if config == CONFIG else 6)  # autoencoder: tiles or not, resting or not; network: 1 + 2
    assert found[1] == pytest.approx(found[0], rel=2e-2)
