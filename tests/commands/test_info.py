"""`consisti2v info` through the real executable: what a file carries, and what it is."""

import json
import os
import shutil
import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from consisti2v_cli.commands.options import FORMATS
from consisti2v_cli.media.video import write_video
from consisti2v_cli.recipe import Recipe, to_dict, to_json

ZOOM = Recipe(
    prompt="böat, the \N{SAILBOAT}",
    seed=4,
    command="zoom",
    input_name="boat.jpg",
    input_sha256="ab" * 32,
    width=96,
    height=64,
    center_x=0.25,
    versions={"torch": "2.13.0"},
)
RECIPE = to_json(ZOOM)
OF_LAYOUTS = {"command", "input-name", "input-sha256", "size", "frames", "fps", "fit", "background", "direction"}
OF_LAYOUTS |= {"amount", "ease", "layout-only", "quality", "versions"}
FRAMES = np.random.default_rng(0).integers(0, 255, (6, 64, 96, 3), np.uint8)


@pytest.fixture
def film(tmp_path):
    """Writes a film with a comment: film("clip.mp4", comment); a name without suffix becomes a folder of PNG."""

    def film(name="clip.mp4", comment=RECIPE):
        format = name.partition(".")[2] or "png"
        return write_video(tmp_path / name, FRAMES, 8, format=format, comment=comment)

    return film


def table(shown: str) -> dict[str, str]:
    """The recipe's lines as names and values."""
    return dict(line.strip().split(maxsplit=1) for line in shown.splitlines()[1:])


@pytest.mark.parametrize("format", FORMATS)
def test_every_format(run, film, format):
    name = "clip" if format == "png" else f"clip.{format}"
    path = film(name)
    told = json.loads(run("info", name, "--json").stdout)
    size = sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size
    facts = {"path": name, "format": format, "width": 96, "height": 64, "frames": 6, "bytes": size}
    assert told.pop("fps") == pytest.approx(8, rel=1e-3)
    assert told == facts | {"recipe": to_dict(ZOOM), "recipe_from": "file"}


def test_for_a_person(run, film):
    film()
    shown = run("info", "clip.mp4")
    assert (shown.returncode, shown.stderr) == (0, "")
    first, second, *_ = shown.stdout.splitlines()
    assert first.startswith("clip.mp4: mp4, 96x64, 6 frames at 8 a second, 0.75 s, ")
    assert second.split() == ["prompt", *ZOOM.prompt.split()]
    values = table(shown.stdout)
    expected = {"size": "96x64", "center": "0.25,0.5", "ratio": "1.5", "frameinit": "yes", "versions": "torch: 2.13.0"}
    assert {name: values[name] for name in expected} == expected
    assert not {"direction", "amount", "chunks", "width", "negative", "max-size"} & set(values)
    starts = {line.index(line.split()[1], 3) for line in shown.stdout.splitlines()[1:]}
    assert len(starts) == 1


def test_a_single_frame(run, film):
    film("clip")
    told = json.loads(run("info", "clip/0002.png", "--json").stdout)
    assert (told["format"], told["frames"], told["fps"], told["recipe"]["seed"]) == ("png", 1, None, 4)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_a_recipe_survives_a_copy_by_ffmpeg(run, film, tmp_path, suffix):
    copy = tmp_path / f"copy.{suffix}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", film(), "-c", "copy", copy]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    told = json.loads(run("info", copy.name, "--json").stdout)
    assert (told["format"], told["frames"], told["recipe"]) == (suffix, 6, to_dict(ZOOM))


def test_the_content_counts_and_not_the_name(run, film, tmp_path):
    film("clip.gif").rename(tmp_path / "clip.mp4")
    film("other.webm").rename(tmp_path / "other")
    told = [json.loads(line) for line in run("info", "clip.mp4", "other", "--json").stdout.splitlines()]
    assert [entry["format"] for entry in told] == ["gif", "webm"]
    assert all(entry["recipe"]["seed"] == 4 for entry in told)


@pytest.mark.parametrize("comment", [None, "made elsewhere", '{"title": "made elsewhere"}', "{", '{"prompt":' * 90_000])
def test_without_a_recipe_the_facts_are_told(run, film, comment):
    film(comment=comment)
    shown = run("info", "clip.mp4")
    assert shown.returncode == 0
    assert len(shown.stdout.splitlines()) == 1
    assert "96x64" in shown.stdout
    assert "carries no recipe" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
    assert json.loads(run("info", "clip.mp4", "--json", "-q").stdout)["recipe"] is None


