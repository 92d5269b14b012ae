"""`consisti2v extend`: long clips from anything, that go on where they were stopped."""

import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from consisti2v_cli import sources, state
from consisti2v_cli.chunks import Joined
from consisti2v_cli.commands.extend import told_apart
from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.media.probe import probe_stream
from consisti2v_cli.media.video import read_frames, read_last_frame, read_timing, read_video, write_video
from consisti2v_cli.recipe import from_json

SMALL = ["--frames", "3", "--steps", "2"]


@pytest.fixture
def make(call, tiny_model, tmp_path, boat):
    """Run a command in this process with the made-up model, beside a photo boat.jpg."""
    (tmp_path / "boat.jpg").write_bytes(boat.read_bytes())

    def make(command, *arguments, size=True):
        small = [*SMALL, *(["--size", "48x32"] if size else [])]
        return call(command, *arguments, *small, "--model", tiny_model)

    return make


@pytest.fixture
def extend(make):
    """`consisti2v extend`."""
    return lambda *arguments, **settings: make("extend", *arguments, **settings)


def recipe(path):
    return from_json(read_recipe(path))


def frames(path):
    return np.stack(list(read_frames(path)))


def work_folders():
    place = state.state_folder() / "chunks"
    return list(place.iterdir()) if place.exists() else []


def test_an_image_becomes_a_long_clip(extend, make):
    made = extend("boat.jpg", "moves left", "--chunks", "3", "--seed", "7", "--prompt-at", "2", "stays", "-f", "png")
    assert (made.returncode, made.stdout) == (0, "boat\n")
    assert made.stderr.splitlines()[-1].startswith("Drift over 7 frames: colour ")
    for said in ("chunk 1/3, steps 2/2", "chunk 3/3, decoding 2/2"):
        assert said in made.stderr
    assert make("animate", "boat.jpg", "moves left", "--seed", "7", "-f", "png", "-q", "-o", "one").returncode == 0
    assert frames("boat").shape == (7, 32, 48, 3)
    assert (frames("boat")[:3] == frames("one")).all()
    kept = recipe("boat")
    assert (kept.command, kept.chunks, kept.prompt_at, kept.start) == ("extend", 3, {"2": "stays"}, "image")
    assert (kept.input_name, kept.seed, kept.anchor, kept.join) == ("boat.jpg", 7, 0.0, False)
    assert work_folders() == []


def test_the_anchor_changes_the_clip(extend):
    for anchor in ("0", "0.5"):
        asked = ["--seed", "7", "--anchor", anchor, "--chunks", "2", "-f", "png", "-o", f"a{anchor}"]
        assert extend("boat.jpg", "x", "-q", *asked).returncode == 0
    plain, anchored = frames("a0"), frames("a0.5")
    assert (plain[0] == anchored[0]).all()
    assert not (plain[-1] == anchored[-1]).all()
    assert recipe("a0.5").anchor == 0.5


@pytest.mark.parametrize("command", ["animate", "extend"])
def test_a_clip_goes_on_from_its_exact_latent_where_that_was_kept(make, extend, command):
    first = make(command, "boat.jpg", "moves left", "--seed", "7", "--fps", "6", "-q", "-f", "png")
    assert first.returncode == 0, first.stderr
    asked = ["--chunks", "2", "-f", "png", "--seed", "1"]
    exact = extend("boat", *asked, "-o", "exact", size=False)
    assert "going on from the exact latent of its last frame" in exact.stderr
    kept = recipe("exact")
    assert (kept.start, kept.prompt, kept.fps, kept.width, kept.height) == ("latent", "moves left", 6, 48, 32)
    assert (frames("exact")[0] == frames("boat")[-1]).all()
    for latent in (state.cache_folder() / "latents").iterdir():
        latent.unlink()
    again = extend("boat", *asked, "-o", "again", size=False)
    assert "encoded again" in again.stderr
    assert recipe("again").start == "frame"
    assert not (frames("again")[0] == frames("boat")[-1]).all()


