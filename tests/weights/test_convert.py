"""`.bin` files become safetensors, and nothing stored in them runs; weights are halved, and their originals go."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from consisti2v_cli.errors import ConsistI2VError, RequestError, WeightsError
from consisti2v_cli.weights import fetch, find
from consisti2v_cli.weights.cache import hub_hash
from consisti2v_cli.weights.folder import weight_files
from consisti2v_cli.weights.load import load_model, load_part
from consisti2v_cli.weights.store import own_hash_holds, read_header

STEM = "diffusion_pytorch_model"
UNET = f"unet/{STEM}.safetensors"
TEXT = "text_encoder/model.safetensors"
HALF_UNET, HALF_TEXT = f"unet/{STEM}.fp16.safetensors", "text_encoder/model.fp16.safetensors"


class Bomb:
    """A pickle that makes a folder when it is read."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (os.mkdir, (str(self.place),))


def as_bin(model, content, name=f"{STEM}.bin"):
    """The network's weights as a `.bin` only."""
    (model / UNET).unlink()
    torch.save(content, model / "unet" / name)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nested", [False, True])
def test_a_bin_file_with_code_in_it_is_not_run(model_copy, zipped, nested):
    bomb = Bomb(model_copy / "exploded")
    as_bin(model_copy, {})
    with (model_copy / "unet" / f"{STEM}.bin").open("wb") as file:
        content = {"conv_in.weight": [bomb] if nested else bomb}
        torch.save(content, file) if zipped else pickle.dump(content, file, protocol=2)
    with pytest.raises(WeightsError, match=rf"unet/{STEM}\.bin holds more than tensors"):
        fetch(str(model_copy))
    assert not bomb.place.exists()
    assert not (model_copy / UNET).exists()


@pytest.mark.parametrize("content", [{"epoch": 3}, {"a.tensor": torch.ones(2), "a.list": [1]}, [torch.ones(2)], "text"])
def test_a_bin_file_of_anything_but_tensors_is_refused(model_copy, content):
    as_bin(model_copy, content)
    named = (
        next((name for name, value in content.items() if not isinstance(value, torch.Tensor)), "")
        if (isinstance(content, dict))
        else type(content).__name__
    )
    with pytest.raises(WeightsError, match=rf"unet/{STEM}\.bin holds more than tensors.*{named}"):
        fetch(str(model_copy))


def test_one_number_repeated_for_ever_is_refused(model_copy):
    as_bin(model_copy, {"conv_in.weight": torch.ones(1).expand(10**12)})
    with pytest.raises(WeightsError, match=r"conv_in\.weight"):
        fetch(str(model_copy))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_bin_file_with_numbers_that_are_none(model_copy, number):
    tensors = load_file(model_copy / UNET)
    tensors["conv_in.bias"][3] = number
    as_bin(model_copy, tensors)
    with pytest.raises(WeightsError, match=rf"unet/{STEM}\.bin.*conv_in\.bias.*finite"):
        fetch(str(model_copy))


@pytest.mark.parametrize("length", [0, 100, -1000])
def test_a_bin_file_that_is_cut(model_copy, length):
    as_bin(model_copy, load_file(model_copy / UNET))
    path = model_copy / "unet" / f"{STEM}.bin"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(WeightsError, match=rf"unet/{STEM}\.bin is damaged"):
        fetch(str(model_copy))


def test_a_program_is_told_from_a_damaged_file(model_copy, recwarn):
    as_bin(model_copy, {})
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), model_copy / "unet" / f"{STEM}.bin")
    with pytest.raises(WeightsError, match=rf"unet/{STEM}\.bin holds more than tensors .*is not read\.$"):
        fetch(str(model_copy))
    assert not [warning for warning in recwarn if "TorchScript" in str(warning.message)]