def test_a_recipe_that_is_only_remembered_is_said_to_be(call, boat):
    layout = ["--layout-only", "--size", "64x48", "--frames", "3", "-q"]
    assert call("pan", boat, "--direction", "up", *layout, "--no-metadata", "-o", "clip.mp4").returncode == 0
    shown = call("info", "clip.mp4")
    assert "not in the file, but remembered on this machine" in shown.stdout.splitlines()[1]
    assert {line.split()[0] for line in shown.stdout.splitlines()[2:]} == OF_LAYOUTS
    told = json.loads(call("info", "clip.mp4", "--json").stdout)
    assert (told["recipe"]["direction"], told["recipe_from"]) == ("up", "this machine")
    os.utime("clip.mp4", (1, 1))  # another file, as far as anybody knows
    assert json.loads(call("info", "clip.mp4", "--json", "-q").stdout)["recipe_from"] is None


def test_a_photo(run, boat):
    shown = run("info", boat)
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"{boat}: jpeg, 640x480, 1 frame, ")
    assert "carries no recipe" in shown.stderr


def test_what_a_recipe_says_does_nothing_to_the_terminal(run, film):
    film(comment=to_json(Recipe(prompt="\x1b[2Jgone\nprompt  x", seed=1, negative="\x9b31m")))
    shown = run("info", "clip.mp4")
    assert shown.stdout.isascii() is False
    assert not {"\x1b", "\x9b"} & set(shown.stdout)
    assert sum(line.startswith("  prompt") for line in shown.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [("letter.mp4", b"Dear Sir or Madam\n"), ("empty.gif", b""), ("cut.gif", b"GIF89a\x01"), ("absent.mp4", None)],
)
def test_what_is_neither_film_nor_picture(run, tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    shown = run("info", name)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith("Error: ")
    assert name in shown.stderr
    assert len(shown.stderr.splitlines()) <= 2


def test_one_bad_file_of_several(run, film, tmp_path):
    film()
    shutil.copy(tmp_path / "clip.mp4", tmp_path / "again.mp4")
    (tmp_path / "letter.mp4").write_text("Dear Sir or Madam")
    shown = run("info", "letter.mp4", "clip.mp4", "again.mp4", "--json")
    assert shown.returncode == 1
    assert [json.loads(line)["path"] for line in shown.stdout.splitlines()] == ["clip.mp4", "again.mp4"]
    assert [line for line in shown.stderr.splitlines() if "letter.mp4" in line] == shown.stderr.splitlines()
    blocks = run("info", "letter.mp4", "clip.mp4", "again.mp4").stdout.split("\n\n")
    assert [block.partition(":")[0] for block in blocks] == ["clip.mp4", "again.mp4"]


def test_a_folder_of_other_pictures_runs_no_program(run, tmp_path):
    """Pillow would hand PostScript to Ghostscript."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ntouch "{tmp_path / "has run"}"\n')
    program.chmod(0o755)
    (tmp_path / "frames").mkdir()
    Image.fromarray(FRAMES[0]).save(tmp_path / "frames" / "0001.png", format="EPS")
    path = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    for name in ("frames", "frames/0001.png"):
        shown = run("info", name, env=path)
        assert (shown.returncode, shown.stdout) == (2, "")
        assert "0001.png" in shown.stderr
        assert len(shown.stderr.splitlines()) == 1
    assert not (tmp_path / "has run").exists()


def test_what_a_file_is_called_does_nothing_to_the_terminal(run, film, tmp_path):
    name = "clip\x1b[2J\u202e.gif"
    film().rename(tmp_path / name)
    (tmp_path / f"bad{name}").write_text("Dear Sir or Madam")
    write_video(tmp_path / f"bare{name}", FRAMES, 8, format="gif")
    for arguments in ([name], [f"bad{name}"], [f"bare{name}"], [name, f"bad{name}"], [f"absent{name}"]):
        shown = run("info", *arguments)
        assert "clip\N{REPLACEMENT CHARACTER}[2J" in shown.stdout + shown.stderr
        assert not {"\x1b", "\u202e"} & {*shown.stdout, *shown.stderr}
    assert json.loads(run("info", name, "--json").stdout)["path"] == name


def test_without_a_standard_output(run, film, environment, tmp_path):
    film()
    for arguments, code in (("info clip.mp4", 0), ("info absent.mp4", 2)):
        command = f'exec "{sys.executable}" -m consisti2v_cli {arguments} >&-'
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert done.returncode == code, done.stderr
        assert (done.stderr == b"") is (code == 0)


def test_no_file_at_all(run):
    shown = run("info")
    assert shown.returncode == 2
    assert "FILE" in shown.stderr
