"""`consisti2v fetch-weights` through the real executable. What networks do to downloads: tests/weights."""

import json
import shutil
import signal
import subprocess
import sys

import pytest
from loopback_hub import Hub, Trouble, same_files

from consisti2v_cli.evaluation.judges import JUDGES

UNET = "unet/diffusion_pytorch_model.safetensors"
REPO = "somebody/tiny"


@pytest.fixture
def hub(tiny_model, environment):
    """A hub with the made-up model, which `run` asks."""
    hub = Hub(tiny_model, REPO)
    del environment["HF_HUB_OFFLINE"]
    environment["HF_ENDPOINT"] = hub.address
    yield hub
    hub.close()


@pytest.fixture
def snapshot(tmp_path):
    return (
        tmp_path / "hub" / "hub" / "models--somebody--tiny" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    )


def lines(shown):
    return [json.loads(line) for line in shown.stdout.splitlines()]


def test_a_model_is_fetched_and_named_by_its_folder(run, hub, snapshot, tiny_model):
    shown = run("fetch-weights", REPO)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == f"{snapshot}\n"
    assert "downloading 1/1 MB" in shown.stderr
    assert "1.4 MB" in shown.stderr
    assert same_files(snapshot, tiny_model)
    again = run("fetch-weights", REPO, "-q", env={"HF_HUB_OFFLINE": "1"})
    assert (again.stdout, again.stderr) == (f"{snapshot}\n", "")


def test_its_help_says_of_each_judge_where_it_comes_from(run):
    fetched, own = " ".join(run("fetch-weights", "--help").stdout.split()).split("CONSISTI2V_JUDGES names")
    for key, judge in JUDGES.items():
        assert key in (fetched if judge.repo else own)
        assert key not in (own if judge.repo else fetched)


