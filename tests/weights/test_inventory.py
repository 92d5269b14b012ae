"""What is on this machine: which models, whether their files are right, and away with them."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from loopback_hub import COMMIT, Client, Hub
from safetensors.torch import load_file, save_file

from consisti2v_cli.errors import RequestError, WeightsError
from consisti2v_cli.weights import check_model, find, known_models, list_models, remove_model, require

UNET = "unet/diffusion_pytorch_model.safetensors"
REPO = "somebody/tiny"


@pytest.fixture(scope="module")
def filled(tiny_model, tmp_path_factory):
    """A home whose cache has the made-up model, with copies in half precision."""
    hub = Hub(tiny_model, REPO)
    home = tmp_path_factory.mktemp("filled") / "home"
    Client(hub, home).fetch(dtype="fp16")
    hub.close()
    return home


@pytest.fixture
def cached(filled, client, monkeypatch):
    """The model in a cache of the test's own, where this process looks for it; returns its folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(client.cache))
    shutil.copytree(filled, client.home, symlinks=True)
    return client.storage / "snapshots" / COMMIT


def add_repository(client, repo, config):
    """Put something with a network into the cache, under another name."""
    folder = client.cache / f"models--{repo.replace('/', '--')}" / "snapshots" / ("a" * 40)
    (folder / "unet").mkdir(parents=True)
    if config is not None:
        (folder / "unet" / "config.json").write_text(json.dumps(config))
    return folder


def problems(model, revision=None):
    return {checked.file: checked.problem for checked in check_model(model, revision) if checked.problem}


def test_models_on_this_machine(cached, client):
    add_repository(client, "somebody/half-fetched", None)
    add_repository(client, "somebody/else", {"_class_name": "UNet2DConditionModel"})  # Stable Diffusion
    (client.cache / "models--somebody--text" / "snapshots" / ("b" * 40)).mkdir(parents=True)
    bundled, half_fetched, tiny = list_models()
    assert (bundled.model, bundled.missing, bundled.revision) == ("sketch", (), None)
    assert half_fetched.model == "somebody/half-fetched"
    assert "unet/config.json" in half_fetched.missing
    assert (tiny.model, tiny.repository, tiny.missing) == (REPO, REPO, ())
    assert (tiny.revision, tiny.references) == (cached.name, ("main",))
    assert tiny.dtypes == {"unet": ("fp32", "fp16"), "vae": ("fp32",), "text_encoder": ("fp32", "fp16")}
    assert tiny.bytes == sum(file.stat().st_size for file in cached.rglob("*") if file.is_file())
    assert known_models() == ["consisti2v", "sketch", "somebody/half-fetched", REPO]


def test_the_released_model_goes_by_its_name(client, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(client.cache))
    add_repository(client, "TIGER-Lab/ConsistI2V", None)
    assert [entry.model for entry in list_models()] == ["sketch", "consisti2v"]
    assert known_models() == ["consisti2v", "sketch"]


