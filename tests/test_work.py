"""Where the chunks of unfinished films are kept: by what they depend on, by one process at a time, not for ever."""

import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from consisti2v_cli.recipe import Recipe
from consisti2v_cli.weights import ModelFolder
from consisti2v_cli.work import (
    KEPT_FOR,
    Work,
    chunks_folder,
    find_unfinished,
    packed_frame,
    read_frame,
    remove_ended,
    remove_forgotten,
    unfinished,
    work_name,
    working,
)

RECIPE = Recipe(command="extend", prompt="the boat drifts left", seed=7, width=64, height=48, input_sha256="ab" * 32)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A state folder of the test's own."""
    monkeypatch.setenv("CONSISTI2V_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def model(tiny_model):
    return ModelFolder(tiny_model, "tiny")


def begin(recipe, model, chunks=1, first_seed=None):
    """Leave an unfinished film behind."""
    with working(recipe, model) as work:
        work.note(recipe, first_seed=recipe.seed if first_seed is None else first_seed, request="", outputs=[])
        for chunk in range(1, chunks + 1):
            work.keep_latents(chunk, np.zeros((4, 3, 2, 2), np.float32))
        return work.folder


def test_chunks_come_back_as_they_were(model):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(4, 3, 2, 2)).astype(np.float32)
    frames = rng.integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    with working(RECIPE, model) as work:
        assert (work.latents(1), work.frames(1), work.done()) == (None, None, 0)
        work.keep_latents(1, latents)
        work.keep_frames(1, list(map(packed_frame, frames)))
        work.keep_latents(3, latents)
    with working(RECIPE, model) as work:
        assert (work.latents(1) == latents).all()
        assert (np.stack(list(map(read_frame, work.frames(1)))) == frames).all()
        assert work.done() == 1  # the third one has none before it
        work.remove()
    assert not chunks_folder().exists() or not list(chunks_folder().iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"prompt": "the boat stays"},
        {"width": 80},
        {"frames": 5},
        {"anchor": 0.5},
        {"chunks": 5},
        {"prompt_at": {"2": "the boat stays"}},
        {"input_sha256": "cd" * 32},
        {"start": "frame"},
        {"dtype": "bf16"},
        {"device": "cuda:1"},
    ],
)
def test_what_changes_the_frames_changes_the_folder(model, change):
    assert work_name(replace(RECIPE, **change), model) != work_name(RECIPE, model)


def test_what_changes_the_file_alone_does_not(model):
    file = {"quality": 50, "max_size": 10**6, "smooth": 30.0, "fps": 12.0, "join": True, "versions": {"torch": "1"}}
    assert work_name(replace(RECIPE, **file), model) == work_name(RECIPE, model)


def test_another_model_or_machine_does_not_mix(model, model_copy, monkeypatch):
    name = work_name(RECIPE, model)
    other = ModelFolder(model_copy, "tiny")
    copied = work_name(RECIPE, other)
    weights = model_copy / "unet" / "diffusion_pytorch_model.safetensors"
    os.utime(weights, (1, 1))
    names = {name, copied, work_name(RECIPE, other)}
    monkeypatch.setenv("OMP_NUM_THREADS", "1234")  # other threads add up in another order
    assert len(names | {work_name(RECIPE, model)}) == 4


def test_unfinished_films_are_listed_and_found_whatever_their_seed(model):
    assert unfinished() == []
    assert find_unfinished(RECIPE, model) is None
    first = begin(RECIPE, model, chunks=2)
    second = begin(replace(RECIPE, seed=9), model, chunks=1, first_seed=8)
    begin(replace(RECIPE, prompt="another"), model)
    long_ago = time.time() - 1000
    for file in first.iterdir():
        os.utime(file, (long_ago, long_ago))
    assert len(unfinished()) == 3
    found = find_unfinished(replace(RECIPE, seed=1), model)
    assert (found.folder, found.recipe.seed, found.first_seed, found.done) == (second, 9, 8, 1)
    assert found.size > 0
    shutil.rmtree(second)
    found = find_unfinished(replace(RECIPE, seed=1), model)
    assert (found.folder, found.done) == (first, 2)
    assert found.touched == pytest.approx(long_ago, abs=1)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"recipe": 3, "first_seed": 1}', b'{"recipe": "{}", "first_seed": 1}']
)
def test_notes_that_are_damaged_are_as_good_as_none(model, damage):
    folder = begin(RECIPE, model)
    (folder / "film.json").write_bytes(damage)
    assert unfinished() == []
    with working(RECIPE, model) as work:
        assert work.outputs("") is None
        assert work.done() == 1


def test_chosen_files_are_remembered_for_what_was_asked_for(model):
    with working(RECIPE, model) as work:
        work.note(RECIPE, first_seed=7, request="boat.mp4", outputs=[Path("/clips/boat-2.mp4")])
        assert work.outputs("boat.mp4") == [Path("/clips/boat-2.mp4")]
        assert work.outputs("boat.gif") is None