def test_the_librarys_advice_is_not_passed_on(model_copy):
    as_bin(model_copy, load_file(model_copy / UNET))
    path = model_copy / "unet" / f"{STEM}.bin"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError) as error:
        fetch(str(model_copy))
    assert "weights_only" not in str(error.value)
    assert "checkpoint" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folders_training_checkpoint_is_converted_in_place(model_copy):
    tensors = load_file(model_copy / UNET)
    prefixed = {f"module.{name}": tensor for name, tensor in tensors.items()}
    prefixed["module.tied"] = prefixed["module.conv_in.weight"].transpose(0, 1)  # shares its storage, in another order
    as_bin(model_copy, {"epoch": 3, "state_dict": prefixed}, "checkpoint-170000.bin")
    notices = []
    folder = fetch(str(model_copy), on_notice=notices.append)
    assert len(notices) == 1
    assert find(str(model_copy)) == folder
    written = load_file(model_copy / UNET)
    assert written.keys() == prefixed.keys()
    assert all(torch.equal(written[name], prefixed[name]) for name in prefixed)
    assert own_hash_holds(model_copy / UNET, read_header(model_copy / UNET))


def test_sharded_bin_files_are_converted(model_copy):
    tensors = load_file(model_copy / UNET)
    (model_copy / UNET).unlink()
    part = model_copy / "unet"
    shards = [f"{STEM}-0000{number}-of-00002.bin" for number in (1, 2)]
    weight_map = {name: shards[index % 2] for index, name in enumerate(tensors)}
    for shard in shards:
        torch.save({name: tensors[name] for name in tensors if weight_map[name] == shard}, part / shard)
    (part / f"{STEM}.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    fetch(str(model_copy))
    held = load_part(model_copy, "unet").state_dict()
    assert all(torch.equal(held[name], value) for name, value in tensors.items())


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_copies_in_half_precision_load_as_the_originals_do(model_copy, tiny_model, dtype):
    notices = []
    fetch(str(model_copy), dtype=dtype, on_notice=notices.append)
    assert len(notices) == 2
    for part in ("unet", "text_encoder"):
        (file,) = weight_files(model_copy, part, dtype)
        assert file.name.endswith(f".{dtype}.safetensors")
        assert weight_files(model_copy, part) == [model_copy / (UNET if part == "unet" else TEXT)]
        assert file.stat().st_size < 0.6 * weight_files(model_copy, part)[0].stat().st_size
        assert load_file(file)  # the library reads it
    halved, whole = load_model(model_copy, dtype=dtype), load_model(tiny_model, dtype=dtype)
    for part in ("unet", "text_encoder", "vae"):
        held, expected = (getattr(model, part).state_dict() for model in (halved, whole))
        assert held.keys() == expected.keys()
        assert all(torch.equal(held[name], expected[name]) for name in expected)
        assert all(held[name].dtype == expected[name].dtype for name in expected)
    again = []
    fetch(str(model_copy), dtype=dtype, on_notice=again.append)
    assert not again


def test_copies_of_sharded_weights_are_one_file(model_copy, tiny_model):
    tensors = load_file(model_copy / UNET)
    (model_copy / UNET).unlink()
    names = [f"{STEM}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    weight_map = {name: names[index % 2] for index, name in enumerate(tensors)}
    for shard in names:
        save_file({name: tensors[name] for name in tensors if weight_map[name] == shard}, model_copy / "unet" / shard)
    (model_copy / "unet" / f"{STEM}.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    fetch(str(model_copy), dtype="fp16")
    half = load_file(model_copy / HALF_UNET)
    assert half.keys() == tensors.keys()
    kept = {name for name in tensors if name.endswith("rotary_emb.freqs")}
    assert kept
    assert all(half[name].dtype == (torch.float32 if name in kept else torch.float16) for name in half)


def test_a_copy_that_is_older_than_its_original_is_not_used_and_made_again(model_copy):
    fetch(str(model_copy), dtype="fp16")
    tensors = load_file(model_copy / UNET)
    tensors["conv_in.bias"] += 1
    save_file(tensors, model_copy / UNET)  # trained on
    later = (model_copy / HALF_UNET).stat().st_mtime_ns + 10**9
    os.utime(model_copy / UNET, ns=(later, later))
    assert weight_files(model_copy, "unet", "fp16") == [model_copy / UNET]
    notices = []
    fetch(str(model_copy), dtype="fp16", on_notice=notices.append)
    assert "older" in notices[0]
    assert torch.equal(load_file(model_copy / HALF_UNET)["conv_in.bias"], tensors["conv_in.bias"].half())


@pytest.mark.parametrize("number", [1e6, float("nan")])
def test_what_does_not_fit_half_precision_is_named(model_copy, number):
    tensors = load_file(model_copy / UNET)
    tensors["conv_in.bias"][3] = number
    save_file(tensors, model_copy / UNET)
    with pytest.raises(WeightsError, match=rf"unet/{STEM}\.safetensors.*conv_in\.bias.*(too large|finite)"):
        fetch(str(model_copy), dtype="fp16")
    assert not list((model_copy / "unet").glob("*fp16*"))  # nor half of it


def test_weights_with_a_name_of_their_own_are_not_copied(model_copy):
    """A copy beside them would be taken for the model's only weights, in full precision too."""
    (model_copy / UNET).rename(model_copy / "unet" / "unet_step_170000.safetensors")
    with pytest.raises(WeightsError, match=f"named {STEM}"):
        fetch(str(model_copy), dtype="fp16")
    assert not (model_copy / HALF_UNET).exists()


def test_weights_that_are_half_are_left_as_they_are(model_copy):
    for file in (UNET, TEXT):
        halves = {name: tensor.half() for name, tensor in load_file(model_copy / file).items()}
        save_file(halves, model_copy / file)
    notices = []
    fetch(str(model_copy), dtype="bf16", on_notice=notices.append)
    assert len(notices) == 2
    assert not list(model_copy.rglob("*bf16*"))


def test_nothing_of_a_persons_own_is_removed(model_copy):
    with pytest.raises(RequestError, match="your own"):
        fetch(str(model_copy), dtype="fp16", drop_originals=True)
    assert (model_copy / UNET).exists()


def test_dropped_originals_stay_away_until_they_are_asked_for(hub, client, tiny_model):
    size = sum((tiny_model / file).stat().st_size for file in (UNET, TEXT))
    result = client.fetch(dtype="fp16", drop_originals=True)
    assert any("Removed the originals of unet and text_encoder" in notice for notice in result.notices)
    assert f"{size / 1e6:.1f} MB" in result.notices[-1]
    files = {file.relative_to(result.path).as_posix() for file in result.path.rglob("*") if file.is_file()}
    assert {HALF_UNET, HALF_TEXT} <= files
    assert not {UNET, TEXT} & files
    blobs = sum(file.stat().st_size for file in (client.storage / "blobs").iterdir())
    assert blobs == sum(file.stat().st_size for file in tiny_model.rglob("*") if file.is_file()) - size
    model, expected = load_model(result.path, dtype="fp16"), load_model(tiny_model, dtype="fp16")
    assert torch.equal(model.unet.state_dict()["conv_in.weight"], expected.unet.state_dict()["conv_in.weight"])
    assert load_model(result.path).unet.state_dict()["conv_in.weight"].dtype == torch.float32  # of the half ones

    hub.requests.clear()
    for options in ({}, {"dtype": "fp16", "drop_originals": True}):
        assert client.fetch(**options).path == result.path
    assert not hub.gets(UNET)
    back = client.fetch(dtype="fp32")
    assert (back.path / UNET).read_bytes() == (tiny_model / UNET).read_bytes()
    assert len(hub.gets(UNET)) == 1
    assert weight_files(back.path, "unet", "fp16") == [back.path / HALF_UNET]  # not stale: the hub's files never change


def test_a_blob_that_another_revision_needs_is_not_dropped(hub, client, tiny_model):
    first = client.fetch().path
    hub.commit = "f" * 40
    (hub.files / "consisti2v.json").write_text('{"steps": 3}')
    second = client.fetch(dtype="fp16", drop_originals=True).path
    assert not (second / UNET).exists()
    assert (first / UNET).read_bytes() == (tiny_model / UNET).read_bytes()


@pytest.mark.parametrize("dropped", [False, True])
def test_a_damaged_copy_is_made_again(hub, client, tiny_model, dropped):
    path = client.fetch(dtype="fp16", drop_originals=dropped).path
    content = (path / HALF_UNET).read_bytes()
    (path / HALF_UNET).write_bytes(content[:-2] + b"\x00\x40")
    result = client.fetch(dtype="fp16", drop_originals=dropped)
    assert f"{HALF_UNET} is damaged" in result.notices[0]
    assert (path / HALF_UNET).read_bytes() == content
    assert len(hub.gets(UNET)) == 1 + dropped


def test_the_hubs_own_half_precision_is_fetched_instead(hub, client, tiny_model):
    tensors = {name: tensor.half() for name, tensor in load_file(tiny_model / UNET).items()}
    save_file(tensors, hub.files / HALF_UNET)
    path = client.fetch(dtype="fp16").path
    assert not hub.gets(UNET)
    assert hub_hash(path / HALF_UNET)
    assert not (path / UNET).exists()
    assert (path / HALF_TEXT).is_file()  # made here: the hub has none
    client.fetch(dtype="fp32")
    client.fetch(dtype="fp16", drop_originals=True)
    assert not (path / UNET).exists()
    assert hub_hash(path / HALF_UNET)


def test_a_folder_is_worked_on_where_the_cache_cannot_be_written(model_copy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    monkeypatch.setenv("CONSISTI2V_STATE", str(tmp_path / "state"))
    fetch(str(model_copy), dtype="fp16")
    assert (model_copy / HALF_UNET).is_file()
    monkeypatch.setenv("CONSISTI2V_STATE", str(tmp_path / "file" / "state"))
    with pytest.raises(ConsistI2VError, match=r"state folder .* cannot be written.*CONSISTI2V_STATE"):
        fetch(str(model_copy), dtype="bf16")


def test_too_small_a_disk_is_noticed_before_a_folder_is_halved(model_copy):
    with (model_copy / UNET).open("rb+") as file:
        file.truncate(2 * 10**12)  # a hole, which takes no space
    with pytest.raises(ConsistI2VError, match=f"1000.* GB on the disk of {model_copy}"):
        fetch(str(model_copy), dtype="fp16")
    assert not (model_copy / HALF_UNET).exists()


def test_halving_is_reported_to_its_end(model_copy):
    reports = []
    fetch(str(model_copy), dtype="fp16", on_progress=lambda *report: reports.append(report))
    total = sum((model_copy / file).stat().st_size for file in (UNET, TEXT))
    assert {(stage, whole) for stage, _, whole in reports} == {("halving", total)}
    assert reports[-1] == ("halving", total, total)
    done = [done for _, done, _ in reports]
    assert done == sorted(done)
    assert done[0] == 0
    assert (model_copy / UNET).stat().st_size in done


@pytest.mark.parametrize(("kept", "asked"), [("fp16", "fp32"), ("bf16", "fp32"), ("fp16", "bf16")])
@pytest.mark.parametrize(
    "environment",
    [{"HF_HUB_OFFLINE": "1"}, pytest.param({"HF_ENDPOINT": "http://127.0.0.1:9"}, marks=pytest.mark.slow)],
)
def test_without_the_hub_dropped_originals_do_not_come_back(hub, client, kept, asked, environment):
    client.fetch(dtype=kept, drop_originals=True)
    refused = client.fetch(dtype=asked, env=environment)
    assert refused["code"] == 3
    assert f"consisti2v fetch-weights {hub.repo} --dtype {asked}" in refused.text
    assert "unet and text_encoder" in refused.text
    assert "\n" not in refused.text
    for options in ({}, {"dtype": kept}):
        assert "path" in client.fetch(env=environment, **options)


def test_without_the_hub_copies_are_made_of_the_originals(hub, client):
    client.fetch(dtype="fp16")
    path = client.fetch(dtype="bf16", env={"HF_HUB_OFFLINE": "1"}).path
    assert (path / f"unet/{STEM}.bf16.safetensors").is_file()
    assert client.fetch(dtype="fp32", env={"HF_HUB_OFFLINE": "1"}).path == path


def test_what_a_killed_process_left_is_removed(hub, client):
    place = client.fetch().path
    left = [place / "unet" / f".{STEM}.fp16.safetensors.part", place / ".consisti2v.json.part"]
    left[0].write_bytes(b"half of a copy")
    left[1].symlink_to("nowhere")
    client.fetch()
    assert not list(place.rglob(".*"))


def test_a_kill_while_halving_leaves_nothing_half(hub, client, tiny_model):
    part = client.storage / "snapshots" / hub.commit / "unet" / f".{STEM}.fp16.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"of a process that was killed")
    path = client.fetch(dtype="fp16").path
    assert not part.exists()
    assert own_hash_holds(path / HALF_UNET, read_header(path / HALF_UNET))
