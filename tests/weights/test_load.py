"""Files become modules strictly; whatever does not fit is named."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from consisti2v_cli.errors import RequestError, WeightsError
from consisti2v_cli.model import rotary_frequencies
from consisti2v_cli.weights import ModelFolder
from consisti2v_cli.weights.load import load_model, load_part

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


def change(path, edit):
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def test_all_parts_hold_what_the_files_hold(tiny_model):
    model = load_model(tiny_model)
    for file, module in ((UNET, model.unet), (VAE, model.vae), (TEXT, model.text_encoder)):
        stored = load_file(tiny_model / file)
        held = module.state_dict()
        assert held.keys() == stored.keys()
        assert all(torch.equal(held[name], stored[name]) for name in stored)
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert not any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()])
    assert model.max_tokens == 16
    assert model.settings.native_size == 64
    assert model.scheduler_config is None


def test_the_text_encoder_computes_what_the_library_computes(tiny_model):
    from transformers import CLIPTextModel

    tokens = torch.tensor([[520, 513, 521, 521]])
    theirs = CLIPTextModel.from_pretrained(tiny_model / "text_encoder").eval()(tokens).last_hidden_state
    ours = load_part(tiny_model, "text_encoder")(tokens).last_hidden_state
    assert torch.equal(ours, theirs)


def test_half_precision_is_for_network_and_text_only(tiny_model):
    model = load_model(tiny_model, dtype="bf16")
    assert {parameter.dtype for parameter in model.text_encoder.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.unet.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.vae.parameters()} == {torch.float32}
    rotary = {name: value for name, value in model.unet.state_dict().items() if name.endswith("rotary_emb.freqs")}
    assert rotary
    assert {value.dtype for value in rotary.values()} == {torch.float32}


def test_a_half_precision_file_gives_exact_rotary_frequencies(model_copy):
    path = model_copy / UNET
    tensors = {name: value.half() for name, value in load_file(path).items()}
    path.unlink()
    save_file(tensors, path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    held = load_part(model_copy, "unet").state_dict()
    assert held["conv_in.weight"].dtype == torch.float32
    for name, value in held.items():
        if name.endswith("rotary_emb.freqs"):
            assert torch.equal(value, rotary_frequencies(4 * value.numel()))


def test_sharded_weights(model_copy, tiny_model):
    path = model_copy / UNET
    tensors = load_file(path)
    path.unlink()
    names = sorted(tensors)
    weight_map = {}
    for number in (1, 2):
        shard = f"diffusion_pytorch_model-{number:05}-of-00002.safetensors"
        half = names[number - 1 :: 2]
        save_file({name: tensors[name] for name in half}, model_copy / "unet" / shard)
        weight_map |= dict.fromkeys(half, shard)
    index = {"metadata": {}, "weight_map": weight_map}
    (model_copy / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    held = load_part(model_copy, "unet").state_dict()
    assert all(torch.equal(held[name], value) for name, value in load_file(tiny_model / UNET).items())
    (model_copy / "unet" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match="unet"):
        load_model(model_copy)


def test_a_training_checkpoint_with_its_prefix_and_unused_tensors(model_copy, tiny_model):
    def edit(tensors):
        for name in list(tensors):
            tensors[f"module.{name}"] = tensors.pop(name)
        layer = "module.down_blocks.0.tempo_attns.0.transformer_blocks.0.attn1"
        tensors[f"{layer}.rotary_bias.relative_attention_bias.weight"] = torch.ones(32, 8)
        tensors["module.down_blocks.0.conv3ds.0.time_emb_proj.weight"] = torch.ones(2, 2)

    change(model_copy / UNET, edit)
    held = load_part(model_copy, "unet").state_dict()
    stored = load_file(tiny_model / UNET)
    assert held.keys() == stored.keys()
    assert all(torch.equal(held[name], stored[name]) for name in stored)


def test_names_of_older_libraries(model_copy, tiny_model):
    """Stable Diffusion's files: the autoencoder's old attention names, the text encoder's prefix and its counter."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def edit_vae(tensors):
        for name in list(tensors):
            match = re.search(r"\.attentions\.0\.(to_q|to_k|to_v|to_out\.0)\.", name)
            if match:
                tensors[name.replace(match[1], old[match[1]])] = tensors.pop(name)

    def edit_text(tensors):
        for name in list(tensors):
            tensors["text_model." + name.removeprefix("text_model.")] = tensors.pop(name)
        tensors["text_model.embeddings.position_ids"] = torch.arange(16)[None]

    change(model_copy / VAE, edit_vae)
    change(model_copy / TEXT, edit_text)
    old_model, new_model = load_model(model_copy), load_model(tiny_model)
    for part in ("vae", "text_encoder"):
        held, expected = (getattr(model, part).state_dict() for model in (old_model, new_model))
        assert all(torch.equal(held[name], value) for name, value in expected.items())