def test_the_prompt_that_held_at_the_end_goes_on(extend):
    extend("boat.jpg", "moves left", "--chunks", "2", "--prompt-at", "2", "stays", "-q")
    assert extend("boat.mp4", "-q", "--chunks", "1", "-o", "longer.mp4").returncode == 0
    assert recipe("longer.mp4").prompt == "stays"
    assert extend("boat.mp4", "@prompt.txt", "-q").returncode == 2
    Path("prompt.txt").write_text("turns\n")
    assert extend("boat.mp4", "@prompt.txt", "-q", "--chunks", "1", "-o", "other.mp4").returncode == 0
    assert recipe("other.mp4").prompt == "turns"


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_any_film_can_be_gone_on_with(extend, format):
    ramp = [np.full((64, 96, 3), 40 * number, np.uint8) for number in range(6)]
    film = write_video(f"film.{format}", ramp, 10)
    asked = ["it goes on", "--chunks", "2", "--seed", "7", "-f", "png"]
    made = extend(film, *asked, "-o", "longer")
    assert made.returncode == 0, made.stderr
    assert f"The clip begins with the last frame of {film}; --join" in made.stderr
    assert "encoded again" in made.stderr
    shown, fps = read_video("longer")
    assert (len(shown), fps) == (5, 8)
    assert recipe("longer").start == "frame"
    Image.fromarray(read_last_frame(film)).save("last.png")
    assert extend("last.png", *asked, "-o", "image").returncode == 0
    assert (frames("image") == shown).all()
    assert extend(film, "-q").returncode == 2  # it says nothing about a prompt


def test_join_puts_the_source_in_front(extend):
    ramp = [np.full((64, 96, 3), 40 * number, np.uint8) for number in range(6)]
    film = write_video("film.mp4", ramp, 16)
    made = extend(film, "it goes on", "--chunks", "2", "--join", "-f", "png", "-o", "joined", "--seed", "7")
    assert made.returncode == 0, made.stderr
    assert "3 frames of film.mp4 stand in front of 5 new ones" in made.stderr
    assert made.stderr.splitlines()[-1].startswith("Drift over 5 frames")
    joined = frames("joined")
    assert [round(float(frame.mean()) / 40) for frame in joined[:3]] == [0, 2, 4]  # half as many a second
    assert extend(film, "it goes on", "--chunks", "2", "-f", "png", "-o", "alone", "--seed", "7").returncode == 0
    assert (joined[3:] == frames("alone")).all()
    assert recipe("joined").join
    wrong = extend("boat.jpg", "x", "--join")
    assert (wrong.returncode, "boat.jpg is an image" in wrong.stderr) == (2, True)


def phone_video(path):
    """3.9 s with sound: 8 frames at 8 a second, then 8 at 2."""
    times = "setpts='if(lt(N,8),N/8,1+(N-8)/2)/TB'"
    pictures = ["-f", "lavfi", "-i", "color=black:s=96x64:r=8:d=2", "-f", "lavfi", "-i", "sine=d=5"]
    brighter = f"format=rgb24,geq=r='15*N':g='15*N':b='15*N',{times}"
    timing = ["-fps_mode", "vfr", "-enc_time_base", "1/1000", "-pix_fmt", "yuv420p"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *pictures, "-vf", brighter, *timing, path]
    subprocess.run(command, check=True)
    return path


