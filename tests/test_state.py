"""What is remembered from one call to the next, and that it never stands in the way."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from consisti2v_cli import state
from consisti2v_cli.recipe import Recipe, from_json

RECIPE = Recipe(prompt="the boat drifts left", seed=7, width=64, height=48, model="tiny", input_sha256="ab" * 32)


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """State and cache in folders of the test's own."""
    monkeypatch.setenv("CONSISTI2V_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("CONSISTI2V_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "boat.mp4"
    path.write_bytes(b"a film")
    return path


def test_the_state_folder_is_the_users_own_or_the_one_that_is_named(tmp_path, monkeypatch):
    assert state.state_folder() == tmp_path / "state"
    assert not state.state_folder().exists()
    monkeypatch.delenv("CONSISTI2V_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state.state_folder().name == "consisti2v"
    assert tmp_path in state.state_folder().parents


def test_nothing_is_remembered_at_first(clip):
    assert state.last_clip() is None
    assert state.recipe_of(clip) is None
    assert state.find_source("ab" * 32) is None
    assert state.kept_latent(clip, RECIPE) is None


def test_the_last_clip_is_the_one_that_was_written_last(clip, tmp_path, monkeypatch):
    state.remember_last(clip)
    monkeypatch.chdir(tmp_path)
    Path("other.gif").write_bytes(b"GIF89a")
    state.remember("other.gif", RECIPE, b"the bytes of an image")
    assert state.last_clip() == clip  # the run may not be done yet
    state.remember_last("other.gif")
    assert state.last_clip() == tmp_path / "other.gif"
    Path("other.gif").unlink()
    assert state.last_clip() == tmp_path / "other.gif"  # gone, which others can say then


def test_a_file_without_metadata_is_known_while_it_is_unchanged(clip):
    state.remember(clip, RECIPE, None)
    assert from_json(state.recipe_of(clip)) == RECIPE
    os.utime(clip, ns=(1, 1))
    assert state.recipe_of(clip) is None
    state.remember(clip, RECIPE, None)
    clip.write_bytes(b"another film")
    assert state.recipe_of(clip) is None


def test_a_file_is_known_from_the_moment_on_at_which_it_gets_its_name(clip, tmp_path):
    """And until then what had the name before."""
    state.remember(clip, RECIPE, None)
    made = tmp_path / "made.part"
    made.write_bytes(b"another film")
    state.expect(clip, made, replace(RECIPE, seed=8))
    assert from_json(state.recipe_of(clip)) == RECIPE
    os.replace(made, clip)
    assert from_json(state.recipe_of(clip)).seed == 8
    clip.write_bytes(b"somebody else's film")
    assert state.recipe_of(clip) is None
    folder = tmp_path / "frames.part"
    folder.mkdir()
    (folder / "0001.png").write_bytes(b"frame")
    state.expect(tmp_path / "frames", folder, RECIPE)
    assert state.recipe_of(tmp_path / "frames") is None
    folder.rename(tmp_path / "frames")
    assert from_json(state.recipe_of(tmp_path / "frames")) == RECIPE


def test_files_are_remembered_whatever_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "KEPT_RECORDS", 3)
    clips = [tmp_path / f"{number}.mp4" for number in range(6)]
    for path in clips:
        path.write_bytes(b"a film")
        state.remember(path, RECIPE, None)
        age(0)
    assert all(map(state.recipe_of, clips))


def age(seconds, *names):
    """Make records of files older, all by default; and have them looked through next time."""
    long_ago = time.time() - seconds
    for record in (state.state_folder() / "files").iterdir():
        if not names or json.loads(record.read_bytes())["path"].endswith(names):
            os.utime(record, (long_ago, long_ago))
    (state.state_folder() / "looked-through").unlink()


def test_files_that_are_gone_and_those_of_long_ago_are_forgotten(clip, tmp_path):
    for name in ("old.mp4", "gone.mp4", "moving.mp4", "young.mp4"):
        (tmp_path / name).write_bytes(b"a film")
        state.remember(tmp_path / name, RECIPE, None)
    (tmp_path / "gone.mp4").unlink()
    (tmp_path / "moving.mp4").rename(tmp_path / "away")
    age(state.KEPT_FILES_FOR + 100, "old.mp4")
    state.remember(clip, RECIPE, None)
    age(2 * state.LEFTOVER_AGE, "gone.mp4", "young.mp4")
    state.remember(clip, RECIPE, None)
    (tmp_path / "away").rename(tmp_path / "moving.mp4")
    known = [path.name for path in sorted(tmp_path.glob("*.mp4")) if state.recipe_of(path)]
    assert known == ["boat.mp4", "moving.mp4", "young.mp4"]
    assert len(list((state.state_folder() / "files").iterdir())) == 3


def test_a_folder_of_frames_is_known_while_each_of_them_is_unchanged(tmp_path):
    folder = tmp_path / "boat"
    folder.mkdir()
    for number in (1, 2):
        (folder / f"000{number}.png").write_bytes(b"frame")
    state.remember(folder, RECIPE, None)
    assert from_json(state.recipe_of(folder)) == RECIPE
    (folder / "0002.png").write_bytes(b"another frame")
    assert state.recipe_of(folder) is None


def test_a_source_is_found_by_its_content(clip, tmp_path):
    photo = tmp_path / "boat.jpg"
    photo.write_bytes(b"a photo")
    recipe = replace(RECIPE, input_sha256=state.content_sha256(photo))
    state.remember(clip, recipe, photo)
    assert state.find_source(recipe.input_sha256) == photo
    photo.write_bytes(b"another photo")
    assert state.find_source(recipe.input_sha256) is None
    photo.unlink()
    assert state.find_source(recipe.input_sha256) is None
    assert state.find_source("../last/clip") is None


def test_a_latent_is_kept_for_the_content_of_a_file(clip, tmp_path):
    latent = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
    state.keep_latent(clip, latent, RECIPE)
    moved = clip.rename(tmp_path / "moved.mp4")
    assert (state.kept_latent(moved, RECIPE) == latent).all()
    assert (state.kept_latent(moved, replace(RECIPE, seed=8, prompt="another")) == latent).all()
    for change in ({"model": "other"}, {"revision": "1234"}, {"width": 80}, {"height": 64}):
        assert state.kept_latent(moved, replace(RECIPE, **change)) is None
    moved.write_bytes(b"another film")
    assert state.kept_latent(moved, RECIPE) is None
    state.keep_latent(moved, None, RECIPE)
    assert state.kept_latent(moved, RECIPE) is None


def test_a_damaged_latent_is_as_good_as_none(clip):
    state.keep_latent(clip, np.ones((4, 6, 8), np.float32), RECIPE)
    (stored,) = (state.cache_folder() / "latents").iterdir()
    whole = stored.read_bytes()
    for damaged in (whole[:-10], whole[:20], b"", b"\xff" * 100):
        stored.write_bytes(damaged)
        assert state.kept_latent(clip, RECIPE) is None


@pytest.mark.parametrize(
    "damaged", [b"", b"\xff\xfe", b"[1, 2]", b'{"path": 3}', b'"text"', b'{"mark": []}', b"{" * 500]
)
def test_damaged_records_are_ignored(clip, tmp_path, damaged):
    photo = tmp_path / "boat.jpg"
    photo.write_bytes(b"a photo")
    recipe = replace(RECIPE, input_sha256=state.content_sha256(photo))
    state.remember(clip, recipe, photo)
    state.remember_last(clip)
    state.expect(clip, clip, recipe)
    records = [path for path in state.state_folder().glob("*/*") if path.is_file()]
    assert len(records) == 4
    for record in records:
        record.write_bytes(damaged)
    assert state.last_clip() is None
    assert state.recipe_of(clip) is None
    assert state.find_source(recipe.input_sha256) is None
    state.remember(clip, recipe, photo)
    assert from_json(state.recipe_of(clip)) == recipe


def test_a_state_folder_that_cannot_be_written_fails_nothing(clip, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    for name in ("CONSISTI2V_STATE", "CONSISTI2V_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "file" / "inside"))
    state.remember(clip, RECIPE, clip)
    state.remember_last(clip)
    state.expect(clip, clip, RECIPE)
    state.keep_latent(clip, np.ones((4, 6, 8), np.float32), RECIPE)
    state.remember(tmp_path / "gone.mp4", RECIPE, None)
    assert state.last_clip() is None
    with pytest.raises(OSError, match="file"):
        state.locks_folder()


FULL = """
import resource, sys, numpy as np
from pathlib import Path
from consisti2v_cli import state
from consisti2v_cli.recipe import Recipe
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
recipe = Recipe(prompt="x", seed=1, width=64, height=48)
state.remember(sys.argv[1], recipe, None)
state.expect(sys.argv[1], Path(sys.argv[1]), recipe)
state.remember_last(sys.argv[1])
state.keep_latent(sys.argv[1], np.ones((4, 6, 8), np.float32), recipe)
assert state.recipe_of(sys.argv[1]) is None
assert str(state.last_clip()) == sys.argv[1]
"""


def test_a_full_disk_fails_nothing_and_leaves_nothing(clip):
    subprocess.run([sys.executable, "-c", FULL, clip], check=True)
    kept = [p for root in (state.state_folder(), state.cache_folder()) for p in root.glob("*/*") if p.is_file()]
    assert [path.parent.name for path in kept] == ["last"]


MANY = """
import sys
from pathlib import Path
from consisti2v_cli import state
from consisti2v_cli.recipe import Recipe
for number in range(50):
    path = Path(sys.argv[1]) / f"{sys.argv[2]}-{number}.mp4"
    path.write_bytes(path.name.encode())
    state.remember(path, Recipe(prompt=path.name, seed=number), None)
    state.remember_last(path)
    assert state.last_clip() is not None
"""


def test_many_processes_remember_at_the_same_time(tmp_path):
    started = [subprocess.Popen([sys.executable, "-c", MANY, tmp_path, str(number)]) for number in range(4)]
    assert [process.wait() for process in started] == [0] * 4
    for path in tmp_path.glob("*.mp4"):
        assert json.loads(state.recipe_of(path))["prompt"] == path.name
    assert state.last_clip().name.endswith("-49.mp4")
    assert not list(state.state_folder().rglob("*.part"))


def test_only_the_newest_are_kept_and_leftovers_go(tmp_path):
    for number in range(8):
        path = tmp_path / f"{number}"
        path.touch()
        os.utime(path, (number, number))
    (tmp_path / ".killed.part").touch()
    long_ago = time.time() - 2 * state.LEFTOVER_AGE
    os.utime(tmp_path / ".killed.part", (long_ago, long_ago))
    (tmp_path / ".being-written.part").touch()
    state.prune(tmp_path, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".being-written.part", "5", "6", "7"]
    state.prune(tmp_path / "nowhere", 5)
