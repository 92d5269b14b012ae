"""The loop: exact after a kill, learning, and a folder at the end that can be rendered."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from consisti2v_cli.errors import ConsistI2VError, RequestError, WeightsError
from consisti2v_cli.training.loop import Average, Draw, learning_rate, train
from consisti2v_cli.training.photos import PhotoSource
from consisti2v_cli.training.records import Records
from consisti2v_cli.training.run import run
from consisti2v_cli.training.settings import LoopSettings
from consisti2v_cli.weights.load import load_model, load_part

accelerate = pytest.importorskip("accelerate")
CONFIG = str(Path(__file__).with_name("tiny.toml"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for number in range(4):
        coarse = torch.randint(0, 256, (6, 8, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(coarse.numpy()).resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A model folder with a trained autoencoder and text encoder, before any network."""
    folder = tmp_path_factory.mktemp("models") / "base"
    run("autoencoder", CONFIG, folder, data=f"synthetic:{photos}", validation=photos, device="cpu")
    run("text", CONFIG, folder, device="cpu")
    return folder


@pytest.fixture
def model(base: Path, tmp_path: Path) -> Path:
    shutil.copytree(base, tmp_path / "model")
    return tmp_path / "model"


def start(folder: Path, photos: Path) -> subprocess.Popen[bytes]:
    """`consisti2v train network` as a process of its own."""
    command = [sys.executable, "-m", "consisti2v_cli", "train", "network", "--config", CONFIG, "--output", str(folder)]
    command += ["--data", f"synthetic:{photos}", "--device", "cpu"]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)


def log(folder: Path) -> list[dict[str, Any]]:
    return Records(folder / "training" / "network").lines()


