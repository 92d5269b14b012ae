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

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from consisti2v_cli.errors import ConsistI2VError, RequestError, WeightsError
from consisti2v_cli.training import data, records
from consisti2v_cli.training.autoencoder import fold_statistics, picture_weights
from consisti2v_cli.training.loop import Average, Draw, learning_rate, train
from consisti2v_cli.training.photos import PhotoSource
from consisti2v_cli.training.records import Records
from consisti2v_cli.training.run import run
from consisti2v_cli.training.settings import LoopSettings, read_file
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


@pytest.mark.slow
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


def test_balanced_channels_weigh_what_they_change(base: Path, photos: Path, tmp_path: Path) -> None:
    config = tmp_path / "balanced.toml"
    config.write_text(Path(CONFIG).read_text().replace("latent_noise = 0.03", "latent_noise = 0.03\nbalance = 1.0"))
    balanced = tmp_path / "balanced"
    shutil.copytree(base, balanced)
    run("autoencoder", str(config), balanced, data=f"synthetic:{photos}", device="cpu")  # finished: written again
    plain, other = load_part(base, "vae"), load_part(balanced, "vae")
    pictures = PhotoSource(photos, 32).draw(64, torch.Generator().manual_seed(1))
    before, after = plain.encode(pictures).latent_dist.mean, other.encode(pictures).latent_dist.mean
    ratio = (after.std((0, 2, 3)) / before.std((0, 2, 3))).square()
    assert ratio.mean() == pytest.approx(1, abs=0.1)
    weights = picture_weights(plain, before)
    assert torch.allclose(ratio.sqrt() / ratio.sqrt().mean(), weights / weights.mean(), atol=0.2)
    assert weights.max() > 1.2 * weights.min()
    assert torch.allclose(plain.decode(before).sample, other.decode(after).sample, atol=1e-3)


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


def test_a_restart_begins_where_the_first_training_did(model: Path, photos: Path) -> None:
    def text() -> dict[str, Tensor]:
        return load_file(model / "text_encoder" / "model.safetensors")

    def train_network(**options: Any) -> list[tuple[float, float]]:
        run("network", CONFIG, model, steps=4, device="cpu", **options)
        return [(line["loss"], line["gradient"]) for line in log(model)]

    before, kept = text(), model / "training" / "network" / "start" / "text_encoder"
    first = train_network(data=f"synthetic:{photos}")
    assert any(not torch.equal(before[name], tensor) for name, tensor in text().items()), "the text learns too"
    with pytest.raises(RequestError, match="nowhere"):
        train_network(data="synthetic:nowhere", restart=True)
    assert Records(model / "training" / "network").checkpoints(), "a wrong request forgets nothing"
    assert train_network(data=f"synthetic:{photos}", restart=True) == first
    assert kept.is_dir()
    run("text", CONFIG, model, device="cpu")
    assert not kept.exists(), "the next restart begins with the text as it is now"
    assert all(torch.equal(before[name], tensor) for name, tensor in text().items())


def test_latents_are_shifted_as_the_autoencoder_says(base: Path, photos: Path, tmp_path: Path) -> None:
    told, folded = (shutil.copytree(base, tmp_path / name) for name in ("told", "folded"))
    vae = AutoencoderKL.from_pretrained(base / "vae")
    vae.register_to_config(shift_factor=0.5)
    vae.save_pretrained(told / "vae")
    vae.register_to_config(shift_factor=None)
    fold_statistics(vae, torch.full((4,), 0.5), torch.ones(4))
    vae.save_pretrained(folded / "vae")
    for folder in (told, folded):
        run("network", CONFIG, folder, data=f"synthetic:{photos}", steps=2, device="cpu")
    for key in ("loss", "check", "moved"):
        assert log(told)[-1][key] == pytest.approx(log(folded)[-1][key], rel=1e-3)
    shown = [np.asarray(Image.open(next(folder.glob("training/network/samples/*.png")))) for folder in (told, folded)]
    assert np.abs(shown[0].astype(int) - shown[1]).max() <= 3


@pytest.mark.parametrize(("captions", "heard"), [(("it goes left", "it goes right"), True), (("same", "same"), False)])
def test_a_network_learns_from_videos(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captions: tuple[str, str], heard: bool
) -> None:
    videos, notices, opened = tmp_path / "videos", [], []
    videos.mkdir()
    for name, caption in zip("ab", captions, strict=True):
        frames = [Image.new("RGB", (40, 40), (40 * number, 99, ord(name))) for number in range(6)]
        frames[0].save(videos / f"{name}.gif", save_all=True, append_images=frames[1:], duration=100)
        (videos / f"{name}.txt").write_text(caption)
    (videos / "broken.mp4").write_bytes(b"this is not a video")
    (videos / "broken.txt").write_text("broken")
    config = tmp_path / "videos.toml"
    config.write_text(Path(CONFIG).read_text().replace('motions = ["pans:2", "still"]\n', ""))
    whole = data.VideoClips
    monkeypatch.setattr(data, "VideoClips", lambda *args, **more: opened.append(args) or whole(*args, **more))
    run("network", str(config), model, data=str(videos), steps=2, device="cpu", on_notice=notices.append)
    assert len(opened) == 1, "two stages share the videos"
    assert sum("broken.mp4" in notice for notice in notices) == 1
    assert {"check", "moved"} <= log(model)[-1].keys()
    assert ("heard" in log(model)[-1]) == heard


