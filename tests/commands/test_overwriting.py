"""What -y replaces: earlier results, and a file that is named. Never what the run reads, nor anything else."""

import json
import os
import shutil
import stat

import pytest
from PIL import Image

LAYOUT = ["--layout-only", "--amount", "0", "--frames", "2", "-q"]
CLIP = ["--model", "sketch", "--steps", "1", "--frames", "2", "--chunks", "1", "--size", "64x48", "-q"]


@pytest.fixture
def photo(tmp_path):
    """Makes a photo, and returns its bytes: photo("a.webp")."""

    def make(name, colour="red"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (48, 32), colour).save(path)
        return path.read_bytes()

    return make


@pytest.fixture
def made(call):
    """Runs a command that must end well: made("pan", ...) -> the names that it printed."""

    def made(*arguments):
        shown = call(*arguments)
        assert shown.returncode == 0, shown.stderr
        return shown.stdout.splitlines()

    return made


@pytest.mark.parametrize("output", [[], ["-o", "a.webp"], ["-o", "./A/../a.webp"], ["-o", "{name}"]])
def test_a_photo_is_never_replaced(made, photo, tmp_path, output):
    before = photo("a.webp")
    (tmp_path / "A").mkdir()
    (name,) = made("pan", "a.webp", "-f", "webp", "-y", *LAYOUT, *output)
    assert name.endswith("a-2.webp")
    assert (tmp_path / "a.webp").read_bytes() == before


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_nor_under_another_name_of_it(made, photo, tmp_path, link):
    before = photo("a.webp")
    link(tmp_path / "a.webp", tmp_path / "b.webp")
    assert made("pan", "a.webp", "-o", "b.webp", "-y", *LAYOUT) == ["b-2.webp"]
    assert (tmp_path / "a.webp").read_bytes() == (tmp_path / "b.webp").read_bytes() == before


def test_a_folder_into_itself(made, photo, tmp_path):
    before = {name: photo(f"photos/{name}") for name in ("a.webp", "b.gif", "c.webp")}
    assert made("pan", "photos", "-o", "photos/", "-f", "webp", "-f", "gif", "-y", *LAYOUT) == [
        *("photos/a-2.webp", "photos/a-2.gif", "photos/b-2.webp", "photos/b-2.gif"),
        *("photos/c-2.webp", "photos/c-2.gif"),
    ]
    assert all((tmp_path / "photos" / name).read_bytes() == content for name, content in before.items())


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_video_that_extend_begins_with(made, photo, tmp_path, monkeypatch, by):
    photo("a.png")
    made("pan", "a.png", "-o", "film.mp4", "--no-metadata", *LAYOUT)
    before = (tmp_path / "film.mp4").read_bytes()
    if by == "environment":
        monkeypatch.setenv("CONSISTI2V_EXTEND_OVERWRITE", "1")
    assert made("extend", "film.mp4", "it gets darker", *CLIP, *(["-y"] if by == "option" else [])) == ["film-2.mp4"]
    assert (tmp_path / "film.mp4").read_bytes() == before


def test_a_folder_of_frames_that_is_read(made, photo, tmp_path):
    photo("a.png")
    made("pan", "a.png", "-f", "png", "-o", "frames", *LAYOUT)
    before = sorted((path.name, path.read_bytes()) for path in (tmp_path / "frames").iterdir())
    assert made("extend", "frames", "it gets darker", "-f", "png", "-y", *CLIP) == ["frames-2"]
    assert sorted((path.name, path.read_bytes()) for path in (tmp_path / "frames").iterdir()) == before


def test_what_is_no_clip_of_ours_must_be_named(made, photo, tmp_path):
    photo("a.png")
    (tmp_path / "a.mp4").write_bytes(b"somebody's")
    assert made("pan", "a.png", "-y", *LAYOUT) == ["a-2.mp4"]
    assert made("pan", "a.png", "-y", "-o", "./", *LAYOUT) == ["a-2.mp4"]  # which is one of ours now
    assert (tmp_path / "a.mp4").read_bytes() == b"somebody's"
    assert made("pan", "a.png", "-y", "-o", "a.mp4", *LAYOUT) == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() != b"somebody's"


