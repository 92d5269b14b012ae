"""`consisti2v redo`: what is given beats the recipe, all else stays; the input is found by its content."""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import subprocess
import warnings

import imageio_ffmpeg
import numpy as np
import pytest

from consisti2v_cli.commands import main
from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.media.video import write_video
from consisti2v_cli.recipe import Recipe, from_json, to_json

FRAMES = np.random.default_rng(0).integers(0, 255, (3, 32, 48, 3), np.uint8)
QUICK = ["--size", "64x48", "--frames", "4", "--steps", "1", "--seed", "7", "-q"]


@pytest.fixture
def recipe(boat):
    """A recipe in which much differs from what is built in."""
    digest = hashlib.sha256(boat.read_bytes()).hexdigest()
    return Recipe(
        prompt="moves left",
        seed=7,
        input_name="boat.jpg",
        input_sha256=digest,
        width=64,
        height=48,
        frames=5,
        steps=3,
        guidance=4.0,
        fit="pad",
        quality=40,
        frameinit=False,
    )


@pytest.fixture
def film(tmp_path, recipe):
    """Writes a film with the recipe, or with some of it changed: film("clip.mp4", seed=8)."""

    def film(name="clip.mp4", **changes):
        text = to_json(dataclasses.replace(recipe, **changes))
        return write_video(tmp_path / name, FRAMES, 8, format=name.partition(".")[2] or "png", comment=text)

    return film


@pytest.fixture
def program(tmp_path, environment, monkeypatch, capsys, boat):
    """Runs `consisti2v` in this process, beside the boat's photo: exit code, stdout, stderr."""
    place = tmp_path / "place"
    place.mkdir()
    shutil.copy(boat, place)
    monkeypatch.chdir(place)
    for name in set(os.environ) - set(environment):
        monkeypatch.delenv(name)
    for name, value in {**environment, "XDG_STATE_HOME": str(tmp_path / "state")}.items():
        monkeypatch.setenv(name, value)

    def program(*arguments):
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        return ended.value.code, *capsys.readouterr()

    return program


@pytest.fixture
def redo(program):
    """Runs `consisti2v redo`."""
    return functools.partial(program, "redo")


@pytest.fixture
def planned(redo):
    """The plans that a dry run shows, each with `outputs` and `recipe`."""

    def planned(*arguments):
        code, out, err = redo(*arguments, "--dry-run", "--json")
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    return planned


@pytest.fixture
def remade(planned):
    """The recipe that would be made."""

    def remade(*arguments):
        (plan,) = planned(*arguments)
        return from_json(json.dumps(plan["recipe"]))

    return remade


def test_nothing_given_nothing_changed(remade, film, recipe):
    again = remade(film())
    assert dataclasses.replace(again, versions={}) == dataclasses.replace(recipe, model="sketch")


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        (["--guidance", "7.5"], {"guidance": 7.5}),
        (["--fit", "crop"], {"fit": "crop"}),
        (["--quality", "85"], {"quality": 85}),
        (["--frameinit"], {"frameinit": True}),
        (["--steps", "50", "--frames", "16"], {"steps": 50, "frames": 16}),
        (["--size", "96x64"], {"width": 96, "height": 64}),
        (["--prompt", "moves right", "--negative", "blur"], {"prompt": "moves right", "negative": "blur"}),
        (["--max-size", "8MB", "--smooth", "24"], {"max_size": 8_000_000, "smooth": 24.0}),
        (["--seed", "9"], {"seed": 9}),
        (["--seed", "+1"], {"seed": 8}),
        (["--seed", "-7"], {"seed": 0}),
    ],
)
def test_what_is_given_wins_even_where_it_is_a_default(remade, film, given, changed):
    """The recipe has other values than the defaults given here."""
    before, after = remade(film()), remade(film("other.mp4"), *given)
    assert after == dataclasses.replace(before, **changed)