def test_a_killed_command_goes_on_when_it_is_started_again(run, hub, snapshot, environment, tmp_path, tiny_model):
    half = (tiny_model / UNET).stat().st_size // 2
    hub.trouble[UNET].append(Trouble(stall_after=half))
    process = subprocess.Popen(
        [sys.executable, "-m", "consisti2v_cli", "fetch-weights", REPO],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    hub.wait_for(UNET, half, snapshot.parents[1])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (snapshot / UNET).exists()
    assert run("fetch-weights", REPO).returncode == 0
    assert same_files(snapshot, tiny_model)
    assert [asked.range for asked in hub.gets(UNET)] == [None, f"bytes={half}-"]


def test_ctrl_c_ends_with_130_and_keeps_what_has_come(hub, environment, tmp_path, run, snapshot, tiny_model):
    hub.always[UNET] = Trouble(stall_after=500_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "consisti2v_cli", "fetch-weights", REPO],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    hub.wait_for(UNET, 500_000, snapshot.parents[1])
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.endswith("Interrupted.\n")
    assert output == ""
    hub.always.clear()
    assert run("fetch-weights", REPO).returncode == 0
    assert same_files(snapshot, tiny_model)
    assert hub.gets(UNET)[1].range.startswith("bytes=")


def test_half_precision_without_the_originals(run, hub, snapshot):
    shown = run("fetch-weights", REPO, "--dtype", "fp16", "--drop-originals", "--json")
    assert shown.returncode == 0, shown.stderr
    (found,) = lines(shown)
    assert found["path"] == str(snapshot)
    assert found["revision"] == snapshot.name
    assert found["complete"] is True
    assert found["dtypes"] == {"unet": ["fp16"], "vae": ["fp32"], "text_encoder": ["fp16"]}
    assert "halving" in shown.stderr
    assert "Removed the originals" in shown.stderr
    assert not (snapshot / UNET).exists()


def test_list_check_and_remove(run, hub, snapshot):
    run("fetch-weights", REPO)
    offline = {"HF_HUB_OFFLINE": "1"}
    listed = run("fetch-weights", "--list", env=offline)
    assert (listed.returncode, listed.stderr) == (0, "")
    bundled, tiny = listed.stdout.splitlines()
    assert bundled.split()[0] == "sketch"
    assert tiny.split() == [REPO, "1.4", "MB", "fp32", snapshot.name[:12], "main", "complete"]
    assert [entry["model"] for entry in lines(run("fetch-weights", "--list", "--json"))] == ["sketch", REPO]

    checked = run("fetch-weights", REPO, "--check", env=offline)
    assert checked.returncode == 0, checked.stderr
    assert f"{UNET}: right (hub hash)" in checked.stdout.splitlines()
    (snapshot / UNET).resolve().write_bytes(b"0" * 1000)
    checked = run("fetch-weights", REPO, "--check", "--json", env=offline)
    assert checked.returncode == 3
    assert [entry["file"] for entry in lines(checked) if entry["problem"]] == [UNET]
    (error,) = [line for line in checked.stderr.splitlines() if line.startswith("Error")]
    assert UNET in error
    assert f"consisti2v fetch-weights {REPO}" in error

    removed = run("fetch-weights", REPO, "--remove", env=offline)
    assert removed.returncode == 0, removed.stderr
    assert removed.stdout == f"{snapshot.parents[1]}\n"
    assert "0.3 MB freed" in removed.stderr
    assert not snapshot.exists()
    assert run("fetch-weights", REPO, "--remove").returncode == 3
    assert run("fetch-weights", REPO, "--check", env=offline).returncode == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no such model"], "no such model"),
        (["nope"], "There is no model and no judge 'nope', nor is it a folder or a repository."),
        (["dino"], "Perhaps dino-b16?"),
        (["skech"], "Perhaps sketch?"),
        (["--list", "--check"], "--list and --check"),
        (["--remove"], "Name the model"),
        (["sketch", "--remove"], "package"),
        (["--list", "sketch"], "takes no MODEL"),
        (["--list", "--revision", "zzz"], "takes no --revision"),
        (["some--one/model"], "There is no model and no judge"),
        (["--check", "--dtype", "fp16"], "--dtype"),
        (["--drop-originals"], "dtype"),
        (["sketch", "--dtype", "fp16"], "package"),
        (["sketch", "--revision", "v2"], "no revision"),
        ([REPO, "--revision", "../.."], "revision"),
    ],
)
def test_what_makes_no_sense_is_a_wrong_request(run, arguments, words):
    shown = run("fetch-weights", *arguments)
    assert shown.returncode == 2
    assert words in shown.stderr
    assert "--model" not in shown.stderr
    assert shown.stdout == ""


def test_a_configured_precision_does_not_forbid_a_list(run, tmp_path):
    (tmp_path / "c.toml").write_text('[fetch-weights]\ndtype = "fp16"\n')
    assert run("fetch-weights", "--list", "--config", "c.toml").returncode == 0


def test_a_model_that_is_here_is_named_by_its_folder(run, tiny_model):
    shown = run("fetch-weights", tiny_model)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == f"{tiny_model}\n"
    assert "MB" in shown.stderr
    assert run("fetch-weights", tiny_model, "-q").stderr == ""


@pytest.mark.parametrize("arguments", [[], ["someone/something"]])
def test_without_a_network_nothing_is_fetched(run, arguments):
    shown = run("fetch-weights", *arguments)
    assert shown.returncode == 3
    assert shown.stderr.startswith("Error: ")
    assert (arguments or ["consisti2v"])[0] in shown.stderr
    assert "HF_HUB_OFFLINE" in shown.stderr
    assert len(shown.stderr.splitlines()) <= 2
    assert shown.stdout == ""


def test_an_incomplete_folder(run, model_copy):
    (model_copy / "vae" / "config.json").unlink()
    shown = run("fetch-weights", model_copy)
    assert shown.returncode == 3
    assert "vae/config.json" in shown.stderr


def test_a_full_disk(run, hub, tmp_path):
    shutil.rmtree(tmp_path / "hub", ignore_errors=True)
    hub.claims[UNET] = 10**16
    shown = run("fetch-weights", REPO)
    assert shown.returncode == 1
    assert "HF_HOME" in shown.stderr