def test_a_network_goes_on_from_another_models(model: Path, photos: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"data": f"synthetic:{photos}", "device": "cpu"}
    run("network", CONFIG, model, steps=4, **asked)
    other = tmp_path / "other"
    for part in ("vae", "text_encoder", "tokenizer"):
        shutil.copytree(model / part, other / part)
    run("network", CONFIG, other, steps=1, init=model, learning_rate=1e-9, **asked)
    before, after = (load_file(next((folder / "unet").glob("*.safetensors"))) for folder in (model, other))
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)
    load_model(other)


def test_real_videos_are_mixed_in(model: Path, photos: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    frames = [Image.new("RGB", (40, 40), (40 * number, 99, 0)) for number in range(6)]
    frames[0].save(videos / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    (videos / "a.txt").write_text("it gets red")
    config = tmp_path / "mixed.toml"
    config.write_text(Path(CONFIG).read_text().replace("frames = 3", "frames = 3\nvideos = 0.5"))
    asked = {"data": f"synthetic:{photos}", "steps": 2, "device": "cpu"}
    with pytest.raises(RequestError, match="--videos"):
        run("network", str(config), model, **asked)
    run("network", str(config), model, videos=str(videos), **asked)
    assert log(model)[-1]["step"] == 2
    with pytest.raises(RequestError, match="of which no stage draws any"):
        run("network", CONFIG, model, videos=str(videos), **asked)


@pytest.mark.slow
def test_a_compiled_training_learns_the_same(model: Path, photos: Path, tmp_path: Path) -> None:
    """Minutes of compiling; figures agree but for rounding."""
    compiled, config = tmp_path / "compiled", tmp_path / "compiled.toml"
    shutil.copytree(model, compiled)
    config.write_text(Path(CONFIG).read_text().replace("[network]", "[network]\ncompile = true"))
    for folder, file in ((model, CONFIG), (compiled, str(config))):
        run("network", file, folder, data=f"synthetic:{photos}", steps=4, device="cpu")
    assert log(compiled)[-1]["loss"] == pytest.approx(log(model)[-1]["loss"], rel=1e-3)


def test_accelerates_own_configuration_adds_no_autocast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = accelerate.state.AcceleratorState
    state._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    run("text", CONFIG, tmp_path, steps=1, device="cpu")
    assert state().mixed_precision == "no"


def test_a_broken_photo_for_validation_is_named(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"this is not a photo")
    with pytest.raises(RequestError, match=r"broken\.png"):
        run("autoencoder", CONFIG, tmp_path, data=f"synthetic:{photos}", validation=tmp_path, device="cpu")


def test_the_network_needs_the_other_parts(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(WeightsError, match="no vae/ yet"):
        run("network", CONFIG, tmp_path, data=f"synthetic:{photos}", device="cpu")


@pytest.mark.parametrize("line", ['prediction_type = "x0"', "stepz = 3", 'steps = "many"', "batch = 0"])
def test_wrong_configurations_are_named(line: str, tmp_path: Path) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text(f"[network]\n{line}\n")
    with pytest.raises(RequestError, match=line.split()[0]):
        run("network", str(config), tmp_path, data="synthetic:.", device="cpu")


@pytest.mark.parametrize("line", ["native_sizes = 32", "frames = 16.5", "steps = true", "noise = 1"])
def test_settings_that_no_model_has_are_named(line: str, tmp_path: Path) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text(f"[settings]\n{line}\n")
    with pytest.raises(RequestError, match=rf"settings\.{line.split()[0]}"):
        read_file(str(config))


def test_a_folder_does_not_hide_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sketch").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_file("sketch").settings["native_size"] == 128


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


def test_a_gradient_that_is_not_finite_reaches_no_checkpoint(tmp_path: Path, accelerator: Any) -> None:
    class Steep(Line):
        def loss(self, model: nn.Module, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
            loss, figures = super().loss(model, draw)
            steep = (self.module.weight.sum() * 0).sqrt()  # 0, with a gradient of infinity times 0
            return loss + steep if draw.step + 1 == 8 else loss, figures

    part = Steep()
    with pytest.raises(ConsistI2VError, match="gradient of step 8 is not finite; checkpoint-00000004 is untouched"):
        train(part, LoopSettings(steps=30, warmup=0, save_every=4, log_every=4), tmp_path, accelerator)
    assert part.saved == 1
    assert [path.name for path in Records(tmp_path).checkpoints()] == ["checkpoint-00000004"]


def test_the_curve_is_drawn_with_each_checkpoint(
    tmp_path: Path, accelerator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, curve = [], records.loss_curve
    monkeypatch.setattr(records, "loss_curve", lambda steps, losses: drawn.append(steps[-1]) or curve(steps, losses))
    train(Line(), LoopSettings(steps=25, log_every=1, save_every=10), tmp_path, accelerator)
    assert drawn == [10, 20, 25]
    assert (tmp_path / "loss.png").is_file()


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


def test_two_trainings_of_one_part_do_not_share_a_folder(tmp_path):
    from filelock import FileLock

    folder = tmp_path / "model" / "training" / "text"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"), pytest.raises(RequestError, match="Another training is at work"):
        run("text", CONFIG, tmp_path / "model", device="cpu")
    assert run("text", CONFIG, tmp_path / "model", device="cpu").reason == "finished"
