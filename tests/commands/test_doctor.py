"""`consisti2v doctor` through the real executable: what is here, and what is said of what is broken."""

import json
import os
import shutil
from importlib.metadata import version

import numpy as np
import pytest

from consisti2v_cli.recipe import Recipe
from consisti2v_cli.weights import require
from consisti2v_cli.work import working

COMMIT = "0123456789" * 4


@pytest.fixture
def cached(tmp_path, tiny_model):
    """Puts the made-up model into the hub's cache: cached("someone/swaying")."""

    def cached(repository):
        storage = tmp_path / "hub" / "hub" / f"models--{repository.replace('/', '--')}"
        (storage / "refs").mkdir(parents=True)
        (storage / "refs" / "main").write_text(COMMIT)
        return shutil.copytree(tiny_model, storage / "snapshots" / COMMIT)

    return cached


@pytest.fixture
def config(tmp_path):
    """Writes the user's configuration."""

    def config(text):
        path = tmp_path / "config" / "consisti2v" / "config.toml"
        path.parent.mkdir(parents=True)
        path.write_text(text)

    return config


def test_a_fresh_machine(run, tmp_path):
    shown = run("doctor", "--json", env={"HF_TOKEN": "hf_secret", "CONSISTI2V_PAN_STEPS": "7"})
    assert shown.returncode == 0, shown.stderr
    told = json.loads(shown.stdout)
    assert told["broken"] == []
    assert {name: told["versions"][name] for name in ("torch", "diffusers", "transformers")} == {
        name: version(name) for name in ("torch", "diffusers", "transformers")
    }
    assert told["versions"]["ffmpeg"]
    assert told["machine"]["cores"] <= len(os.sched_getaffinity(0))
    assert 0 < told["machine"]["memory_available_bytes"] <= told["machine"]["memory_bytes"]
    assert told["devices"][-1]["device"] == "cpu"
    assert told["choice"]["model"] == "sketch"
    assert "fetch-weights" in told["choice"]["because"]
    assert told["choice"]["memory_for_a_clip_bytes"] > 20_000_000
    assert told["choice"]["plan"] == "all at once"
    assert [model["model"] for model in told["models"]] == ["sketch"]
    assert told["folders"]["weights"] == "~/hub/hub"
    assert told["folders"]["weights_free_bytes"] > 0
    assert told["settings"]["configuration"] == "~/config/consisti2v/config.toml"
    assert {"CONSISTI2V_PAN_STEPS", "HF_HUB_OFFLINE"} <= set(told["settings"]["environment"])
    assert any("HF_HUB_OFFLINE" in warning for warning in told["warnings"])
    for secret in ("hf_secret", str(tmp_path)):
        assert secret not in shown.stdout + shown.stderr


def test_for_a_person(run, config):
    config("[animate]\nsteps = 30\n[pan]\nease = 'in'\n")
    shown = run("doctor")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    topics = [line for line in lines if not line.startswith(" ")]
    assert topics == ["Versions", "Machine", "Devices", "Models", "Choice", "Folders", "Settings", "Preview"]
    rows = [line.split(maxsplit=1) for line in lines if line.startswith("  ")]
    assert ["configured", "animate pan"] in rows
    assert ["torch", version("torch")] in rows
    assert "Warning: HF_HUB_OFFLINE" in shown.stderr
    assert all(line.startswith("Warning: ") for line in shown.stderr.splitlines())


def test_a_misspelled_variable(call, monkeypatch):
    monkeypatch.setenv("CONSISTI2V_ANIMATE_STPES", "7")
    monkeypatch.setenv("CONSISTI2V_PAN_NO_LAYOUT_ONLY", "1")
    monkeypatch.setenv("CONSISTI2V_QUUX", "1")
    warnings = [line for line in call("doctor").stderr.splitlines() if "CONSISTI2V_" in line]
    assert warnings == [
        "Warning: The variable CONSISTI2V_ANIMATE_STPES is read by no command; did you mean CONSISTI2V_ANIMATE_STEPS?",
        "Warning: The variable CONSISTI2V_QUUX is read by no command.",
    ]


