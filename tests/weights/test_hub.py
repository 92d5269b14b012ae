"""Fetching from a hub, here one of its own on loopback; and finding again what was fetched, without one."""

import json
import os
import pickle
import subprocess
import sys
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from consisti2v_cli.errors import WeightsError
from consisti2v_cli.weights import fetch, find
from consisti2v_cli.weights.hub import needed_files

REPO = "somebody/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

FETCH = """
import json, sys
from consisti2v_cli.errors import ConsistI2VError
from consisti2v_cli.weights import fetch
reports, notices = [], []
try:
    folder = fetch(sys.argv[1], on_progress=lambda *report: reports.append(report), on_notice=notices.append)
    print(json.dumps([str(folder.path), folder.revision, reports, notices]))
except ConsistI2VError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


class Hub:
    """A hub with one repository on a port of its own, and the paths that were asked for."""

    def __init__(self, files: Path) -> None:
        self.asked: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler(files))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def handler(self, files):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def answer(self, body):
                path = self.path.partition("?")[0]
                hub.asked.append(f"{self.command} {path}")
                file = files / path.removeprefix(f"/{REPO}/resolve/main/").removeprefix(f"/{REPO}/resolve/{COMMIT}/")
                if path == f"/api/models/{REPO}/revision/main":
                    self.send(200, json.dumps(listing(files)).encode(), body, {"Content-Type": "application/json"})
                elif path.startswith(f"/{REPO}/resolve/") and file.is_file():
                    content = file.read_bytes()
                    etag = {"ETag": f'"{sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
                    self.send(200, content, body, etag)
                else:
                    self.send(404, b"", body, {"X-Error-Code": "RepoNotFound"})

            def send(self, status, content, body, headers):
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def log_message(self, *_):
                pass

        return Handler


def listing(files):
    names = sorted(path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file())
    siblings = [{"rfilename": name, "size": (files / name).stat().st_size} for name in names]
    return {"id": REPO, "modelId": REPO, "sha": COMMIT, "tags": [], "siblings": siblings}


@pytest.fixture
def hub(model_copy):
    (model_copy / "README.md").write_text("not needed")
    (model_copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"not needed")
    (model_copy / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not needed")
    hub = Hub(model_copy)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def run_fetch(model, cache, address, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_HOME": str(cache), "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, model],
        env=kept | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_what_is_needed_is_fetched_once_and_found_offline(hub, tiny_model, tmp_path, monkeypatch):
    (path, revision, reports, notices), errors = run_fetch(REPO, tmp_path / "cache", hub.address)
    assert revision == COMMIT
    assert not notices
    assert not errors  # no bars, no chatter
    fetched = {file.relative_to(path).as_posix() for file in Path(path).rglob("*") if file.is_file()}
    assert fetched == {file.relative_to(tiny_model).as_posix() for file in tiny_model.rglob("*") if file.is_file()}
    total = sum(file.stat().st_size for file in tiny_model.rglob("*") if file.is_file())
    assert reports[-1][1:] == [total, total]
    assert [done for _, done, _ in reports] == sorted(done for _, done, _ in reports)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    found = find(REPO)
    assert found is not None
    assert str(found.path) == path
    assert found.revision == COMMIT
    assert find(REPO, COMMIT) == found

    hub.asked.clear()
    run_fetch(REPO, tmp_path / "cache", hub.address)
    assert not [request for request in hub.asked if request.startswith("GET /somebody")]


def test_an_interrupted_download_is_not_taken_for_a_model(hub, tmp_path, monkeypatch):
    (path, *_), _ = run_fetch(REPO, tmp_path / "cache", hub.address)
    (Path(path) / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    assert find(REPO) is None
    run_fetch(REPO, tmp_path / "cache", hub.address)
    assert find(REPO) is not None


def test_parts_that_are_only_bin_are_converted_once(hub, model_copy, tmp_path):
    part = model_copy / "text_encoder"
    tensors = load_file(part / "model.safetensors")
    (part / "model.safetensors").unlink()
    torch.save(tensors, part / "pytorch_model.bin")
    (path, _, _, notices), _ = run_fetch(REPO, tmp_path / "cache", hub.address)
    assert len(notices) == 1
    assert "text_encoder/pytorch_model.bin" in notices[0]
    written = load_file(Path(path) / "text_encoder" / "model.safetensors")
    assert all(torch.equal(written[name], tensors[name]) for name in tensors)
    (_, _, _, notices), _ = run_fetch(REPO, tmp_path / "cache", hub.address)
    assert not notices


@pytest.mark.parametrize(
    ("model", "environment", "message"),
    [
        ("somebody/else", {}, "somebody/else"),
        (REPO, {"HF_HUB_OFFLINE": "1"}, "cannot be fetched"),
        (REPO, {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be fetched"),
    ],
)
def test_what_cannot_be_fetched_is_said_in_a_line(hub, tmp_path, model, environment, message):
    (kind, text), _ = run_fetch(model, tmp_path / "cache", hub.address, **environment)
    assert kind == "WeightsError"
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_what_is_all_in_the_cache_needs_no_hub(hub, tmp_path, environment):
    (fetched, *_), _ = run_fetch(REPO, tmp_path / "cache", hub.address)
    (path, revision, _, notices), _ = run_fetch(REPO, tmp_path / "cache", hub.address, **environment)
    assert (path, revision) == (fetched, COMMIT)
    assert len(notices) == 1
    assert "cache" in notices[0]
    (Path(path) / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (kind, text), _ = run_fetch(REPO, tmp_path / "cache", hub.address, **environment)
    assert (kind, "cannot be fetched" in text) == ("WeightsError", True)


def test_a_repository_without_all_parts_is_refused_before_downloading(hub, model_copy, tmp_path):
    (model_copy / "vae" / "config.json").unlink()
    (kind, text), _ = run_fetch(REPO, tmp_path / "cache", hub.address)
    assert (kind, "vae" in text) == ("WeightsError", True)
    assert not [request for request in hub.asked if request.startswith("GET /somebody")]


def test_a_bin_file_with_code_in_it_is_not_run(model_copy):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(model_copy / "exploded"),))

    part = model_copy / "unet"
    (part / "diffusion_pytorch_model.safetensors").unlink()
    (part / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({"conv_in.weight": Bomb()}, protocol=2))
    with pytest.raises(WeightsError, match="holds more than tensors"):
        fetch(str(model_copy))
    assert not (model_copy / "exploded").exists()


def test_a_folders_training_checkpoint_is_converted_in_place(model_copy):
    part = model_copy / "unet"
    tensors = load_file(part / "diffusion_pytorch_model.safetensors")
    (part / "diffusion_pytorch_model.safetensors").unlink()
    prefixed = {f"module.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"epoch": 3, "state_dict": prefixed}, part / "checkpoint-170000.bin")
    notices = []
    folder = fetch(str(model_copy), on_notice=notices.append)
    assert len(notices) == 1
    assert find(str(model_copy)) == folder
    assert load_file(part / "diffusion_pytorch_model.safetensors").keys() == prefixed.keys()


def test_sharded_bin_files_are_converted(model_copy):
    part = model_copy / "unet"
    tensors = load_file(part / "diffusion_pytorch_model.safetensors")
    (part / "diffusion_pytorch_model.safetensors").unlink()
    shards = [f"diffusion_pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    weight_map = {name: shards[index % 2] for index, name in enumerate(tensors)}
    for shard in shards:
        torch.save({name: tensors[name] for name in tensors if weight_map[name] == shard}, part / shard)
    (part / "diffusion_pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    fetch(str(model_copy))
    assert find(str(model_copy)) is not None


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
    assert sorted(needed_files(released)) == [
        name for name in released if name not in ("README.md", "unet/diffusion_pytorch_model.fp16.safetensors")
    ]
    with pytest.raises(WeightsError, match="tokenizer"):
        needed_files(name for name in released if not name.startswith("tokenizer"))
