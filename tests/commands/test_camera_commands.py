"""`consisti2v pan` and `zoom`: the camera moves as it was asked to, over any photo, with a model or without."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.media.video import read_video
from consisti2v_cli.recipe import from_json

LAYOUT = ["--layout-only", "--size", "160x128", "--frames", "9", "--json"]
WAYS = {  # direction: right, down
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up-left": (-1, -1),
    "up-right": (1, -1),
    "down-left": (-1, 1),
    "down-right": (1, 1),
}


@pytest.fixture
def layout(call, boat):
    """The JSON object, and what is said, for the layout of the boat."""

    def layout(command, *arguments, photo=boat):
        made = call(command, photo, *LAYOUT, *arguments)
        assert made.returncode == 0, made.stderr
        (line,) = made.stdout.splitlines()
        return json.loads(line), made.stderr

    return layout


@pytest.mark.parametrize("direction", WAYS)
def test_the_camera_pans_as_it_was_asked_to(layout, direction, tmp_path):
    made, said = layout("pan", "--direction", direction, "--amount", "0.4")
    right, down = WAYS[direction]
    for found in (made["motion"]["asked"], made["motion"]["found"]):
        assert found["right"] == pytest.approx(40 * right, abs=2)
        assert found["down"] == pytest.approx(40 * down, abs=2)
        assert found["zoom"] == pytest.approx(1, abs=0.02)
    assert "Camera: asked for 40 %" in said
    frames, _ = read_video(tmp_path / made["path"])
    assert frames.shape == (9, 128, 160, 3)


@pytest.mark.parametrize(("arguments", "zoom"), [([], 1.5), (["--ratio", "2", "--out"], 1 / 2), (["--in"], 1.5)])
def test_the_camera_zooms_as_it_was_asked_to(layout, arguments, zoom):
    made, said = layout("zoom", *arguments)
    for found in (made["motion"]["asked"], made["motion"]["found"]):
        assert found["zoom"] == pytest.approx(zoom, rel=0.03)
    assert f"a zoom {'in' if zoom > 1 else 'out'}" in said


def test_the_zooms_point_and_the_paths_ease(layout, tmp_path):
    layout("zoom", "--center", "0,0", "--ease", "in-out", "-o", "corner.png")
    layout("zoom", "-o", "middle.png")
    corner, middle = (np.asarray(Image.open(tmp_path / name / "0009.png")).astype(int) for name in ("corner", "middle"))
    assert np.abs(corner - middle).mean() > 10
    recipe = from_json(read_recipe(tmp_path / "corner"))
    assert (recipe.center_x, recipe.center_y, recipe.ease, recipe.zoom) == (0, 0, "in-out", "in")


def test_a_layout_takes_neither_prompt_nor_torch(environment, boat, tmp_path):
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "consisti2v_cli",
        "pan",
        boat,
        *LAYOUT,
        "-f",
        "mp4",
        "-f",
        "gif",
    ]
    made = subprocess.run(
        list(map(str, command)), env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert [json.loads(line)["path"] for line in made.stdout.splitlines()] == ["boat.mp4", "boat.gif"]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in made.stderr.splitlines()}
    assert "numpy" in imported
    assert not imported & {"torch", "diffusers", "transformers"}


def test_arguments_of_layouts(call, boat, tmp_path):
    """All of them are images, but for a last one that does not look like one."""
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "photos/b.png"):
        Image.open(boat).save(tmp_path / name)
    plan = ["--layout-only", "--dry-run", "--json"]
    for arguments, inputs, prompt in (
        (["a.png"], ["a.png"], ""),
        (["photos"], ["b.png"], ""),
        (["a.png", "photos/b.png"], ["a.png", "b.png"], ""),
        (["a.png", "waves roll"], ["a.png"], "waves roll"),
    ):
        plans = [json.loads(line) for line in call("pan", *arguments, *plan).stdout.splitlines()]
        assert [entry["input"] for entry in plans] == inputs
        assert {entry["recipe"]["prompt"] for entry in plans} == {prompt}
        assert plans[0]["memory_bytes"] < 200 * 2**20
    assert call("pan", *plan).returncode == 2
    missing = call("pan", "nowhere.png", *plan)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "nowhere.png" in missing.stderr
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41")
    film = call("pan", "film.mp4", *plan)
    assert (film.returncode, film.stdout) == (2, "")
    assert "film.mp4 is a film, and an image is expected; consisti2v extend" in film.stderr
    needed = call("pan", "a.png")
    assert needed.returncode == 2
    assert "prompt" in needed.stderr


@pytest.mark.parametrize(
    ("size", "frame"), [((80, 80), "320x128"), ((300, 40), "64x128"), ((2, 2), "64x64"), ((1, 900), "64x64")]
)
def test_any_photo_in_any_frame(layout, tmp_path, size, frame):
    Image.effect_noise((320, 320), 60).convert("RGB").resize(size).save(tmp_path / "photo.png")
    for command in ("pan", "zoom"):
        made, said = layout(command, "--size", frame, photo="photo.png")
        assert made["enlargement"] > 1.05
        assert f"enlarged {made['enlargement']:.1f} times" in said
    width, height = map(int, frame.split("x"))
    assert read_video(tmp_path / "photo.mp4")[0].shape == (9, height, width, 3)


def test_large_photos_are_not_said_to_be_enlarged(layout, tmp_path):
    Image.effect_noise((1200, 900), 60).convert("RGB").save(tmp_path / "photo.png")
    made, said = layout("pan", photo="photo.png")
    assert made["enlargement"] < 1
    assert "enlarged" not in said


def test_a_model_renders_along_the_path(call, boat, tiny_model, tmp_path):
    for command, option in (("pan", "--direction"), ("zoom", "--out")):
        arguments = [option, "right"] if command == "pan" else [option]
        made = call(
            command,
            boat,
            "waves",
            *arguments,
            "--model",
            tiny_model,
            "--frames",
            "4",
            "--steps",
            "2",
            "--seed",
            "1",
            "--json",
        )
        assert made.returncode == 0, made.stderr
        told = json.loads(made.stdout)
        recipe = from_json(read_recipe(tmp_path / told["path"]))
        assert (recipe.command, recipe.layout_strength, recipe.layout_cutoff) == (command, 750, 0.5)
        assert recipe.direction == ("right" if command == "pan" else "left")
        assert "Camera: asked" in made.stderr
        assert set(told["motion"]) == {"asked", "found"}


def test_layouts_of_a_folder_go_on(call, boat, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in "ab":
        Image.open(boat).save(tmp_path / "photos" / f"{name}.png")
    command = ["pan", "photos", "--layout-only", "--size", "64x48", "--frames", "3", "-o", "out/"]
    made = call(*command)
    assert made.stdout == "out/a.mp4\nout/b.mp4\n"
    assert "a.png: Camera: " in made.stderr
    assert "Seed" not in made.stderr
    assert "Model" not in made.stderr
    (tmp_path / "out" / "a.mp4").unlink()
    assert call(*command).stdout == "out/a.mp4\n"
    assert call(*command, "--direction", "up").stdout == "out/a-2.mp4\nout/b-2.mp4\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pan", "--direction", "north"], "'left', 'right'"),
        (["pan", "--amount", "-1"], "--amount"),
        (["pan", "--amount", "nan"], "amount"),
        (["zoom", "--ratio", "0.5"], "--ratio"),
        (["zoom", "--center", "2,0"], "0 to 1"),
        (["zoom", "--ease", "jerky"], "'linear'"),
        (["pan", "--layout-only", "--variations", "2"], "all would be the same"),
    ],
)
def test_wrong_motions(call, boat, tiny_model, arguments, message):
    command, *options = arguments
    shown = call(command, boat, "waves", *options, "--model", tiny_model)
    assert shown.returncode == 2
    assert message in shown.stderr
    assert len(shown.stderr.splitlines()) <= 2


def test_a_layout_of_a_model_that_is_not_here(call, boat):
    shown = call("pan", boat, "--layout-only", "--model", "consisti2v")
    assert shown.returncode == 3
    assert "fetch-weights consisti2v" in shown.stderr
