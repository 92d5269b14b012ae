"""kill -9 at random moments of a run over a folder: after a last start everything is there, whole, and made once."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from consisti2v_cli import state
from consisti2v_cli.media import scratch
from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.media.video import read_video
from consisti2v_cli.recipe import from_json

SEED = 20_240_614
KILLS = [5, pytest.param(25, marks=pytest.mark.slow)]
CLIPS = 6
FORMATS = ("mp4", "gif")
OPTIONS = ["--size", "32x32", "--frames", "3", "--steps", "1", "-f", "mp4", "-f", "gif", "-q"]

# Imports everything once, then runs the command line in copies of itself: `fork`, as if each had just started.
# Reads lines with a number of seconds, after which the copy is killed; 0: it runs to its end. Answers with a line: how
# long it ran, and its exit code.
STARTER = """
import os, signal, sys, time
from consisti2v_cli.commands import main
from consisti2v_cli import render
from consisti2v_cli.commands import batch, travel, wishes
from consisti2v_cli.weights.load import load_model
load_model(sys.argv[1])
for line in sys.stdin:
    patience, folder, *arguments = line.rstrip("\\n").split("\\t")
    begun = time.monotonic()
    child = os.fork()
    if not child:
        os.chdir(folder)
        os.environ["CONSISTI2V_STATE"] = os.path.join(folder, "state")
        os.dup2(os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        os.dup2(1, 2)
        main(arguments)
    if float(patience):
        time.sleep(float(patience))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(time.monotonic() - begun, os.waitstatus_to_exitcode(status), flush=True)
"""

Start = Callable[..., tuple[float, int]]


@pytest.fixture(scope="module")
def starter(tiny_model, tmp_path_factory):
    """A process that has imported everything."""
    home = str(tmp_path_factory.mktemp("home"))
    environment = {**os.environ, "HOME": home, "XDG_CONFIG_HOME": home, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STARTER, str(tiny_model)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def start(starter, tmp_path) -> Start:
    """Run the command line, and kill it: start("animate", ..., patience=0.3) -> seconds that it ran, exit code."""

    def start(*arguments: object, patience: float = 0) -> tuple[float, int]:
        starter.stdin.write("\t".join(map(str, [patience, tmp_path, *arguments])) + "\n")
        starter.stdin.flush()
        seconds, code = starter.stdout.readline().split()
        return float(seconds), int(code)

    return start


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(CLIPS):
        Image.effect_noise((60, 40), 20 + 10 * number).convert("RGB").save(folder / f"{number}.png")
    return folder


def files(folder):
    """Names and bytes; of the hidden folders that films are written in the names alone."""
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


@pytest.mark.parametrize("most", KILLS)
def test_killed_at_any_moment_a_run_goes_on(start: Start, photos, tiny_model, tmp_path, most):
    command = ["animate", photos, "waves", "--model", tiny_model, *OPTIONS, "--seed", SEED]
    whole, code = start(*command, "-o", "alone/")
    assert code == 0, (tmp_path / "log.txt").read_text()
    alone = files(tmp_path / "alone")
    assert sorted(alone) == sorted(f"{number}.{format}" for number in range(CLIPS) for format in FORMATS)
    moments, killed = random.Random(SEED), 0
    while killed < most:
        out = tmp_path / f"out-{killed}"
        code = -9
        while code and killed < most:
            _, code = start(*command, "-o", f"{out.name}/", patience=moments.uniform(0.01, whole / 2))
            assert code in (-9, 0)
            killed += code == -9
            made = files(out) if out.exists() else {}
            assert all(alone[name] == content for name, content in made.items() if not name.startswith("."))
        _, code = start(*command, "-o", f"{out.name}/")
        assert code == 0
        assert files(out) == alone
    for name in alone:
        frames, _ = read_video(out / name)
        assert frames.shape == (3, 32, 32, 3)


@pytest.mark.slow
def test_without_a_seed_a_killed_run_keeps_the_first_one(start: Start, photos, tiny_model, tmp_path):
    """And each clip is what the run would have made with that seed from the beginning."""
    command = ["animate", photos, "waves", "--model", tiny_model, *OPTIONS]
    whole, _ = start(*command, "-o", "alone/", "--seed", 1)
    moments = random.Random(SEED + 1)
    for _ in range(3):
        start(*command, "-o", "out/", patience=moments.uniform(whole / 3, whole / 2))
    _, code = start(*command, "-o", "out/")
    assert code == 0
    (seed,) = {from_json(read_recipe(path)).seed for path in (tmp_path / "out").iterdir()}
    start(*command, "-o", "again/", "--seed", seed)
    assert files(tmp_path / "out") == files(tmp_path / "again")


@pytest.mark.slow
def test_killed_without_metadata_what_was_finished_is_known(start: Start, photos, tiny_model, tmp_path):
    command = ["animate", photos, "waves", "--model", tiny_model, *OPTIONS, "--no-metadata", "--seed", 3]
    whole, _ = start(*command, "-o", "alone/")
    moments = random.Random(SEED + 2)
    for _ in range(4):
        start(*command, "-o", "out/", patience=moments.uniform(whole / 3, whole / 2))
    _, code = start(*command, "-o", "out/")
    assert code == 0
    assert files(tmp_path / "out") == files(tmp_path / "alone")


class Killed(BaseException):
    """What no code of ours catches."""


@pytest.mark.parametrize("moment", ["remember", "keep_latent"])
def test_killed_without_metadata_when_a_file_just_has_its_name(call, photos, tiny_model, tmp_path, monkeypatch, moment):
    command = ["animate", photos, "waves", "--model", tiny_model, *OPTIONS, "--no-metadata", "--seed", "3", "-f", "png"]

    def kill(*_):
        raise Killed

    for _ in range(4):
        with monkeypatch.context() as patch:
            patch.setattr(state, moment, kill)
            with pytest.raises(Killed):
                call(*command, "-o", "out/")
    there = ["0", "0.gif", "0.mp4", "1.mp4"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == there
    made = call(*command, "-o", "out/")
    assert made.returncode == 0, made.stderr
    names = sorted(f"{number}{suffix}" for number in range(CLIPS) for suffix in ("", ".gif", ".mp4"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert sorted(made.stdout.split()) == [f"out/{name}" for name in names if name not in there]


def test_nothing_is_left_of_a_process_that_was_killed_while_it_wrote(start: Start, photos, tiny_model, tmp_path):
    """Its hidden folder goes with the next start, be there anything to make or not."""
    command = ["animate", photos, "waves", "--model", tiny_model, *OPTIONS, "-o", "out/", "--seed", 3]
    start(*command)
    before = files(tmp_path / "out")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    hidden = tmp_path / "out" / f".0.mp4-{scratch._place()}-{gone.pid}-01234567.part"
    hidden.mkdir()
    (hidden / "made.part").write_bytes(b"half")
    start(*command)
    assert files(tmp_path / "out") == before