def test_forgotten_films_are_removed(model, place):
    old, new = begin(RECIPE, model), begin(replace(RECIPE, seed=8), model)
    for path in [*old.iterdir(), *(place / "locks").iterdir()]:
        os.utime(path, (time.time() - KEPT_FOR - 100,) * 2)
    (chunks_folder() / ".0123.removed").mkdir()
    with working(RECIPE, model):
        remove_forgotten()  # not while somebody works on it
        assert old.exists()
    remove_forgotten()
    assert list(chunks_folder().iterdir()) == [new]
    remove_forgotten()
    assert [path.name for path in (place / "locks").iterdir()] == [f"chunks-{new.name}.lock"]


def test_nothing_is_removed_that_is_begun_anew_at_that_moment(model, monkeypatch):
    """Who removes a work folder holds its lock until it is gone: who begins meanwhile waits."""
    removing, replaced, made = threading.Event(), os.replace, []

    def replace_slowly(*paths):
        if str(paths[1]).endswith(".removed"):
            removing.set()
            while not waits and not made:
                time.sleep(0.01)
        replaced(*paths)

    def begin_anew():
        removing.wait()
        with working(RECIPE, model, waits.append) as work:
            work.note(RECIPE, first_seed=7, request="", outputs=[])
            made.append(work.folder)

    for remove in (remove_ended, lambda _: remove_forgotten(-1)):
        waits = []
        folder = begin(RECIPE, model, chunks=0)
        removing.clear()
        beginner = threading.Thread(target=begin_anew, daemon=True)
        beginner.start()
        with monkeypatch.context() as patch:
            patch.setattr("consisti2v_cli.work.os.replace", replace_slowly)
            remove(folder)
        beginner.join()
        assert [path.name for path in made.pop().iterdir()] == ["film.json"]


HOLD = """
import sys
from consisti2v_cli.recipe import from_json
from consisti2v_cli.weights import ModelFolder
from consisti2v_cli.work import working
from pathlib import Path
import numpy as np
with working(from_json(sys.argv[1]), ModelFolder(Path(sys.argv[2]), "tiny")) as work:
    print("held", flush=True)
    sys.stdin.readline()
    work.keep_latents(1, np.ones((4, 3, 2, 2), np.float32))
    work.note(from_json(sys.argv[1]), first_seed=7, request="", outputs=[])
    if len(sys.argv) > 3:
        sys.stdin.readline()
"""


def hold(model, *more):
    from consisti2v_cli.recipe import to_json

    command = [sys.executable, "-c", HOLD, to_json(RECIPE), str(model.path), *more]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_waits_says_so_and_takes_what_is_there(model):
    process = hold(model)
    said = []

    def notice(text):
        said.append(text)
        process.stdin.write("\n")
        process.stdin.flush()

    with working(RECIPE, model, notice) as work:
        assert (work.latents(1) == 1).all()
    assert process.wait() == 0
    assert len(said) == 1
    assert "waiting" in said[0]


def test_a_film_in_the_making_is_not_taken_up_and_a_killed_process_holds_nothing(model):
    process = hold(model, "and stay")
    process.stdin.write("\n")
    process.stdin.flush()
    while not unfinished():
        time.sleep(0.01)
    assert find_unfinished(RECIPE, model) is None
    process.kill()
    process.wait()
    assert find_unfinished(RECIPE, model).done == 1
    with working(RECIPE, model, pytest.fail) as work:
        assert work.done() == 1


def test_no_place_for_chunks_is_said(model, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CONSISTI2V_STATE", str(tmp_path / "file"))
    notices = []
    with working(RECIPE, model, notices.append) as work:
        work.keep_frames(1, [b"frame"])
        folder = work.folder
        assert work.frames(1) == [b"frame"]
    assert not folder.exists()
    assert ["CONSISTI2V_STATE names another folder" in notice for notice in notices] == [True]


def test_chunks_are_kept_whatever_the_clock_says(tmp_path, monkeypatch):
    """ZIP files begin in 1980."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    work = Work(tmp_path)
    latents = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    work.keep_latents(1, latents)
    work.keep_frames(1, [b"frame"])
    assert (work.latents(1) == latents).all()
    assert work.frames(1) == [b"frame"]


FULL = """
import resource, sys
import numpy as np
from consisti2v_cli.errors import ConsistI2VError
from consisti2v_cli.work import Work
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
work = Work(Path(sys.argv[1]))
work.keep_latents(1, np.zeros((4, 3, 2, 2), np.float32))
for keep, content in ((work.keep_latents, np.zeros((4, 30, 20, 20), np.float32)), (work.keep_frames, [b"x" * 50_000])):
    try:
        keep(2, content)
    except ConsistI2VError as error:
        assert "File too large" in str(error), error
    else:
        raise AssertionError("it was written")
"""


def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path):
    subprocess.run([sys.executable, "-c", FULL, tmp_path], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["00001.latents.npz"]