def test_join_keeps_the_sources_own_time_and_sound(extend, tmp_path):
    phone_video("phone.mp4")
    made = extend("phone.mp4", "x", "--chunks", "1", "--join", "-f", "mp4", "-f", "gif", "-o", "joined", "--seed", "7")
    assert made.returncode == 0, made.stderr
    assert "36 frames of phone.mp4 stand in front" in made.stderr  # 4.5 s at 8 a second
    assert "joined.gif is without sound, which gif cannot hold" in made.stderr
    shown = [round(float(frame.mean()) / 15) for frame in read_frames("joined.mp4")][:36]
    assert shown == [*range(8), *(8 + number // 4 for number in range(28))]
    listen = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", "joined.mp4", "-vn", "-ac", "1", "-ar", "8000"]
    sound = subprocess.run([*listen, "-f", "f32le", "-"], check=True, capture_output=True).stdout
    assert abs(len(sound) / 4 / 8000 - 4.5) < 0.1
    silent = extend("phone.mp4", "x", "--chunks", "1", "--join", "--no-audio", "-o", "silent.mp4", "--seed", "7")
    assert silent.returncode == 0
    assert probe_stream(Path("silent.mp4")).sound is None
    assert (recipe("joined.mp4").audio, recipe("silent.mp4").audio) == (True, False)


def test_a_transparent_last_frame_lies_over_the_background(extend):
    clear = Image.new("RGBA", (96, 64), (0, 0, 255, 0))
    black = Image.new("RGBA", (96, 64), (0, 0, 0, 255))
    black.save("a.webp", save_all=True, append_images=[clear], duration=100, lossless=True)
    made = extend("a.webp", "x", "--chunks", "1", "--background", "lime", "-f", "png", "-o", "made", "--fit", "stretch")
    assert made.returncode == 0, made.stderr
    green = frames("made")[0].mean((0, 1))
    assert green[1] > green[0]
    assert green[1] > green[2]


def test_the_plan_of_an_anamorphic_video(call):
    """80x96 pixels, each twice as wide as high: a landscape."""
    pictures = ["-f", "lavfi", "-i", "testsrc=s=80x96:r=8:d=1", "-vf", "setsar=2/1", "-pix_fmt", "yuv420p", "wide.mp4"]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *pictures], check=True)
    planned = json.loads(call("extend", "wide.mp4", "x", "--model", "sketch", "--dry-run", "--json").stdout)
    assert planned["recipe"]["width"] > planned["recipe"]["height"]


def test_joined_in_several_formats_the_source_is_read_no_more_than_needed(extend, monkeypatch):
    film = write_video("film.mp4", [np.full((64, 96, 3), 40 * number, np.uint8) for number in range(6)], 8)
    read, timed, passes, join = [], [], [], Joined.__iter__
    monkeypatch.setattr(sources, "read_frames", lambda source, **how: read.append(source) or read_frames(source, **how))
    monkeypatch.setattr(sources, "read_timing", lambda source: timed.append(source) or read_timing(source))
    monkeypatch.setattr(Joined, "__iter__", lambda joined: passes.append(joined) or join(joined))
    made = extend(
        film, "x", "--chunks", "2", "--join", "-f", "mp4", "-f", "gif", "-o", "joined", "--seed", "7", "--json"
    )
    assert [json.loads(line)["film_frames"] for line in made.stdout.splitlines()] == [5 + 5] * 2
    assert len(passes) >= 2
    assert (len(timed), len(read)) == (1, len(passes))


def test_nothing_goes_on_with_the_last_clip(extend, make, tmp_path):
    wrong = extend("--chunks", "2")
    assert (wrong.returncode, "There is no last clip" in wrong.stderr) == (2, True)
    make("animate", "boat.jpg", "moves left", "-q", "-o", "clip.mp4")
    made = extend("--chunks", "2")
    assert (made.returncode, made.stdout) == (0, "clip-2.mp4\n")
    assert f"Going on with {tmp_path / 'clip.mp4'}" in made.stderr
    other = extend("the boat stops", "--chunks", "1", "-o", "stops.mp4", "-q")
    assert (other.returncode, recipe("stops.mp4").prompt) == (0, "the boat stops")
    assert recipe("stops.mp4").input_name == "clip-2.mp4"
    Path("stops.mp4").unlink()
    gone = extend()
    assert (gone.returncode, "stops.mp4, is gone" in gone.stderr) == (2, True)