def test_the_environment_wins_too_but_not_the_configuration(remade, film, tmp_path, monkeypatch):
    path = tmp_path / "config" / "consisti2v" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text('[redo]\nguidance = 9\nsteps = 9\nseed = 9\nfit = "stretch"\n')
    monkeypatch.setenv("CONSISTI2V_REDO_GUIDANCE", "7.5")
    monkeypatch.setenv("CONSISTI2V_REDO_DIRECTION", "up")  # means nothing to this recipe
    again = remade(film())
    assert (again.guidance, again.steps, again.seed, again.fit) == (7.5, 3, 7, "pad")


def test_a_prompt_from_a_file(remade, film, tmp_path):
    (tmp_path / "prompt.txt").write_text("it\nrises\n")
    assert remade(film(), "--prompt", f"@{tmp_path / 'prompt.txt'}").prompt == "it rises"


def test_variations_count_from_the_recipes_seed(planned, film):
    plans = planned(film(), "--seed", "+1", "--variations", "2")
    assert [plan["recipe"]["seed"] for plan in plans] == [8, 9]
    assert [plan["outputs"] for plan in plans] == [["clip.mp4"], ["clip-2.mp4"]]


@pytest.mark.parametrize(
    ("changes", "given", "expected"),
    [
        ({"command": "pan", "direction": "up"}, ["--amount", "0.3"], {"direction": "up", "amount": 0.3}),
        ({"command": "pan", "ease": "in"}, ["--direction", "left"], {"ease": "in", "direction": "left"}),
        ({"command": "zoom", "zoom": "out"}, ["--in"], {"zoom": "in"}),
        ({"command": "zoom", "ratio": 2.0}, ["--center", "0.5,0.2"], {"ratio": 2.0, "center_y": 0.2, "zoom": "in"}),
        ({"command": "zoom", "center_x": 0.1}, ["--out"], {"center_x": 0.1, "zoom": "out"}),
        ({"command": "extend", "chunks": 2}, ["--anchor", "0"], {"chunks": 2, "anchor": 0.0}),
        ({"command": "extend", "prompt_at": {"2": "a"}}, ["--chunks", "3"], {"chunks": 3, "prompt_at": {"2": "a"}}),
        ({"command": "extend"}, ["--prompt-at", "2", "it stops"], {"prompt_at": {"2": "it stops"}}),
    ],
)
def test_options_of_other_commands(remade, film, changes, given, expected):
    again = remade(film(**changes), *given)
    assert again.command == changes["command"]
    assert {name: getattr(again, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("command", "given", "owner"),
    [
        ("animate", ["--direction", "left"], "pan"),
        ("animate", ["--in"], "zoom"),
        ("animate", ["--ease", "linear"], "pan and zoom"),
        ("pan", ["--out"], "zoom"),
        ("pan", ["--center", "0.5,0.5"], "zoom"),
        ("zoom", ["--chunks", "4"], "extend"),
        ("extend", ["--layout-only"], "pan and zoom"),
    ],
)
def test_options_that_do_not_belong(redo, film, command, given, owner):
    code, out, err = redo(film(command=command), *given)
    assert (code, out) == (2, "")
    assert f"{given[0]}" in err
    assert f"belongs to {owner}" in err
    assert f"made by {command}" in err
    assert len(err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("name", "given", "outputs"),
    [
        ("clip.gif", [], ["clip.gif"]),
        ("clip.webm", ["-o", "clips/{name}-{seed}"], ["clips/boat-7.webm"]),
        ("frames", [], ["frames"]),
        ("clip.gif", ["-f", "mp4", "-f", "webp"], ["clip.mp4", "clip.webp"]),
        ("clip.gif", ["-o", "clip.mov"], ["clip.mov"]),
    ],
)
def test_the_format_is_that_of_the_file(planned, film, name, given, outputs):
    (plan,) = planned(film(name), *given)
    assert plan["outputs"] == outputs


def test_names_that_are_taken(planned, film):
    film("place/boat.mp4")
    (plan,) = planned("boat.mp4")
    assert plan["outputs"] == ["boat-2.mp4"]


def test_a_recipe_of_its_own(remade, recipe, tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text(to_json(recipe))
    assert remade(file, "--steps", "50") == dataclasses.replace(recipe, steps=50)
    file.write_text('{"prompt": "moves left", "seed": 3, "input_name": "boat.jpg"}')
    assert remade(file, "--seed", "+1").seed == 4


def test_the_input_beside_the_file(remade, film, boat, tmp_path):
    (tmp_path / "place" / "boat.jpg").unlink()
    shutil.copy(boat, tmp_path)
    assert remade(film()).input_name == "boat.jpg"


def test_the_input_beside_the_file_with_another_name(remade, film, boat, tmp_path, recipe):
    (tmp_path / "place" / "boat.jpg").unlink()
    shutil.copy(boat, tmp_path / "renamed.jpg")
    again = remade(film())
    assert (again.input_name, again.input_sha256) == ("renamed.jpg", recipe.input_sha256)


def test_another_file_of_that_name_is_not_taken(redo, film, photo, tmp_path, recipe):
    photo("boat.jpg").rename(tmp_path / "place" / "boat.jpg")
    code, out, err = redo(film(), "--dry-run")
    assert (code, out) == (2, "")
    for word in ("boat.jpg", recipe.input_sha256[:12], "--input"):
        assert word in err
    assert len(err.splitlines()) <= 2


def test_names_in_recipes_do_not_lead_elsewhere(redo, film, boat, tmp_path):
    shutil.copy(boat, tmp_path / "secret.jpg")
    code, _, err = redo(film("place/clip.mp4", input_name="../secret.jpg", input_sha256=""), "--dry-run")
    assert code == 2
    assert "--input" in err


@pytest.mark.parametrize("name", [".", "..", "clips", "../.."])
def test_folders_are_no_input_without_their_content(redo, film, tmp_path, name):
    frames = film("place/clips")
    for folder in (tmp_path / "place", tmp_path):
        shutil.copytree(frames, folder, dirs_exist_ok=True)  # they are folders of frames too
    made = film("place/clip.mp4", command="extend", input_name=name, input_sha256="")
    code, _, err = redo(made, "--dry-run")
    assert code == 2
    assert "--input" in err


def test_an_input_that_is_given(redo, planned, film, boat, photo, tmp_path):
    other = photo("other.jpg")
    (plan,) = planned(film(), "--input", other)
    assert plan["recipe"]["input_sha256"] == hashlib.sha256(other.read_bytes()).hexdigest()
    assert "other.jpg is not the boat.jpg" in redo(film("2.mp4"), "--input", other, "--dry-run")[2]
    shutil.copy(boat, tmp_path / "renamed.jpg")
    assert "is not the" not in redo(film("3.mp4"), "--input", tmp_path / "renamed.jpg", "--dry-run")[2]
    code, _, err = redo(film("4.mp4"), "--input", "nowhere.jpg", "--dry-run")
    assert code == 2
    assert "nowhere.jpg" in err


@pytest.mark.parametrize("comment", [None, "made elsewhere", '{"prompt": "x"}'])
def test_files_without_a_recipe(redo, tmp_path, comment):
    write_video(tmp_path / "clip.mp4", FRAMES, 8, comment=comment)
    code, out, err = redo(tmp_path / "clip.mp4")
    assert (code, out) == (2, "")
    assert "recipe" in err
    assert len(err.splitlines()) <= 2


@pytest.mark.parametrize("name", ["nowhere.mp4", "nowhere.json", "boat.jpg"])
def test_files_that_are_no_clips(redo, name):
    code, _, err = redo(name)
    assert code == 2
    assert name in err


def test_a_model_in_a_folder_is_asked_for(redo, film, tiny_model):
    made = film(model="tiny")
    code, _, err = redo(made)
    assert code == 2
    assert "folder tiny" in err
    assert "--model" in err
    assert redo(made, "--model", tiny_model, "--dry-run")[0] == 0


def test_a_size_that_the_format_cannot_keep_is_the_recipes_alone(planned, redo, film):
    made = film(max_size=500_000)
    assert planned(made)[0]["recipe"]["max_size"] == 500_000
    code, _, err = redo(made, "-f", "webm", "--dry-run")
    assert code == 0, err


@pytest.mark.parametrize(
    "command",
    [
        ["animate", "boat.jpg", "moves left", "-f", "gif"],
        ["pan", "boat.jpg", "moves left", "--direction", "up", "--ease", "in"],
        ["extend", "boat.jpg", "moves left", "--chunks", "2", "--prompt-at", "2", "it stops"],
    ],
)
def test_the_same_recipe_gives_the_same_bytes(program, tiny_model, tmp_path, command):
    code, made, err = program(*command, *QUICK, "--model", tiny_model)
    assert code == 0, err
    path = tmp_path / "place" / made.strip()
    code, again, err = program("redo", path, "--model", tiny_model, "-q", "-o", "again")
    assert (code, again) == (0, f"again{path.suffix}\n"), err
    assert path.with_stem("again").read_bytes() == path.read_bytes()


def test_a_film_from_frames_in_a_folder(program, planned, film, tmp_path):
    film("place/frames")
    code, out, err = program("extend", "frames", "it stops", *QUICK[:-1], "--chunks", "1", "--dry-run", "--json")
    assert code == 0, err
    source = json.loads(out)["recipe"]
    assert source["input_name"] == "frames"
    made = film(command="extend", input_name="frames", input_sha256=source["input_sha256"])
    assert planned(made)[0]["recipe"]["input_sha256"] == source["input_sha256"]


def test_a_layout_without_metadata_from_a_copy_elsewhere(run, boat, tmp_path):
    """Nothing is in the file, and nothing lies beside it: what was made here is remembered."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "clips").mkdir()
    shutil.copy(boat, tmp_path / "photos")
    layout = ["--layout-only", "--size", "64x48", "--frames", "5", "-q"]
    made = run("pan", "photos/boat.jpg", "--direction", "up", *layout, "--no-metadata", "-o", "clips/boat.mp4")
    assert made.returncode == 0, made.stderr
    assert read_recipe(tmp_path / "clips" / "boat.mp4") is None
    again = run("redo", "clips/boat.mp4", "--no-metadata", "-q")
    assert (again.returncode, again.stdout) == (0, "boat.mp4\n"), again.stderr
    assert (tmp_path / "boat.mp4").read_bytes() == (tmp_path / "clips" / "boat.mp4").read_bytes()
    changed = run("redo", "clips/boat.mp4", "--direction", "down", "-q")
    assert changed.stdout == "boat-2.mp4\n"
    assert from_json(read_recipe(tmp_path / "boat-2.mp4")).direction == "down"


def test_a_prompt_that_is_given_is_read_before_the_recipes(planned, program, film, tiny_model):
    """A layout's recipe has an empty one."""
    made = film("move.gif", command="pan", prompt="", layout_only=True)
    (plan,) = planned(made, "--no-layout-only", "--prompt", "waves", "--model", tiny_model)
    assert (plan["recipe"]["prompt"], plan["recipe"]["layout_only"]) == ("waves", False)
    assert (plan["recipe"]["model"], plan["recipe"]["steps"]) == ("tiny", 2)  # the model's own
    asked = ["--recipe", made, "--model", tiny_model, "--dry-run"]
    assert '"all new"' in program("animate", "boat.jpg", "all new", *asked)[1]
    for command in (["redo", made, "--no-layout-only", "--dry-run"], ["animate", "boat.jpg", " ", *asked]):
        code, _, err = program(*command)
        assert code == 2
        assert "The prompt is empty" in err


def test_a_copy_by_ffmpeg_can_be_redone(remade, film, recipe, tmp_path):
    copy = tmp_path / "copy.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", film(), "-c", "copy", copy]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    assert remade(copy) == recipe
