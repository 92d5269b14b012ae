"""Fetching from a hub, here one of its own on loopback; and finding again what was fetched, without one."""

import json
import os
import subprocess
import sys

import pytest
import torch
from huggingface_hub import scan_cache_dir
from loopback_hub import LISTING, Trouble, client_environment, same_files
from safetensors.torch import load_file

from consisti2v_cli.errors import RequestError, WeightsError
from consisti2v_cli.weights import fetch, find, list_models
from consisti2v_cli.weights.fetching import needed_files

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
NO_HUB = [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}]


@pytest.fixture
def look(client, monkeypatch):
    """This process looks into the cache that the others fetch into."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(client.cache))
    return lambda revision=None: find(client.hub.repo, revision)


def downloads(hub):
    return [asked.path for asked in hub.requests if "/resolve/" in asked.path]


def test_what_is_needed_is_fetched_once_and_found_offline(hub, client, tiny_model, look):
    (hub.files / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not needed")
    result = client.fetch()
    assert result["revision"] == hub.commit
    assert not result.notices
    assert same_files(result.path, tiny_model)
    total = sum(file.stat().st_size for file in tiny_model.rglob("*") if file.is_file())
    assert result["reports"][-1] == ["downloading", total, total]

    found = look()
    assert found.path == result.path
    assert found.revision == hub.commit
    assert look(hub.commit) == found

    hub.requests.clear()
    again = client.fetch()
    assert not downloads(hub)
    assert again["reports"][-1] == ["checking", total, total]


def test_files_that_are_the_same_are_fetched_once(hub, client):
    for name in ("special.json", "added.json"):
        (hub.files / "tokenizer" / name).write_text('{"the": "same"}')
    result = client.fetch()
    assert result["reports"][-1] == ["downloading", result["reports"][-1][2], result["reports"][-1][2]]
    assert len(hub.gets("tokenizer/special.json") + hub.gets("tokenizer/added.json")) == 1
    assert (result.path / "tokenizer" / "special.json").read_text() == '{"the": "same"}'


def test_other_programs_find_what_was_fetched(hub, client, look):
    client.fetch()
    cache = scan_cache_dir(client.cache)
    assert not cache.warnings
    assert not cache.incomplete_files
    ((revision,),) = [repo.revisions for repo in cache.repos]
    assert revision.refs == {"main"}
    assert all(file.blob_path.parent.name == "blobs" for file in revision.files)


def test_what_other_programs_fetched_is_not_fetched_again(hub, client, tiny_model):
    """The cache as huggingface_hub leaves it: it fetched one file by itself."""
    code = (
        "import sys; from huggingface_hub import hf_hub_download; hf_hub_download(*sys.argv[1:3], revision=sys.argv[3])"
    )
    subprocess.run(
        [sys.executable, "-c", code, hub.repo, UNET, hub.commit],
        env=client_environment(hub.address, client.home, HF_HUB_DISABLE_XET="1"),
        capture_output=True,
        check=True,
    )
    assert same_files(client.fetch().path, tiny_model)
    assert len(hub.gets(UNET)) == 1


def test_an_interrupted_download_is_not_taken_for_a_model(hub, client, look):
    (client.fetch().path / VAE).unlink()
    assert look() is None
    client.fetch()
    assert look() is not None
    assert len(hub.gets(VAE)) == 1  # what was behind the link is still there, and right


@pytest.mark.parametrize(("name", "cut"), [(VAE, False), ("vae/config.json", True)])
def test_a_damaged_file_is_named_and_fetched_again(hub, client, tiny_model, name, cut):
    file = client.fetch().path / name
    content = file.read_bytes()
    file.resolve().write_bytes(content[:-1] if cut else content[:-1] + bytes([content[-1] ^ 1]))
    offline = client.fetch(env={"HF_HUB_OFFLINE": "1"})
    assert offline["code"] == 3
    assert name in offline.text
    result = client.fetch()
    (notice,) = result.notices
    assert f"{name} is damaged" in notice
    assert same_files(result.path, tiny_model)


def test_a_damaged_file_that_is_there_twice_is_fetched_again(hub, client):
    for name in ("special.json", "added.json"):
        (hub.files / "tokenizer" / name).write_text('{"the": "same"}')
    place = client.fetch().path / "tokenizer"
    (place / "special.json").resolve().write_text("damaged")
    result = client.fetch()
    assert len(result.notices) == 1
    assert "damaged" in result.notices[0]
    assert {(place / name).read_text() for name in ("special.json", "added.json")} == {'{"the": "same"}'}
    assert len(hub.gets("tokenizer/special.json") + hub.gets("tokenizer/added.json")) == 2


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"../../..", b"0123456789"])
def test_a_damaged_reference_is_as_none(hub, client, look, content):
    place = client.fetch().path
    reference = client.storage / "refs" / "main"
    reference.write_bytes(content)
    assert look() is None
    assert look(hub.commit).path == place
    assert [entry.references for entry in list_models() if entry.repository] == [()]
    hub.requests.clear()
    assert client.fetch().path == place
    assert not downloads(hub)
    assert reference.read_text() == hub.commit


def test_a_new_revision_fetches_what_is_new(hub, client, look):
    first = client.fetch().path
    hub.commit = "f" * 40
    (hub.files / "consisti2v.json").write_text('{"steps": 3}')
    hub.always["consisti2v.json"] = Trouble(status=403)
    assert client.fetch()["code"] == 3
    assert look().path == first  # as long as the new one is not whole
    hub.always.clear()
    hub.requests.clear()
    result = client.fetch()
    assert result["revision"] == "f" * 40
    assert [path.rpartition("/")[2] for path in downloads(hub)] == ["consisti2v.json"]
    assert look().path == result.path
    assert look("0123456789abcdef0123456789abcdef01234567").path == first


@pytest.mark.slow
def test_parts_that_are_only_bin_are_converted_once(hub, client, model_copy):
    part = model_copy / "text_encoder"
    tensors = load_file(part / "model.safetensors")
    (part / "model.safetensors").unlink()
    torch.save(tensors, part / "pytorch_model.bin")
    result = client.fetch()
    (notice,) = result.notices
    assert "text_encoder/pytorch_model.bin" in notice
    written = load_file(result.path / "text_encoder" / "model.safetensors")
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[name], tensors[name]) for name in tensors)
    assert not client.fetch().notices

    made = result.path / "text_encoder" / "model.safetensors"
    made.write_bytes(made.read_bytes()[:-8] + b"8 others")
    again = client.fetch()
    assert ["damaged" in again.notices[0], "Converted" in again.notices[1]] == [True, True]
    assert torch.equal(load_file(made)["final_layer_norm.bias"], tensors["final_layer_norm.bias"])


@pytest.mark.parametrize("environment", NO_HUB)
def test_what_cannot_be_fetched_is_said_in_a_line(client, environment):
    for model in ("consisti2v", "somebody/else"):
        result = client.fetch(model, env=environment)
        assert result["code"] == 3
        assert f"consisti2v fetch-weights {model}" in result.text
        assert next(iter(environment)) == "HF_ENDPOINT" or "HF_HUB_OFFLINE" in result.text
        assert "\n" not in result.text


@pytest.mark.parametrize("environment", NO_HUB)
def test_what_is_all_in_the_cache_needs_no_hub(hub, client, environment):
    fetched = client.fetch()
    result = client.fetch(env=environment)
    assert (result.path, result["revision"]) == (fetched.path, hub.commit)
    (notice,) = result.notices
    assert "cache" in notice
    (fetched.path / VAE).unlink()
    assert client.fetch(env=environment)["code"] == 3


def test_a_hub_that_breaks_off_is_no_loss_where_all_is_here(hub, client):
    fetched = client.fetch()
    hub.always[LISTING] = Trouble(status=500)
    result = client.fetch()
    assert result.path == fetched.path
    assert len(result.notices) == 1  # it is not waited for


def test_a_repository_without_all_parts_is_refused_before_downloading(hub, client, model_copy):
    (model_copy / "vae" / "config.json").unlink()
    result = client.fetch()
    assert result["code"] == 3
    assert "vae" in result.text
    assert not downloads(hub)


@pytest.mark.parametrize("revision", ["../../../etc", "/etc/passwd", "a//b", "", "main\n", "-x", "a b"])
def test_revisions_are_no_paths(revision):
    with pytest.raises(RequestError, match="revision"):
        find("somebody/tiny", revision or " ")


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("sketch", {"dtype": "fp16"}, "package"),
        ("sketch", {"revision": "main"}, "no revision"),
        ("somebody/tiny", {"dtype": "fp8"}, "fp16"),
        ("somebody/tiny", {"drop_originals": True}, "dtype"),
        ("somebody/tiny", {"dtype": "fp32", "drop_originals": True}, "dtype"),
        ("nope", {}, "neither a name"),
    ],
)
def test_requests_that_make_no_sense(model, options, words):
    with pytest.raises(RequestError, match=words):
        fetch(model, **options)


def test_names_that_mean_other_places_are_left_alone(hub, client, tiny_model):
    """A repository may list anything; what becomes a path is chosen by us."""
    strange = ["unet/../../../evil.json", "tokenizer/..\\evil.json", "tokenizer/evil\x01.json", "/tokenizer/x.json"]
    listing = hub.listing()
    listing["siblings"] += [{"rfilename": name, "size": 4, "blobId": "a" * 40} for name in strange]
    hub.always[LISTING] = Trouble(body=json.dumps(listing).encode())
    assert same_files(client.fetch().path, tiny_model)
    assert not [path for path in downloads(hub) if "evil" in path or path.endswith("/x.json")]


@pytest.mark.parametrize(
    "change",
    [{"sha": "../../.."}, {"siblings": [{"rfilename": "unet/config.json", "size": 4, "blobId": "../../evil"}]}],
)
def test_hashes_that_are_no_hashes_are_refused(hub, client, change):
    listing = hub.listing()
    known = {entry["rfilename"]: entry for entry in listing["siblings"]}
    known |= {entry["rfilename"]: entry for entry in change.get("siblings", [])}
    hub.always[LISTING] = Trouble(body=json.dumps(listing | change | {"siblings": list(known.values())}).encode())
    result = client.fetch()
    assert result["code"] == 3
    assert "hub" in result.text or "hash" in result.text
    assert not os.path.exists(client.cache.parent / "evil")


def test_of_many_files_the_needed_ones():
    released = [
        "README.md",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    half = "unet/diffusion_pytorch_model.fp16.safetensors"
    assert sorted(needed_files(released)) == [name for name in released if name not in ("README.md", half)]
    assert sorted(needed_files(released, "fp16")) == [name for name in released if name not in ("README.md", UNET)]
    assert UNET not in needed_files(released, None, {"unet"})
    with pytest.raises(WeightsError, match="tokenizer"):
        needed_files(name for name in released if not name.startswith("tokenizer"))