def test_what_is_not_taken_over_from_a_clip_is_said(make, extend, call, tiny_model):
    other = ["--guidance", "4", "--motion", "5", "--negative", "blur"]
    assert make("animate", "boat.jpg", "moves left", *other, "-q").returncode == 0
    plan = ["--dry-run", "--chunks", "1"]
    (said,) = [line for line in extend("boat.mp4", *plan).stderr.splitlines() if "was made with" in line]
    assert said.startswith("boat.mp4 was made with negative blur (now empty), motion 5 (now ")
    assert ", guidance 4.0 (now " in said
    assert said.endswith("; --recipe boat.mp4 takes that over.")
    assert "steps" not in said  # asked for
    for arguments in (["--recipe", "boat.mp4"], other):
        assert "was made with" not in extend("boat.mp4", *plan, *arguments).stderr


def test_source_and_prompt_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("the boat").touch()
    for given, source in {
        ("a.jpg", "x"): ("a.jpg", "x"),
        ("nowhere.mp4", None): ("nowhere.mp4", None),
        ("clips/nowhere", None): ("clips/nowhere", None),
        ("the boat", None): ("the boat", None),
        ("the boat goes", None): (None, "the boat goes"),
        ("left/right, up and down", None): (None, "left/right, up and down"),
        ("@prompts/one.txt", None): (None, "@prompts/one.txt"),
        ("-", None): ("-", None),
        (None, None): (None, None),
    }.items():
        assert told_apart(*given) == source


