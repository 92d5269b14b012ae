"""`consisti2v animate` through the real executable: photos in, clips out, and what is said when that cannot be."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import consisti2v_cli
from consisti2v_cli import render as rendering
from consisti2v_cli.media import writers
from consisti2v_cli.media.image import fit_image, read_image
from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.media.video import read_video
from consisti2v_cli.recipe import Recipe, from_json

SMALL = ["--size", "64x48", "--frames", "5", "--fps", "6", "--steps", "2"]


@pytest.fixture
def animate(run, tiny_model):
    """`consisti2v animate` with the made-up model, small and quick, as a process of its own."""

    def animate(*arguments, **settings):
        return run("animate", *arguments, "--model", tiny_model, *SMALL, **settings)

    return animate


@pytest.fixture
def small(call, tiny_model):
    """The same in this process."""
    return lambda *arguments: call("animate", *arguments, "--model", tiny_model, *SMALL)


def test_photo_in_mp4_out(animate, boat, tmp_path):
    made = animate(boat, "moves left", "--seed", "7")
    assert made.returncode == 0
    assert made.stdout == "boat.mp4\n"
    for stage in ("loading", "steps 2/2", "decoding 5/5"):
        assert stage in made.stderr
    assert "\x1b" not in made.stderr
    frames, fps = read_video(tmp_path / "boat.mp4")
    assert frames.shape == (5, 48, 64, 3)
    assert fps == 6
    text = read_recipe(tmp_path / "boat.mp4")
    recipe = from_json(text)
    assert str(tmp_path) not in text
    assert str(boat.parent) not in text
    expected = {"seed": 7, "prompt": "moves left", "steps": 2, "input_name": "boat.jpg", "model": "tiny", "frames": 5}
    assert {name: getattr(recipe, name) for name in expected} == expected
    assert list(tmp_path.glob(".boat*")) == []


def test_gif_and_quiet(small, boat, tmp_path):
    made = small(boat, "moves left", "-q", "-o", "clips/{name}-{seed}.gif", "--seed", "3")
    assert (made.returncode, made.stdout, made.stderr) == (0, "clips/boat-3.gif\n", "")
    with Image.open(tmp_path / "clips" / "boat-3.gif") as gif:
        assert gif.size == (64, 48)
        assert gif.n_frames == 5
        assert gif.info["duration"] == pytest.approx(1000 / 6, abs=10)
        assert from_json(gif.info["comment"].decode()).seed == 3


def test_same_seed_same_bytes(small, boat, tmp_path):
    two = small(boat, "moves left", "--seed", "7", "--variations", "2", "-o", "a.mp4", "--json", "-q")
    other = small(boat, "moves left", "--seed", "8", "-o", "b.mp4", "-q")
    assert other.returncode == 0
    seven, eight = map(json.loads, two.stdout.splitlines())
    assert (seven["recipe"]["seed"], eight["recipe"]["seed"]) == (7, 8)
    assert (seven["path"], eight["path"]) == ("a.mp4", "a-2.mp4")
    first, second, third = ((tmp_path / name).read_bytes() for name in ("a.mp4", "a-2.mp4", "b.mp4"))
    assert first != second
    assert second == third


def test_python_makes_the_same_file(small, boat, tiny_model, tmp_path):
    """The README's lines, and the command line, give the same bytes."""
    small(boat, "moves left", "--seed", "7", "-q")
    clip = consisti2v_cli.animate(
        boat, "moves left", seed=7, model=str(tiny_model), width=64, height=48, frames=5, fps=6.0, steps=2
    )
    assert isinstance(clip.recipe, Recipe)
    assert isinstance(clip, consisti2v_cli.Clip)
    clip.save(tmp_path / "python.mp4")
    shell, python = (read_video(tmp_path / name)[0] for name in ("boat.mp4", "python.mp4"))
    np.testing.assert_array_equal(shell, python)