def wait_for_step(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while not any(line["step"] >= step for line in log(folder)):
        assert time.monotonic() < deadline, "the training does not get going"
        time.sleep(0.01)


def test_a_killed_training_goes_on_bit_for_bit(base: Path, photos: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        shutil.copytree(base, folder)
    assert start(whole, photos).wait() == 0

    process = start(killed, photos)
    wait_for_step(killed, 14)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert log(killed)[-1]["step"] < 40, "killed too late to show anything"
    (killed / "training" / "network" / ".checkpoint-00000099.partial").mkdir()  # as a kill while saving leaves it
    with open(killed / "training" / "network" / "log.jsonl", "a") as file:
        file.write('{"step": 38, "lo')
    assert start(killed, photos).wait() == 0

    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        expected, found = (load_file(folder / part / f"{name}.safetensors") for folder in (whole, killed))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    keys = ("step", "loss", "gradient", "learning_rate")
    expected_log, found_log = ([[line[key] for key in keys] for line in log(folder)] for folder in (whole, killed))
    assert found_log == expected_log
    kept = [path.name for path in Records(killed / "training" / "network").checkpoints()]
    assert kept == ["checkpoint-00000036", "checkpoint-00000040"]


def test_three_parts_make_a_model_that_loads(model: Path, photos: Path) -> None:
    assert run("network", CONFIG, model, data=f"synthetic:{photos}", steps=4, device="cpu").reason == "finished"
    loaded = load_model(model)
    assert loaded.settings.native_size == 32
    assert loaded.scheduler_config["prediction_type"] == "v_prediction"
    assert (loaded.max_tokens, loaded.vae.config.scaling_factor) == (16, 1.0)
    for part in ("autoencoder", "network"):
        training = model / "training" / part
        assert Image.open(training / "loss.png").size[0] > 0
        assert list((training / "samples").glob("*.png"))
    assert {"heldout_psnr", "heldout_psnr_worst"} <= Records(model / "training" / "autoencoder").lines()[-1].keys()
    assert {"check", "heard", "moved"} <= log(model)[-1].keys()
    assert not list(model.rglob("*.partial"))


def test_latents_have_mean_0_and_deviation_1(base: Path, photos: Path) -> None:
    vae = load_part(base, "vae")
    pictures = PhotoSource(photos, 32).draw(256, torch.Generator().manual_seed(1))
    latents = vae.encode(pictures).latent_dist.mean.transpose(0, 1).flatten(1)
    assert latents.mean(dim=1).abs().max() < 0.2
    assert (latents.std(dim=1) - 1).abs().max() < 0.2


def test_the_tokenizer_reads_any_text(base: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer", local_files_only=True)
    text = "the boat drifts left, 日本 é!"
    read = tokenizer.decode(tokenizer(text.upper()).input_ids, skip_special_tokens=True)
    assert "".join(read.split()) == "".join(text.split())
    assert len(tokenizer("everything moves left").input_ids) <= 6, "frequent words are single tokens"


def test_minutes_end_a_run_with_a_checkpoint_that_goes_on(model: Path, photos: Path) -> None:
    data = f"synthetic:{photos}"
    stopped = run("network", CONFIG, model, data=data, minutes=0, device="cpu")
    assert (stopped.reason, stopped.step) == ("time", 1)
    assert run("network", CONFIG, model, data=data, steps=3, device="cpu").step == 3
    assert [line["step"] for line in log(model)] == [1, 2, 3]


def test_the_network_needs_the_other_parts(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(WeightsError, match="no vae/ yet"):
        run("network", CONFIG, tmp_path, data=f"synthetic:{photos}", device="cpu")


@pytest.mark.parametrize("line", ['prediction_type = "x0"', "stepz = 3", 'steps = "many"', "batch = 0"])
def test_wrong_configurations_are_named(line: str, tmp_path: Path) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text(f"[network]\n{line}\n")
    with pytest.raises(RequestError, match=line.split()[0]):
        run("network", str(config), tmp_path, data="synthetic:.", device="cpu")


def test_the_average_is_put_in_and_taken_out_again() -> None:
    module = nn.Linear(2, 2)
    average = Average(module, 0.5)
    before = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1)
    average.update(1000)
    with average.applied():
        torch.testing.assert_close(module.weight.detach(), before + 0.5)
    assert torch.equal(module.weight.detach(), before + 1)


def test_learning_rates() -> None:
    settings = LoopSettings(steps=100, warmup=10, schedule="cosine")
    assert learning_rate(1.0, 0, settings) == pytest.approx(0.1, rel=1e-3)
    assert learning_rate(1.0, 50, settings) == pytest.approx(0.505)
    assert learning_rate(1.0, 100, settings) == pytest.approx(0.01)
    assert learning_rate(2.0, 50, LoopSettings(warmup=0)) == 2.0


class Line:
    """A part that fits a line, to try the loop alone."""

    name = "line"

    def __init__(self, bad_step: int | None = None) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(3, 1)
        self.bad_step = bad_step
        self.saved = 0

    def loss(self, model: nn.Module, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = torch.randn(8, 3, generator=draw.generator())
        loss = (model(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()
        return loss * (float("nan") if draw.step + 1 == self.bad_step else 1), {}

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.module.parameters()), "rate": 1.0}]

    def learning_rate(self, step: int) -> float:
        return 0.05

    def constrain(self) -> None:
        pass

    def sample(self, step: int) -> tuple[dict[str, float], None]:
        return {}, None

    def save(self) -> None:
        self.saved += 1


@pytest.fixture
def accelerator() -> Iterator[Any]:
    return accelerate.Accelerator(cpu=True)


def test_the_loss_on_a_fixed_batch_falls(tmp_path: Path, accelerator: Any) -> None:
    part = Line()
    settings = LoopSettings(steps=60, warmup=0, save_every=50, accumulate=2)
    before, _ = part.loss(part.module, Draw(0, "fixed", 0))
    train(part, settings, tmp_path, accelerator)
    after, _ = part.loss(part.module, Draw(0, "fixed", 0))
    assert after < before / 10
    assert part.saved == 2


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path: Path, accelerator: Any) -> None:
    settings = LoopSettings(steps=30, warmup=0, save_every=10, log_every=5)
    with pytest.raises(ConsistI2VError, match=r"step 13 is not finite; checkpoint-00000010 is untouched"):
        train(Line(bad_step=13), settings, tmp_path, accelerator)
    assert [path.name for path in Records(tmp_path).checkpoints()] == ["checkpoint-00000010"]
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["step"] == 10


def test_ctrl_c_writes_a_checkpoint_first(tmp_path: Path, accelerator: Any) -> None:
    class Interrupted(Line):
        def constrain(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    outcome = train(Interrupted(), LoopSettings(steps=30), tmp_path, accelerator)
    assert (outcome.reason, outcome.step) == ("interrupted", 1)
    assert [path.name for path in Records(tmp_path).checkpoints()] == ["checkpoint-00000001"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, accelerator: Any) -> None:
    settings = LoopSettings(steps=2)
    train(Line(), settings, tmp_path, accelerator)
    other = Line()
    other.module = nn.Linear(4, 1)
    with pytest.raises(RequestError, match="does not fit this configuration"):
        train(other, settings, tmp_path, accelerator)