WRONG = [
    (["nowhere.jpg", "x"], "nowhere.jpg"),
    (["boat.jpg", "boat.jpg"], "extend takes one source, and then the prompt; boat.jpg is another image."),
    (["nowhere.mp4"], "There is no file nowhere.mp4"),
    (["boat.jpg"], 'consisti2v extend boat.jpg "the boat'),
    (["boat.jpg", " "], "prompt"),
    (["text.mp4", "x"], "text.mp4 is neither"),
    (["empty", "x"], "empty"),
    (["boat.jpg", "x", "--chunks", "0"], "--chunks"),
    (["boat.jpg", "x", "--anchor", "2"], "--anchor"),
    (["boat.jpg", "x", "--prompt-at", "9", "y"], "1 to 4"),
    (["boat.jpg", "x", "--prompt-at", "two", "y"], "--prompt-at"),
    (["boat.jpg", "x", "--prompt-at", "2", " "], "chunk 2 is empty"),
    (["boat.jpg", "x", "--manifest", "list.csv"], "--manifest"),
    (["boat.jpg", "x", "-o", "-", "--variations", "2"], "one clip"),
    (["boat.jpg", "x", "-o", "-", "--json"], "standard output"),
    (["boat.jpg", "x", "-f", "webm", "--max-size", "1MB"], "webm"),
    (["boat.jpg", "x", "--seed", "+1"], "--recipe"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_requests(extend, tmp_path, arguments, message):
    (tmp_path / "text.mp4").write_text("no film")
    (tmp_path / "empty").mkdir()
    shown = extend(*arguments)
    assert shown.returncode == 2, shown
    assert message in shown.stderr
    assert (shown.stdout, shown.stderr.count("Error: ")) == ("", 1)
    assert work_folders() == []


def test_a_dry_run_says_what_would_be_made_and_what_is_there(extend, tmp_path):
    planned = extend("boat.jpg", "x", "--chunks", "3", "--dry-run", "--json", "--seed", "7", "--variations", "2")
    lines = [json.loads(line) for line in planned.stdout.splitlines()]
    assert [(line["outputs"], line["film_frames"], line["chunks_done"]) for line in lines] == [
        (["boat.mp4"], 7, 0),
        (["boat-2.mp4"], 7, 0),
    ]
    assert [line["recipe"]["seed"] for line in lines] == [7, 8]
    assert all(line["memory_bytes"] > 100_000 for line in lines)
    planned = extend("boat.jpg", "x", "--chunks", "3", "--dry-run")
    for part in ("boat.jpg -> boat.mp4", "7 frames", "3 chunks of 3 frames", "0 of them", "plan: all at once"):
        assert part in planned.stdout
    planned = extend("boat.jpg", "x", "--dry-run", "--vram", "0.1")
    assert "one branch of guidance at a time" in planned.stdout
    assert "--vram allows 107 MB" in planned.stderr
    assert (list(tmp_path.glob("*.mp4")), work_folders()) == ([], [])


def test_several_formats_are_written_from_one_making_and_only_those_that_lack(extend):
    asked = ["boat.jpg", "x", "--chunks", "2", "--seed", "7"]
    made = extend(*asked, "-f", "mp4", "-f", "gif", "--json")
    lines = [json.loads(line) for line in made.stdout.splitlines()]
    assert [(line["path"], line["film_frames"]) for line in lines] == [("boat.mp4", 5), ("boat.gif", 5)]
    assert 0 < lines[0]["seconds"] <= lines[1]["seconds"] < 300
    assert lines[0]["drift"]["frames"] == 5
    assert made.stderr.count("steps 0/2") == 2
    more = extend(*asked, "-f", "mp4", "-f", "gif", "-f", "webp")
    assert (more.returncode, more.stdout) == (0, "boat.webp\n")
    assert "Made already: boat.mp4, boat.gif" in more.stderr
    same = extend(*asked)
    assert (same.returncode, same.stdout, same.stderr.count("steps")) == (0, "", 0)
    again = extend(*asked, "-y")
    assert (again.returncode, again.stdout) == (0, "boat.mp4\n")


def test_variations_have_seeds_that_follow(extend):
    made = extend("boat.jpg", "x", "--chunks", "2", "--seed", "7", "--variations", "2", "-q", "-o", "{name}-{seed}")
    assert (made.returncode, made.stdout) == (0, "boat-7.mp4\nboat-8.mp4\n")
    assert work_folders() == []


def test_a_bound_is_kept(extend):
    made = extend("boat.jpg", "x", "--chunks", "3", "--max-size", "6kB", "-f", "mp4")
    assert made.returncode == 0, made.stderr
    assert Path("boat.mp4").stat().st_size <= 6000
    assert len(list(read_frames("boat.mp4"))) == 7
    assert made.stderr.count("steps 0/2") == 3


def test_redo_makes_a_film_again_and_takes_changes(extend, call, tiny_model):
    extend("boat.jpg", "x", "--chunks", "2", "--seed", "7", "-q", "-f", "png")
    made = call("redo", "boat", "-q", "--model", tiny_model)
    assert (made.returncode, made.stdout) == (0, "boat-2\n"), made.stderr
    assert (frames("boat") == frames("boat-2")).all()
    longer = call("redo", "boat", "-q", "--model", tiny_model, "--chunks", "3", "--prompt", "y", "-o", "longer")
    assert (longer.returncode, longer.stdout) == (0, "longer\n"), longer.stderr
    kept = recipe("longer")
    assert (kept.seed, kept.chunks, kept.prompt, kept.frames) == (7, 3, "y", 3)


def command(tiny_model, *arguments, steps=2):
    options = ["--frames", "3", "--steps", steps, "--size", "48x32", "--model", tiny_model]
    return [sys.executable, "-m", "consisti2v_cli", "extend", *map(str, arguments), *map(str, options)]


def test_from_standard_input_to_standard_output(run, boat, tiny_model, tmp_path):
    options = [*SMALL, "--size", "48x32", "--model", tiny_model, "--chunks", "2", "-q"]
    made = run("extend", "-", "x", "-o", "-", *options, input=boat.read_bytes(), text=False)
    assert (made.returncode, made.stderr) == (0, b"")
    (tmp_path / "piped.mp4").write_bytes(made.stdout)
    assert len(list(read_frames(tmp_path / "piped.mp4"))) == 5
    assert recipe(tmp_path / "piped.mp4").input_name == "stdin"
    assert not list((tmp_path / "state" / "chunks").iterdir())


def test_a_terminal_gets_a_bar_over_the_chunks_and_one_for_what_goes_on(environment, boat, tiny_model, tmp_path):
    terminal, end = os.openpty()
    asked = command(tiny_model, boat, "x", "--chunks", "2")
    settings = {"env": {**environment, "TERM": "xterm"}, "cwd": tmp_path, "text": True, "stdin": subprocess.DEVNULL}
    process = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=end, **settings)
    os.close(end)
    drawn = b""
    with suppress(OSError):  # Linux: the other end is closed
        while more := os.read(terminal, 4096):
            drawn += more
    os.close(terminal)
    assert (process.communicate()[0], process.returncode) == ("boat.mp4\n", 0)
    for bar in (b"boat.jpg: chunks", b"2/2", b"boat.jpg: chunk 2/2, steps"):
        assert bar in drawn


@pytest.mark.slow
def test_an_interrupt_keeps_the_chunks_and_the_same_command_goes_on(environment, boat, tiny_model, tmp_path):
    asked = command(tiny_model, boat, "x", "--chunks", "3", "-o", "film.mp4", steps=40)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment, "cwd": tmp_path}
    process = subprocess.Popen(asked, stdin=subprocess.DEVNULL, **pipes)
    while "chunk 2/3, steps 0/40" not in (line := process.stderr.readline()):
        assert line, "ended too early"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert [line for line in err.splitlines() if line][-2:] == [
        "1 of 3 chunks are kept; the same command goes on from there.",
        "Interrupted.",
    ]
    assert [path.name for path in tmp_path.glob("*film*")] == []
    done = subprocess.run(asked, stdin=subprocess.DEVNULL, **pipes, check=False)
    assert (done.returncode, done.stdout) == (0, "film.mp4\n")
    assert "1 of its 3 chunks are there" in done.stderr
    assert "chunk 1/3" not in done.stderr
    seed = recipe(tmp_path / "film.mp4").seed
    whole = subprocess.run(
        [*asked, "--seed", str(seed), "-o", "whole.mp4"], stdin=subprocess.DEVNULL, **pipes, check=False
    )
    assert whole.returncode == 0
    assert (tmp_path / "whole.mp4").read_bytes() == (tmp_path / "film.mp4").read_bytes()