def test_a_folder_with_one_broken_image(small, boat, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(boat, photos / "a.jpg")
    (photos / "b.png").write_bytes(boat.read_bytes()[:2000])
    Image.new("RGBA", (40, 30), (255, 0, 0, 128)).save(photos / "c.png")
    (photos / "c.txt").write_text("moves right\n")
    (photos / "notes.md").write_text("no image")
    made = small(photos, "moves left", "-o", "clips/", "-f", "gif", "--json", "--seed", "1")
    assert made.returncode == 1
    lines = [json.loads(line) for line in made.stdout.splitlines()]
    assert [line["path"] for line in lines] == ["clips/a.gif", "clips/c.gif"]
    assert [line["recipe"]["prompt"] for line in lines] == ["moves left", "moves right"]
    (error,) = [line for line in made.stderr.splitlines() if line.startswith("Error")]
    assert "b.png" in error
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["a.gif", "c.gif"]


def test_a_folder_in_which_images_have_prompts_of_their_own(small, boat, tmp_path):
    for name in "abc":
        (tmp_path / "photos").mkdir(exist_ok=True)
        shutil.copy(boat, tmp_path / "photos" / f"{name}.jpg")
        (tmp_path / "photos" / f"{name}.txt").write_text(f"moves {name}\n")
    planned = small("photos", "--dry-run", "--json", "-q")
    assert planned.returncode == 0, planned.stderr
    prompts = [json.loads(line)["recipe"]["prompt"] for line in planned.stdout.splitlines()]
    assert prompts == ["moves a", "moves b", "moves c"]
    (tmp_path / "photos" / "b.txt").unlink()
    planned = small("photos", "--dry-run", "-q")
    assert (planned.returncode, len(planned.stdout.splitlines())) == (1, 2)
    assert planned.stderr == "Error: photos/b.jpg has no prompt: say what happens in it.\n"


def test_from_standard_input_to_standard_output(animate, boat, tmp_path):
    (tmp_path / "prompt.txt").write_text("moves\nleft\n")
    made = animate("-", "@prompt.txt", "-o", "-", "-q", text=False, input=boat.read_bytes())
    assert made.returncode == 0, made.stderr
    assert made.stderr == b""
    path = tmp_path / "piped.mp4"
    path.write_bytes(made.stdout)
    assert read_video(path)[0].shape == (5, 48, 64, 3)
    recipe = from_json(read_recipe(path))
    assert (recipe.prompt, recipe.input_name) == ("moves left", "stdin")


def test_existing_files_are_kept_without_y(small, boat, tmp_path):
    (tmp_path / "boat.gif").write_bytes(b"mine")
    kept = small(boat, "moves left", "-q", "-f", "gif", "--dry-run", "--json")
    assert json.loads(kept.stdout)["outputs"] == ["boat-2.gif"]
    replaced = small(boat, "moves left", "-q", "-o", "boat.gif", "-y", "--no-metadata")
    assert replaced.stdout == "boat.gif\n"
    assert (tmp_path / "boat.gif").read_bytes().startswith(b"GIF89a")
    assert read_recipe(tmp_path / "boat.gif") is None


@pytest.fixture
def decode(small, monkeypatch):
    """Like `small`, with something of ours in front of the decoding of each clip."""
    decode = rendering.decode

    def run(before, *arguments):
        monkeypatch.setattr(rendering, "decode", lambda *given: (before(), decode(*given))[1])
        return small(*arguments, "-q")

    return run


def test_a_clip_whose_name_is_taken_meanwhile_is_not_lost(decode, boat, tmp_path):
    made = decode(lambda: (tmp_path / "boat.gif").touch(), boat, "moves left", "-f", "mp4", "-f", "gif")
    assert (made.returncode, made.stdout) == (0, "boat-2.mp4\nboat-2.gif\n")
    assert (tmp_path / "boat.gif").read_bytes() == b""
    assert sorted(path.name for path in tmp_path.glob("boat*")) == ["boat-2.gif", "boat-2.mp4", "boat.gif"]


def test_a_name_that_is_taken_while_the_film_is_written(small, boat, tmp_path, monkeypatch):
    write = writers.WRITERS["mp4"]

    def slow(*given):
        write(*given)
        (tmp_path / "boat.mp4").touch()

    monkeypatch.setitem(writers.WRITERS, "mp4", slow)
    made = small(boat, "moves left")
    assert (made.returncode, made.stdout) == (0, "boat-2.mp4\n")
    assert (tmp_path / "boat.mp4").read_bytes() == b""


def test_a_clip_that_takes_too_much_memory_does_not_end_the_run(decode, boat):
    failures = [RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory")]

    def allocate():
        if failures:
            raise failures.pop()

    made = decode(allocate, boat, boat, "moves left")
    assert (made.returncode, made.stdout) == (1, "boat-2.mp4\n")
    assert made.stderr.startswith(f"Error: {boat}: Not enough memory on cpu")
    assert len(made.stderr.splitlines()) <= 2


def test_a_dry_run_says_what_it_takes_and_makes_nothing(small, call, boat, tiny_model, tmp_path):
    planned = small(boat, boat, "moves left", "--dry-run", "--json")
    assert planned.returncode == 0
    lines = [json.loads(line) for line in planned.stdout.splitlines()]
    assert [line["outputs"] for line in lines] == [["boat.mp4"], ["boat-2.mp4"]]
    assert all(line["memory_bytes"] > 100_000 for line in lines)
    assert "Seed:" in planned.stderr
    planned = call("animate", boat, "moves left", "--model", tiny_model, "--dry-run", "--seed", "5")
    for part in ('boat.jpg -> boat.mp4: "moves left"', "80x48", "4 frames", "2 steps", "seed 5", " MB of memory"):
        assert part in planned.stdout
    planned = call("animate", boat, "very " * 20, "--model", tiny_model, "--dry-run", "-o", "-")
    assert f'boat.jpg -> standard output: "{("very " * 20)[:57]}...", 80x48' in planned.stdout
    assert list(tmp_path.glob("*.mp4")) == []


def test_a_dry_run_says_by_which_plan_it_keeps_to_a_budget(call, boat, tiny_model):
    large = [boat, "moves left", "--model", tiny_model, "--size", "512x512", "--frames", "16", "--dtype", "fp32"]
    asked = ["animate", *large, "--dry-run", "--seed", "7"]
    shown = [call(*asked, "--json", *more) for more in ([], ["--vram", "0.69"], ["--vram", "0.1"])]
    plans = [json.loads(planned.stdout) for planned in shown]
    assert [plan["plan"].count("one branch of guidance at a time") for plan in plans] == [0, 1, 1]
    assert plans[0]["plan"] == "all at once"
    assert plans[1]["memory_bytes"] < 0.69 * 2**30 < plans[0]["memory_bytes"]
    assert plans[0]["recipe"] == plans[1]["recipe"]
    assert "--vram" not in shown[1].stderr
    assert "--vram allows 107 MB" in shown[2].stderr
    assert call(*asked, "--vram", "0.72").stdout.endswith("MB of memory, plan: wide layers piece by piece\n")
    assert call(*asked, "--vram", "nan").returncode == 2
    wrong = call(*asked, "--vram", "0")
    assert wrong.returncode == 2
    assert "0.1 to 1024" in wrong.stderr


def test_one_plan_serves_all_clips_of_a_run_and_the_dry_run_says_so(call, boat, tiny_model, tmp_path):
    shutil.copy(boat, tmp_path / "photo.jpg")
    (tmp_path / "sizes.csv").write_text("input,size\nphoto.jpg,64x48\nphoto.jpg,512x512\n")
    asked = [
        "animate",
        "--manifest",
        "sizes.csv",
        "moves left",
        "--model",
        tiny_model,
        "--dtype",
        "fp32",
        "--seed",
        "7",
    ]
    shown = call(*asked, "--frames", "16", "--vram", "0.69", "--dry-run", "--json")
    assert shown.returncode == 0, shown.stderr
    plans = [json.loads(line)["plan"] for line in shown.stdout.splitlines()]
    assert len(plans) == 2
    assert plans[0] == plans[1]
    assert "one branch of guidance at a time" in plans[0]


def test_a_recipes_way_that_does_not_work_here_is_replaced(call, boat, tiny_model, tmp_path, monkeypatch):
    told = {"prompt": "moves left", "seed": 3, "attention": "xformers", "model": str(tiny_model)}
    (tmp_path / "made.json").write_text(json.dumps(told))
    asked = ["animate", boat, "moves left", "--recipe", "made.json", "--dry-run", "--json"]
    monkeypatch.setitem(sys.modules, "xformers", None)
    shown = call(*asked)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["recipe"]["attention"] == "sdpa"
    assert "Not as in the recipe: attention is 'xformers'" in shown.stderr
    assert call(*asked, "--attention", "xformers").returncode == 2


def test_a_clip_is_made_by_a_plan(small, boat, tmp_path):
    made = small(boat, "moves left", "--seed", "7", "--vram", "0.1", "-v")
    assert (made.returncode, made.stdout) == (0, "boat.mp4\n")
    assert "plan: wide layers piece by piece; one branch" in made.stderr


WRONG = [
    (["--size", "130x128"], "130"),
    (["--size", "130x128"], "128 and 136"),
    (["--size", "big"], "256x256"),
    (["--size", "8x8"], "16 to 4096"),
    (["--frames", "1"], "whole numbers 2 to 1024"),
    (["--frames", "many"], "--frames"),
    (["--fps", "0"], "--fps"),
    (["--motion", "6"], "1 to 5"),
    (["--steps", "0"], "--steps"),
    (["--steps", "1000"], "1 to 500"),
    (["--guidance", "-1"], "--guidance"),
    (["--guidance", "nan"], "guidance"),
    (["--image-guidance", "101"], "--image-guidance"),
    (["--guidance-rescale", "1.5"], "numbers 0 to 1"),
    (["--layout-strength", "1000"], "0 to 999"),
    (["--layout-cutoff", "-0.1"], "--layout-cutoff"),
    (["--noise-correlation", "-1"], "--noise-correlation"),
    (["--seed", "-1"], "seed is -1"),
    (["--seed", "many"], "--seed"),
    (["--seed", str(2**63 - 1), "--variations", "2"], "smaller --seed"),
    (["--variations", "0"], "--variations"),
    (["--sampler", "euler"], "'ddim', 'dpm++'"),
    (["--fit", "fill"], "'crop', 'pad', 'stretch'"),
    (["--device", "tpu"], "cpu, cuda, mps"),
    (["--dtype", "fp8"], "'fp16'"),
    (["--attention", "flash"], "'math'"),
    (["--background", "whitish"], "whitish"),
    (["--format", "avi"], "'mp4', 'gif'"),
    (["--output", "clip.avi"], "mp4, gif"),
    (["--output", "{nam}.mp4"], "{name}"),
    (["--output", "-", "--variations", "2"], "one clip"),
    (["--output", "-", "--json"], "standard output"),
    (["--output", "-", "--format", "png"], "folder"),
    (["--max-size", "8MB", "--format", "webm"], "gif, webp, mp4"),
    (["--max-size", "0"], "'0' is not possible; possible: 1kB to 1TB."),
    (["--shard", "0/2"], "--shard is '0/2'"),
    (["--shard", "3/2"], "1/N to N/N"),
    (["--shard", "half"], "--shard"),
    (["--recipe", "nowhere.mp4"], "nowhere.mp4"),
    (["--manifest", "nowhere.csv"], "nowhere.csv"),
    (["--format", "gif", "--fps", "60"], "50"),
    (["--model", "no such model"], "no such model"),
    (["--steps"], "--steps"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options(call, boat, tiny_model, options, message):
    assert_wrong(call("animate", boat, "moves left", "--model", tiny_model, *options), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "consisti2v animate boat.jpg"),
        (["boat.jpg"], "prompt"),
        (["boat.jpg", " "], "prompt is empty"),
        (["boat.jpg", "boat.jpg"], "last argument"),
        (["boat.jpg", "@nowhere.txt"], "nowhere.txt"),
        (["boat.jpg", "@"], "The prompt is @ without a file"),
        (["nowhere.jpg", "moves left"], "nowhere.jpg"),
        (["broken.jpg", "moves left"], "broken.jpg"),
        (["half.jpg", "moves left"], "half.jpg"),
        (["empty", "moves left"], "empty"),
        (["empty/../nowhere.jpg", "moves left"], "empty/../nowhere.jpg"),
        (["boat.jpg", "empty"], "empty is a folder; add what happens"),
        (["boat.jpg", "words.txt"], "write @words.txt"),
        (["boat.jpg", "sound.dat"], "sound.dat is a file that holds no text"),
        (["boat.jpg", "film.mp4"], "film.mp4 is a film; consisti2v extend goes on from a film"),
        (["film.mp4"], "consisti2v extend goes on from a film"),
        (["film.mp4", "moves left"], "film.mp4 is a film, and an image is expected; consisti2v extend"),
        (["film.dat", "moves left"], "film.dat is a film"),
        (["empty"], "The folder empty holds no images"),
        (["photos"], "No image in photos has a prompt"),
        (["boat.jpg", "list.csv"], "--manifest list.csv"),
        (["boat.jpg", "broken.jpg", "moves left", "-o", "-"], "one clip"),
        (["-", "-", "moves left"], "once"),
    ],
)
def test_wrong_inputs(call, boat, tiny_model, tmp_path, arguments, message):
    for name in ("words.txt", "list.csv"):
        (tmp_path / name).write_text("waves")
    (tmp_path / "boat.jpg").write_bytes(boat.read_bytes())
    (tmp_path / "half.jpg").write_bytes(boat.read_bytes()[: boat.stat().st_size // 2])
    (tmp_path / "broken.jpg").write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "boat.jpg").write_bytes(boat.read_bytes())
    (tmp_path / "sound.dat").write_bytes(b"\0\1\2")
    for name in ("film.mp4", "film.dat"):
        (tmp_path / name).write_bytes(b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41")
    assert_wrong(call("animate", *arguments, "--model", tiny_model), message)


def test_standard_input_that_holds_nothing(run, tiny_model):
    assert_wrong(run("animate", "-", "moves left", "--model", tiny_model), "standard input")


def test_a_wrong_request_is_said_once_for_many_inputs(call, boat, tiny_model):
    assert_wrong(call("animate", boat, boat, "x", "--model", tiny_model, "--background", "whitish"), "whitish")


def test_a_run_goes_on_after_a_missing_image(small, boat):
    planned = small("nowhere.jpg", boat, "moves left", "--dry-run", "-q", "--json")
    assert planned.returncode == 1
    assert "nowhere.jpg" in planned.stderr
    assert json.loads(planned.stdout)["input"] == "boat.jpg"


def test_a_run_goes_on_after_folders_that_hold_nothing(animate, boat, tmp_path):
    for name in ("empty", "locked"):
        (tmp_path / name).mkdir()
    (tmp_path / "locked").chmod(0)
    made = animate("empty", "locked", boat, "nowhere", "-", "moves left", "-q")
    (tmp_path / "locked").chmod(0o700)
    assert (made.returncode, made.stdout) == (1, "boat.mp4\n")
    errors = made.stderr.splitlines()
    assert len(errors) == 4
    for name, error in zip(("empty", "locked", "nowhere", "standard input"), errors, strict=True):
        assert error.startswith("Error: ")
        assert name in error


def test_json_is_read_by_any_reader(animate, boat):
    planned = animate(boat, "böat \N{SAILBOAT}", "--dry-run", "--json", env={"PYTHONIOENCODING": "cp1252"})
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["recipe"]["prompt"] == "böat \N{SAILBOAT}"


def assert_wrong(shown, message):
    assert shown.returncode == 2, shown
    assert message in shown.stderr
    assert shown.stderr.startswith("Error: ")
    assert len(shown.stderr.splitlines()) <= 2
    assert shown.stdout == ""


@pytest.mark.parametrize("model", ["consisti2v", "someone/something"])
def test_missing_weights(run, boat, model):
    shown = run("animate", boat, "moves left", "--model", model, "-q")
    assert shown.returncode == 3
    assert f"consisti2v fetch-weights {model}" in shown.stderr
    assert len(shown.stderr.splitlines()) <= 2


def test_damaged_weights(run, boat, model_copy):
    weights = model_copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    shown = run("animate", boat, "moves left", "--model", model_copy, "-q")
    assert shown.returncode == 3
    assert "unet" in shown.stderr
    assert len(shown.stderr.splitlines()) <= 2
    curious = run("animate", boat, "moves left", "--model", model_copy, "-q", "-vv")
    assert curious.returncode == 3
    assert "Traceback" in curious.stderr


def start(environment, tmp_path, *arguments, **settings):
    command = [sys.executable, "-m", "consisti2v_cli", "animate", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, **settings)


def test_an_interrupt_ends_after_the_running_step_and_keeps_finished_clips(environment, boat, tiny_model, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(boat, tmp_path / "photos" / name)
    options = ["--model", tiny_model, "--steps", "60", "--size", "64x64"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = start(environment, tmp_path, "photos", "moves left", *options, **pipes)
    while "b.jpg: steps" not in (line := process.stderr.readline()):
        assert line, "ended too early"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == "a.mp4\n"
    assert err.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.glob("*mp4*")] == ["a.mp4"]


def test_a_terminal_gets_a_bar_and_standard_output_the_path_alone(environment, boat, tiny_model, tmp_path):
    terminal, end = os.openpty()
    shown = {"stdout": subprocess.PIPE, "stderr": end, "text": True}
    process = start({**environment, "TERM": "xterm"}, tmp_path, boat, "moves left", "--model", tiny_model, **shown)
    os.close(end)
    drawn = b""
    while process.poll() is None or drawn.endswith(b"\n"):
        try:
            drawn += os.read(terminal, 4096)
        except OSError:  # Linux: the other end is closed
            break
    os.close(terminal)
    assert process.stdout.read() == "boat.mp4\n"
    assert process.wait(60) == 0
    assert b"\x1b[" in drawn
    assert b"boat.jpg: steps" in drawn


def test_the_bundled_model_animates_a_photo(run, boat, tmp_path):
    """The README's example. Its clip begins with the photo."""
    made = run("animate", boat, "the boat drifts left", "--seed", "7")
    assert made.returncode == 0, made.stderr
    assert made.stdout == "boat.mp4\n"
    assert "sketch" in made.stderr
    assert "consisti2v fetch-weights" in made.stderr
    frames, fps = read_video(tmp_path / "boat.mp4")
    assert (len(frames), fps) == (16, 8)
    _, height, width, _ = frames.shape
    photo = fit_image(read_image(boat), width, height)
    error = np.square(frames[0].astype(float) - photo).mean()
    assert 10 * np.log10(255**2 / error) > 18
    assert not np.array_equal(frames[0], frames[-1])