TENSOR_OF = {
    UNET: "mid_block.resnets.0.conv1.weight",
    VAE: "decoder.conv_in.weight",
    TEXT: "encoder.layers.1.mlp.fc1.bias",
}


@pytest.mark.parametrize("file", TENSOR_OF)
def test_tensors_that_do_not_fit_are_named(model_copy, tiny_model, file):
    part, name = file.partition("/")[0], TENSOR_OF[file]
    stored = next(stored for stored in load_file(tiny_model / file) if stored.endswith(name))
    shape = list(load_file(tiny_model / file)[stored].shape)

    def misshape(tensors):
        tensors[stored] = torch.zeros(3, 5)

    def remove(tensors):
        del tensors[stored]

    def add(tensors):
        tensors["a.stranger"] = torch.zeros(1)

    for edit, message in (
        (misshape, rf"{name} \[3, 5\] instead of {re.escape(str(shape))}"),
        (remove, f"lacks .*{name}"),
        (add, r"a\.stranger"),
    ):
        change(model_copy / file, edit)
        with pytest.raises(WeightsError, match=message) as error:
            load_part(model_copy, part)
        assert part in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_have_their_channels_last_where_these_are_last(tiny_model, dtype):
    held = load_part(tiny_model, "unet", dtype=dtype).state_dict()
    kernels = {name: value for name, value in held.items() if value.dim() > 3}
    assert {value.dim() for value in kernels.values()} == {4, 5}
    for value in kernels.values():
        planes = value.squeeze(-1) if value.dim() == 5 else value
        assert planes.is_contiguous(memory_format=torch.channels_last)
    kernel = load_part(tiny_model, "vae").state_dict()["decoder.conv_in.weight"]
    assert kernel.is_contiguous(memory_format=torch.channels_last)


def test_what_is_used_as_it_is_stays_in_the_file(tiny_model):
    """Nothing else keeps the file mapped: what is converted is copied, and the mapping that it was read from goes."""
    path = str(tiny_model / UNET)

    def mappings():
        lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(path)]
        return [range(*(int(end, 16) for end in line.split()[0].split("-"))) for line in lines]

    before = len(mappings())
    whole = load_part(tiny_model, "unet")
    mapped = mappings()
    assert len(mapped) == before + 1
    assert any(whole.conv_in.bias.data_ptr() in place for place in mapped)
    assert not any(whole.conv_in.weight.data_ptr() in place for place in mapped)
    halved = load_part(tiny_model, "unet", dtype=torch.float16)
    assert len(mappings()) <= before + 2  # for the rotary frequencies
    del whole, halved
    assert len(mappings()) == before


@pytest.mark.slow
def test_loading_holds_little_more_than_the_files_or_what_becomes_of_them(tmp_path):
    """A model of half a gigabyte, in processes of their own."""
    script = Path(__file__).parents[1] / "benchmarks" / "memory.py"
    command = [sys.executable, script, "loading", "--scale", "4", "--folder", tmp_path]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    shares = {line.split()[0]: float(line.split()[2]) for line in shown[2:]}
    assert shares.keys() == {"fp32", "bf16"}
    assert all(0.4 < share < 1.2 for share in shares.values())


def test_many_missing_tensors_are_counted(model_copy):
    change(model_copy / UNET, lambda tensors: [tensors.pop(name) for name in list(tensors)[5:]])
    with pytest.raises(WeightsError, match=r"and \d+ more"):
        load_part(model_copy, "unet")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("file", TENSOR_OF)
def test_numbers_that_are_none_are_named(model_copy, file, stored, number):
    part = file.partition("/")[0]
    tensors = {name: tensor.to(stored) for name, tensor in load_file(model_copy / file).items()}
    name = next(stored for stored in tensors if stored.endswith(TENSOR_OF[file]))
    tensors[name].view(-1)[-1] = number
    save_file(tensors, model_copy / file)
    for dtype in (torch.float32, torch.float16):
        with pytest.raises(WeightsError, match=rf"{re.escape(file)}.*{re.escape(TENSOR_OF[file])}.*not finite"):
            load_part(model_copy, part, dtype=dtype)


