"""Which files make a part, what is missing of a model, and its settings: without loading anything."""

import json
import subprocess
import sys

import pytest

from consisti2v_cli.errors import RequestError, WeightsError
from consisti2v_cli.weights import ModelSettings, choose, find, read_settings, require
from consisti2v_cli.weights.folder import missing, pick_weights, vae_factor
from consisti2v_cli.weights.registry import hub_repo

D = "diffusion_pytorch_model"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([f"{D}.safetensors", f"{D}.fp16.safetensors", f"{D}.bin"], [f"{D}.safetensors"]),
        ([f"{D}.fp16.safetensors", f"{D}.non_ema.safetensors"], [f"{D}.fp16.safetensors"]),
        (
            [f"{D}-00001-of-00002.safetensors", f"{D}-00002-of-00002.safetensors", f"{D}.safetensors.index.json"],
            [f"{D}.safetensors.index.json", f"{D}-00001-of-00002.safetensors", f"{D}-00002-of-00002.safetensors"],
        ),
        (
            [f"{D}.safetensors.index.fp16.json", f"{D}-00001-of-00001.fp16.safetensors", f"{D}-1-of-1.safetensors"],
            [f"{D}.safetensors.index.fp16.json", f"{D}-00001-of-00001.fp16.safetensors"],
        ),
        (["unet_step_170000.safetensors", "config.json"], ["unet_step_170000.safetensors"]),
        (["one.safetensors", "two.safetensors"], []),
        ([f"{D}.bin", "config.json"], []),
    ],
)
def test_which_files_hold_the_weights(names, expected):
    assert pick_weights(names, "unet") == expected
    assert pick_weights(reversed(names), "unet") == expected


@pytest.mark.parametrize(
    ("names", "dtype", "expected"),
    [
        (["", ".fp16", ".bf16"], "fp32", ""),
        (["", ".fp16", ".bf16"], "fp16", ".fp16"),
        (["", ".fp16", ".bf16"], "bf16", ".bf16"),
        (["", ".fp16"], "bf16", ""),  # rounded once, as it was before there was a copy
        ([".fp16"], "bf16", ".fp16"),
        ([".fp16"], "fp32", ".fp16"),
        ([".bf16", ".non_ema"], "fp16", ".bf16"),
    ],
)
def test_which_files_suit_a_precision(names, dtype, expected):
    files = [f"{D}{name}.safetensors" for name in names]
    assert pick_weights(files, "unet", dtype=dtype) == [f"{D}{expected}.safetensors"]


def test_bin_files_are_found_too():
    assert pick_weights(["pytorch_model.bin", "config.json"], "text_encoder", "bin") == ["pytorch_model.bin"]
    names = [f"{D}.bin.index.json", f"{D}-00001-of-00001.bin"]
    assert pick_weights(names, "unet", "bin") == names


def test_a_complete_model_is_found(tiny_model):
    folder = require(str(tiny_model))
    assert folder == find(str(tiny_model))
    assert folder.path == tiny_model
    assert folder.name == "tiny"
    assert missing(tiny_model) == []
    assert vae_factor(folder) == 8


@pytest.mark.parametrize(
    "lost",
    [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
    ],
)
def test_what_is_missing_is_named(model_copy, lost):
    (model_copy / lost).unlink()
    assert find(str(model_copy)) is None
    named = "tokenizer" if lost.startswith("tokenizer") else lost
    with pytest.raises(WeightsError, match=named):
        require(str(model_copy))


def test_a_part_that_is_only_bin_is_refused_at_rendering(model_copy):
    part = model_copy / "text_encoder"
    (part / "model.safetensors").rename(part / "pytorch_model.bin")
    assert find(str(model_copy)) is None
    with pytest.raises(WeightsError, match=r"text_encoder/pytorch_model\.bin.*consisti2v fetch-weights"):
        require(str(model_copy))


def test_unknown_models():
    with pytest.raises(RequestError, match="sketch"):
        require("no such/model at all")


def test_weights_that_are_not_here_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for model in ("consisti2v", "somebody/some-model"):
        assert find(model) is None
        with pytest.raises(WeightsError, match=f"consisti2v fetch-weights {model}"):
            require(model)
    assert choose() == "sketch"


def test_settings_default_to_the_papers(tiny_model, tmp_path):
    assert read_settings(tmp_path) == ModelSettings()
    assert ModelSettings().native_size == 256
    assert read_settings(tiny_model).native_size == 64
    assert read_settings(tiny_model).layout_cutoff == 0.25


@pytest.mark.parametrize("content", ['{"stepz": 3}', '{"steps": "many"}', '{"steps": true}', "[1]", "{"])
def test_damaged_settings_are_refused(tmp_path, content):
    (tmp_path / "consisti2v.json").write_text(content)
    with pytest.raises(WeightsError, match=r"consisti2v\.json"):
        read_settings(tmp_path)


def test_looking_for_models_does_not_import_torch(tiny_model):
    code = (
        "import sys; from consisti2v_cli.weights import require, read_settings; "
        "read_settings(require(sys.argv[1])); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tiny_model], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("content", ["[1]", "3", '{"weight_map": ["a"]}'])
def test_an_index_of_the_wrong_shape(model_copy, content):
    (model_copy / "unet" / f"{D}.safetensors").unlink()
    (model_copy / "unet" / f"{D}.safetensors.index.json").write_text(content)
    assert find(str(model_copy)) is None
    with pytest.raises(WeightsError, match="unet"):
        require(str(model_copy))


@pytest.mark.parametrize("content", ["[1]", '{"block_out_channels": 3}', "{"])
def test_without_the_autoencoders_levels_there_is_no_size(model_copy, content):
    (model_copy / "vae" / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=r"vae/config\.json"):
        vae_factor(model_copy)


@pytest.mark.parametrize("name", ["a/b", "TIGER-Lab/ConsistI2V", "someone/_model", "a.b_c/d-e.f", f"a/{'b' * 94}"])
def test_names_that_a_repository_may_have(name):
    assert hub_repo(name) == name


@pytest.mark.parametrize(
    "name",
    ["a--b/c", "a/b--c", "a..b/c", "a/b.", "a/-b", "a-/b", "a/.b", "a/b.git", "a/b/c", "a/é", f"a/{'b' * 95}", "a/b\n"],
)
def test_names_that_no_repository_can_have(name):
    with pytest.raises(RequestError, match="neither a name"):
        require(name)


def test_an_index_cannot_point_elsewhere(model_copy):
    part = model_copy / "unet"
    (part / f"{D}.safetensors").unlink()
    index = {"weight_map": {"conv_in.weight": "../vae/diffusion_pytorch_model.safetensors"}}
    (part / f"{D}.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="unet"):
        require(str(model_copy))