def test_a_full_disk_is_said_and_the_film_goes_on_when_there_is_room(environment, boat, tiny_model, tmp_path):
    asked = command(tiny_model, boat, "x", "--chunks", "3", "--seed", "7")
    settings = {"env": environment, "cwd": tmp_path, "capture_output": True, "text": True, "check": False}

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))

    full = subprocess.run(asked, preexec_fn=small_files, **settings)
    assert (full.returncode, full.stdout) == (1, "")
    assert "File too large" in full.stderr
    assert len(full.stderr.split("Error: ")[1].splitlines()) <= 2
    assert list(tmp_path.glob("*boat*")) == []
    done = subprocess.run(asked, **settings)
    assert (done.returncode, done.stdout) == (0, "boat.mp4\n")
    assert len(list(read_frames(tmp_path / "boat.mp4"))) == 7


def test_a_state_folder_that_cannot_be_written_is_said(environment, boat, tiny_model, tmp_path):
    (tmp_path / "file").touch()
    settings = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    environment = {**environment, "CONSISTI2V_STATE": str(tmp_path / "file")}
    shown = subprocess.run(command(tiny_model, boat, "x"), env=environment, **settings)
    assert (shown.returncode, shown.stdout) == (0, "boat.mp4\n")
    assert "CONSISTI2V_STATE names another folder" in shown.stderr