@pytest.mark.parametrize(
    ("stored", "dtype"), [("float32", "float16"), ("bfloat16", "float16"), ("float64", "bfloat16")]
)
def test_numbers_that_are_too_large_for_the_precision_are_named(model_copy, stored, dtype):
    largest = torch.finfo(getattr(torch, dtype)).max
    tensors = {name: tensor.to(getattr(torch, stored)) for name, tensor in load_file(model_copy / UNET).items()}
    tensors["conv_in.bias"][3] = -1.02 * largest
    save_file(tensors, model_copy / UNET)
    with pytest.raises(WeightsError, match=rf"conv_in\.bias .*too large for {dtype}"):
        load_part(model_copy, "unet", dtype=getattr(torch, dtype))
    tensors["conv_in.bias"][3] = -0.98 * largest
    save_file(tensors, model_copy / UNET)
    assert torch.isfinite(load_part(model_copy, "unet", dtype=getattr(torch, dtype)).conv_in.bias).all()


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_under_the_name_of_safetensors_is_not_run(model_copy, file, zipped):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(model_copy / "exploded"),))

    with (model_copy / file).open("wb") as stream:
        content = load_file(model_copy / UNET) if not zipped and file != UNET else {}
        content["bomb"] = Bomb()
        torch.save(content, stream) if zipped else pickle.dump(content, stream)
    with pytest.raises(WeightsError, match=rf"{re.escape(file)} is a pickle"):
        load_part(model_copy, file.partition("/")[0])
    assert not (model_copy / "exploded").exists()


def test_tensors_of_another_kind_are_named(model_copy):
    change(model_copy / UNET, lambda tensors: tensors.update({"conv_in.bias": tensors["conv_in.bias"].to(torch.int32)}))
    with pytest.raises(WeightsError, match=r"conv_in\.bias of the type I32 instead of float32"):
        load_part(model_copy, "unet")


def test_a_tensor_that_is_there_twice_is_named(model_copy):
    change(model_copy / UNET, lambda tensors: tensors.update({"module.conv_in.bias": tensors["conv_in.bias"] + 1}))
    with pytest.raises(WeightsError, match=r"unknown .*conv_in\.bias"):
        load_part(model_copy, "unet")


@pytest.mark.parametrize(("revision", "option"), [("0" * 40, ""), ("1" * 40, f" --revision {'1' * 40}")])
@pytest.mark.parametrize("file", [VAE, "vae/config.json"])
def test_what_the_cache_has_damaged_says_how_to_mend_it(model_copy, tmp_path, monkeypatch, file, revision, option):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    storage = tmp_path / "hub" / "models--TIGER-Lab--ConsistI2V"
    (storage / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text("0" * 40)
    (model_copy / file).write_bytes(b"")
    mend = f"\nTo check the files and mend them: consisti2v fetch-weights consisti2v{option}$"
    with pytest.raises(WeightsError, match=mend):
        load_model(ModelFolder(model_copy, "consisti2v", revision))


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_damaged_files_are_named(model_copy, content):
    (model_copy / VAE).write_bytes(content)
    with pytest.raises(WeightsError, match="vae"):
        load_part(model_copy, "vae")


def test_a_truncated_file_is_named(model_copy):
    path = model_copy / UNET
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="unet/diffusion_pytorch_model"):
        load_part(model_copy, "unet")


def test_unsupported_configurations_are_refused(model_copy):
    path = model_copy / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"act_fn": "gelu"}))
    with pytest.raises(WeightsError, match="act_fn"):
        load_part(model_copy, "unet")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("unet/config.json", "[1]"),
        ("vae/config.json", "[1]"),
        ("vae/config.json", '{"block_out_channels": 3}'),
        ("vae/config.json", '{"block_out_channels": []}'),
        ("text_encoder/config.json", '"text"'),
        ("scheduler/scheduler_config.json", "[1]"),
        ("scheduler/scheduler_config.json", "[" * 100_000),
        ("scheduler/scheduler_config.json", '{"beta_schedule": "zzz"}'),
        ("scheduler/scheduler_config.json", '{"num_train_timesteps": "a"}'),
    ],
)
def test_configurations_of_the_wrong_shape_are_named_before_anything_is_loaded(model_copy, file, content):
    (model_copy / "scheduler").mkdir()
    (model_copy / file).write_text(content)
    loaded = []
    with pytest.raises(WeightsError, match=re.escape(file)) as error:
        load_model(model_copy, on_part=lambda *report: loaded.append(report))
    assert "\n" not in str(error.value)
    assert not loaded


@pytest.mark.parametrize(
    "change", [{"block_out_channels": []}, {"block_out_channels": ["a", 2]}, {"layers_per_block": {}}]
)
@pytest.mark.parametrize("part", ["unet", "vae"])
def test_configurations_with_impossible_values_are_named(model_copy, part, change):
    path = model_copy / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(WeightsError, match=f"{part}/config.json"):
        load_part(model_copy, part)


def test_the_schedule_of_the_folder_is_used(model_copy):
    (model_copy / "scheduler").mkdir()
    (model_copy / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    assert load_model(model_copy).scheduler_config == {"prediction_type": "v_prediction"}


def test_impossible_requests(tiny_model):
    with pytest.raises(RequestError, match="sdpa"):
        load_model(tiny_model, attention="quantum")
    with pytest.raises(RequestError, match="fp16"):
        load_model(tiny_model, dtype="fp8")