def test_without_a_cache_there_is_the_bundled_model(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nowhere"))
    assert [entry.model for entry in list_models()] == ["sketch"]
    assert known_models() == ["consisti2v", "sketch"]


def test_looking_around_imports_no_torch(cached, client):
    code = (
        "import sys; from consisti2v_cli.weights import check_model, known_models, list_models, remove_model; "
        f"known_models(); list_models(); list(check_model({REPO!r})); remove_model({REPO!r}); "
        "import consisti2v_cli.weights.devices; print('torch' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={"HF_HUB_CACHE": str(client.cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == "False"


def test_every_file_is_checked(cached):
    reports = []
    checked = list(check_model(REPO, on_progress=lambda *report: reports.append(report)))
    assert {entry.file for entry in checked} == {
        file.relative_to(cached).as_posix() for file in cached.rglob("*") if file.is_file()
    }
    assert not any(entry.problem for entry in checked)
    by = {entry.file: entry.by for entry in checked}
    assert by[UNET] == by["unet/config.json"] == "hub hash"
    assert by["unet/diffusion_pytorch_model.fp16.safetensors"] == "own hash"
    assert len(reports) >= len(checked)
    assert reports[-1][2] >= reports[-1][1] > 0.9 * reports[-1][2]


@pytest.mark.parametrize(
    "name", [UNET, "unet/config.json", "tokenizer/merges.txt", "unet/diffusion_pytorch_model.fp16.safetensors"]
)
def test_damaged_files_are_named(cached, name):
    content = (cached / name).read_bytes()
    (cached / name).resolve().write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    assert problems(REPO).keys() == {name}
    (cached / name).resolve().write_bytes(content[:-1])
    assert problems(REPO).keys() == {name}
    (cached / name).resolve().write_bytes(b"")
    assert problems(REPO).keys() == {name}


def test_missing_files_are_named(cached):
    (cached / UNET).resolve().unlink()  # the link dangles
    (cached / "vae" / "config.json").unlink()
    assert problems(REPO).keys() == {UNET, "vae/config.json"}


def test_a_model_that_is_not_here_cannot_be_checked(cached):
    with pytest.raises(WeightsError, match="consisti2v fetch-weights somebody/else"):
        list(check_model("somebody/else"))


def test_a_folder_is_checked_by_what_loading_demands(model_copy):
    assert not problems(str(model_copy))
    tensors = load_file(model_copy / UNET)
    tensors["conv_in.bias"][0] = float("nan")
    tensors["conv_in.weight"] = torch.zeros(3)
    save_file(tensors, model_copy / UNET)
    (model_copy / "vae" / "config.json").write_text("{")
    (model_copy / "tokenizer" / "vocab.json").unlink()
    found = problems(str(model_copy))
    assert "conv_in.weight" in found[UNET]
    assert "config.json" in found["vae/config.json"]
    assert "tokenizer/tokenizer.json" in found


def test_numbers_of_a_folder_are_read_to_the_end(model_copy):
    tensors = load_file(model_copy / UNET)
    tensors["conv_out.bias"][-1] = float("-inf")
    save_file(tensors, model_copy / UNET)
    found = problems(str(model_copy))
    assert found.keys() == {UNET}
    assert "conv_out.bias" in found[UNET]


def test_the_bundled_model_is_right():
    checked = list(check_model("sketch"))
    assert not [entry for entry in checked if entry.problem]
    assert len([entry for entry in checked if entry.by == "numbers"]) == 3


def test_a_model_is_removed_with_all_that_it_took(cached, client):
    left = client.storage / "blobs" / f"{'e' * 64}.consisti2v.incomplete"
    left.write_bytes(b"0" * 5000)
    files = [file for file in client.storage.rglob("*") if file.is_file() and not file.is_symlink()]
    taken = sum(file.stat().st_size for file in files if file.parent.name != "refs")
    other = add_repository(client, "somebody/else", {})
    path, freed = remove_model(REPO)
    assert (path, freed) == (client.storage, taken)
    assert not client.storage.exists()
    assert other.exists()
    assert find(REPO) is None
    with pytest.raises(WeightsError, match="not in the cache"):
        remove_model(REPO)


def test_one_revision_is_removed_and_what_others_need_stays(hub, client, cached):
    first = cached
    hub.commit = "f" * 40
    (hub.files / "consisti2v.json").write_text('{"steps": 3}')
    second = client.fetch().path
    path, freed = remove_model(REPO, first.name)
    assert path == first
    assert not first.exists()
    assert freed < (second / UNET).stat().st_size + 200_000  # its own settings and its copies
    assert not problems(REPO)
    assert require(REPO).path == second


def test_a_fork_with_the_same_commit_stays(hub, client, cached):
    fork = add_repository(client, "another/fork", {}).parent / cached.name
    (fork / "unet").mkdir(parents=True)
    (fork / "unet" / "config.json").write_text("{}")
    remove_model(REPO)
    assert (fork / "unet" / "config.json").exists()


@pytest.mark.parametrize("damage", ["no snapshots", "dangling", "a file among the snapshots"])
def test_what_is_in_disorder_is_removed_too(client, cached, damage):
    if damage == "dangling":
        (cached / UNET).resolve().unlink()
    elif damage == "no snapshots":
        subprocess.run(["rm", "-r", str(client.storage / "snapshots")], check=True)
    else:
        (client.storage / "snapshots" / "file").write_text("?")
    _, freed = remove_model(REPO)
    assert freed > 100_000
    assert not client.storage.exists()


def test_only_what_is_in_the_cache_is_removed(model_copy):
    with pytest.raises(RequestError, match="package"):
        remove_model("sketch")
    with pytest.raises(RequestError, match="your own"):
        remove_model(str(model_copy))
    assert (model_copy / UNET).exists()