def test_the_released_model_is_chosen_where_it_is(run, cached):
    cached("TIGER-Lab/ConsistI2V")
    told = json.loads(run("doctor", "--json", "-q").stdout)
    assert told["choice"]["model"] == "consisti2v"
    assert [(model["model"], model["problem"]) for model in told["models"]] == [("sketch", None), ("consisti2v", None)]
    assert any("GPU" in warning for warning in told["warnings"]) == (told["choice"]["device"] == "cpu")


@pytest.mark.slow
def test_damaged_and_incomplete_models_are_broken(run, cached):
    whole, half = cached("someone/damaged"), cached("someone/incomplete")
    weights = next((whole / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    (half / "vae" / "config.json").unlink()
    shown = run("doctor")
    assert shown.returncode == 3
    errors = [line for line in shown.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 2
    assert "someone/damaged" in errors[0]
    assert f"unet/{weights.name}" in errors[0]
    assert "someone/incomplete" in errors[1]
    assert "vae/config.json" in errors[1]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("vae/config.json", "[1]"),
        ("unet/config.json", "[1]"),
        ("scheduler/scheduler_config.json", "[1]"),
        ("scheduler/scheduler_config.json", '{"beta_schedule": "zzz"}'),
    ],
)
def test_damaged_configurations_are_broken_and_the_rest_is_told(call, cached, monkeypatch, tmp_path, file, content):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub" / "hub"))
    folder = cached("TIGER-Lab/ConsistI2V")  # which would be chosen
    (folder / "scheduler").mkdir()
    (folder / file).write_text(content)
    shown = call("doctor", "--json", "-q")
    assert shown.returncode == 3
    told = json.loads(shown.stdout)
    (error,) = told["broken"]
    assert file in error
    assert told["preview"]
    assert [model["model"] for model in told["models"]] == ["sketch", "consisti2v"]


@pytest.mark.slow
def test_what_else_is_broken(run, config):
    """Each is named, and the rest is still told."""
    config("[animate]\nstepz = 30\n")
    shown = run("doctor", "--json", "-q", env={"IMAGEIO_FFMPEG_EXE": "/nowhere/ffmpeg"})
    assert shown.returncode == 1
    errors = shown.stderr.splitlines()
    assert len(errors) == 2
    assert "ffmpeg does not run" in errors[0]
    assert "IMAGEIO_FFMPEG_EXE" in errors[0]
    assert "stepz" in errors[1]
    told = json.loads(shown.stdout)
    assert len(told["broken"]) == 2
    assert told["choice"]["model"] == "sketch"


def test_a_torch_that_does_not_start(run, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("raise ImportError('libnothing.so.1: cannot open')\n")
    shown = run("doctor", env={"PYTHONPATH": str(tmp_path / "broken")})
    assert shown.returncode == 1
    (error,) = [line for line in shown.stderr.splitlines() if line.startswith("Error: ")]
    assert "torch" in error
    assert "libnothing.so.1" in error
    assert "Choice" in shown.stdout


def test_a_configuration_of_ones_own(run, tmp_path):
    (tmp_path / "mine.toml").write_text("[zoom]\nratio = 2\n")
    told = json.loads(run("doctor", "--json", "--config", "mine.toml").stdout)
    assert (told["settings"]["configuration"], told["settings"]["configured"]) == ("mine.toml", ["zoom"])
    absent = run("doctor", "--config", "nowhere.toml")
    assert absent.returncode == 2
    assert "nowhere.toml" in absent.stderr


def test_unfinished_films_are_counted(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CONSISTI2V_STATE", str(tmp_path / "state"))
    recipe = Recipe(prompt="x", seed=1, command="extend", model="sketch", width=64, height=64)
    with working(recipe, require("sketch")) as work:
        work.keep_latents(1, np.zeros((4, 2, 8, 8), np.float32))
        work.note(recipe, first_seed=1, request="", outputs=[tmp_path / "long.mp4"])
    told = json.loads(run("doctor", "--json", env={"CONSISTI2V_STATE": str(tmp_path / "state")}).stdout)
    assert told["folders"]["unfinished_films"] == 1
    assert told["folders"]["unfinished_files_bytes"] > 0
    assert told["folders"]["state_files_bytes"] >= told["folders"]["unfinished_files_bytes"]
    assert told["folders"]["state"] == "~/state"