def test_redo_names_its_file_by_itself(made, photo, tmp_path):
    photo("a.png")
    made("pan", "a.png", "-o", "clips/move.mp4", *LAYOUT)
    (tmp_path / "move.mp4").write_bytes(b"somebody's")
    assert made("redo", "clips/move.mp4", "-y", "-q") == ["move-2.mp4"]
    assert (tmp_path / "move.mp4").read_bytes() == b"somebody's"
    assert made("redo", "clips/move.mp4", "-y", "-q", "-o", "clips/move.mp4") == ["clips/move.mp4"]


def test_mode_and_link_stay(made, photo, tmp_path):
    photo("a.png")
    made("pan", "a.png", "-o", "there/clip.mp4", *LAYOUT)
    (tmp_path / "there" / "clip.mp4").chmod(0o640)
    (tmp_path / "clip.mp4").symlink_to("there/clip.mp4")
    old = (tmp_path / "there" / "clip.mp4").read_bytes()
    assert made("pan", "a.png", "-o", "clip.mp4", "-y", *LAYOUT, "--frames", "3") == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").is_symlink()
    assert (tmp_path / "there" / "clip.mp4").read_bytes() != old
    assert stat.S_IMODE((tmp_path / "there" / "clip.mp4").stat().st_mode) == 0o640


def test_evaluate_writes_over_nothing_that_it_reads(call, photo, made, tmp_path):
    photo("a.png")
    made("pan", "a.png", "-o", "clips/a.mp4", *LAYOUT)
    (tmp_path / "words.json").write_text('{"a.mp4": {"object": "dog"}}')
    for flag in ("--json", "--html"):
        shown = call("evaluate", "clips", "--metrics", "flickering", "--labels", "words.json", flag, "words.json", "-y")
        assert shown.returncode == 2
        assert "words.json is read by this command" in shown.stderr


@pytest.mark.parametrize("command", ["animate", "extend", "pan", "zoom"])
def test_asked_twice_for_the_same(call, photo, tmp_path, tiny_model, command):
    photo("a.png")
    small = ["--model", tiny_model, "--size", "64x48", "--frames", "2", "--steps", "1", "--seed", "7"]
    arguments = [command, "a.png", "it snows", *small, *(["--chunks", "1"] if command == "extend" else [])]
    first = call(*arguments, "-q")
    assert (first.returncode, first.stdout) == (0, "a.mp4\n"), first.stderr
    content = (tmp_path / "a.mp4").stat().st_mtime_ns
    again = call(*arguments)
    assert (again.returncode, again.stdout) == (0, "")
    assert "Made already: a.mp4; another --seed makes" in again.stderr
    assert (tmp_path / "a.mp4").stat().st_mtime_ns == content
    assert call(*arguments, "-q", "--seed", "8").stdout == "a-2.mp4\n"
    told = call(*arguments, "-q", "-y", "--json")
    assert json.loads(told.stdout)["path"] == "a.mp4"
    assert (tmp_path / "a.mp4").stat().st_mtime_ns != content


def test_without_a_seed_each_call_makes_another(call, photo, tiny_model):
    photo("a.png")
    small = ["--model", tiny_model, "--size", "64x48", "--frames", "2", "--steps", "1", "-q"]
    assert [call("animate", "a.png", "it snows", *small).stdout for _ in range(2)] == ["a.mp4\n", "a-2.mp4\n"]


def test_a_recipe_of_another_place_is_no_input(made, photo, tmp_path):
    """--recipe is read before anything is written: the clip that it comes from may be made again in its place."""
    photo("a.png")
    made("pan", "a.png", "-o", "move.mp4", *LAYOUT)
    shutil.copy(tmp_path / "move.mp4", tmp_path / "old.mp4")
    assert made("pan", "a.png", "--recipe", "old.mp4", "-o", "old.mp4", "-y", "-q") == ["old.mp4"]
