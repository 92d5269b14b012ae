"""`consisti2v evaluate` over real folders."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from known_clips import KINDS, flicker, pan, write_all
from PIL import Image

from consisti2v_cli.evaluation.run import MEASURES
from consisti2v_cli.media.video import write_video


@pytest.fixture
def clips(tmp_path):
    write_all(tmp_path / "clips")
    return tmp_path / "clips"


def test_a_folder_is_judged_and_remembered(call, clips, tmp_path):
    shown = call("evaluate", "clips", "--json", "scores.json")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0] == "clips"
    assert [line.split()[0] for line in lines[5:-4]] == sorted(KINDS)
    assert lines[-4].startswith("mean of 6")
    assert lines[-3].split()[-10:] == ["6", "6", "6", "6", "6", "0", "0", "6", "6", "5"]
    assert lines[-2] == "128x128; 14 to 16 frames at 25 a second"
    assert lines[-1] == "scores.json"
    assert "100.00" in next(line for line in lines if line.startswith("still"))
    assert "no recipe" in shown.stderr
    told = json.loads((tmp_path / "scores.json").read_text())
    assert len(told["folders"]["clips"]["clips"]) == len(KINDS)
    again = call("evaluate", "clips", "--json", "scores.json")
    assert again.stdout == shown.stdout.replace("scores.json", "scores-2.json")
    assert json.loads((tmp_path / "scores-2.json").read_text()) == told
    assert call("evaluate", "clips", "--json", "scores.json", "-y").stdout == shown.stdout
    piped = call("evaluate", "clips", "--json", "-")
    assert json.loads(piped.stdout) == told


def test_the_papers_row_stands_beside_clips_of_its_shape_alone(call, tmp_path):
    large = pan()[:16].repeat(2, axis=1).repeat(2, axis=2)
    for name, fps in (("alike", 8), ("faster", 12)):
        (tmp_path / name).mkdir()
        write_video(tmp_path / name / "a.mp4", large, fps)
    shown = call("evaluate", "alike", "--metrics", "flickering,motion_dis").stdout.splitlines()
    assert shown[-2].split() == ["paper's", "ConsistI2V", "96.65", "-"]
    assert shown[-1] == "256x256; 16 frames at 8 a second"
    assert "paper" not in call("evaluate", "faster", "--metrics", "flickering,motion_dis").stdout
    assert "paper" not in call("evaluate", "alike", "--metrics", "sharpness").stdout


def test_the_help_names_every_measure(call):
    told = " ".join(call("evaluate", "--help").stdout.split()).replace("- ", "-")
    assert all(f" {key}" in told for key in MEASURES)


def test_two_folders_are_compared(call, tmp_path):
    for name, levels in (("before", 20), ("after", 10)):
        (tmp_path / name).mkdir()
        write_video(tmp_path / name / "a.mp4", flicker(levels), 8, quality=100)
        write_video(tmp_path / name / "b.mp4", pan(), 8)
    write_video(tmp_path / "after" / "c.mp4", pan(), 8)
    shown = call("evaluate", "before", "after", "--metrics", "flickering,colour_drift")
    assert shown.returncode == 0, shown.stderr
    assert "2 pairs: before, after" in shown.stdout
    row = next(line for line in shown.stdout.splitlines() if line.startswith("flickering"))
    assert row.split()[-3:] == ["1", "1", "0"]
    assert "Without a partner: after/c.mp4" in shown.stderr


def test_scripts_can_ask_for_a_least_value(call, tmp_path):
    write_video(tmp_path / "clip.mp4", flicker(20), 8, quality=100)
    asked = ("evaluate", "clip.mp4", "--metrics", "flickering,dynamic_dis", "--fail-under")
    assert call(*asked, "flickering=90").returncode == 0
    short = call(*asked, "flickering=99")
    assert short.returncode == 1
    assert "flickering is 92" in short.stderr
    assert call(*asked, "flickering").returncode == 2
    assert call(*asked, "flickering=nan").returncode == 2
    other = call(*asked, "seam=3")
    assert other.returncode == 2
    assert "possible: flickering, dynamic_dis" in other.stderr


def test_one_bad_clip_is_reported_and_the_others_are_judged(call, clips):
    (clips / "bad.mp4").write_bytes(b"nothing")
    (clips / "mixed").mkdir()
    (clips / "round").symlink_to(clips)
    if hasattr(os, "mkfifo"):
        os.mkfifo(clips / "pipe.mp4")  # would never end
    for number, side in enumerate((32, 40), start=1):
        Image.new("RGB", (32, side)).save(clips / "mixed" / f"{number:04d}.png")
    shown = call("evaluate", "clips", "--metrics", "flickering")
    assert shown.returncode == 1
    assert "bad.mp4" in shown.stderr
    assert "mixed: its frames differ in size" in shown.stderr
    assert shown.stdout.splitlines()[-2].startswith("mean of 6")


def test_frames_too_small_for_flow_are_said_and_end_nothing(call, tmp_path):
    (tmp_path / "thin").mkdir()
    for number in range(1, 6):
        Image.new("RGB", (12, 64), (number, 0, 0)).save(tmp_path / "thin" / f"{number:04d}.png")
    shown = call("evaluate", "thin")
    assert shown.returncode == 0
    assert "optical flow needs frames of 16x16 pixels or more" in shown.stderr
    assert "thin" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "There is no folder or clip nowhere."),
        (("clips/pan/0001.png",), "is a picture"),
        (("clips", "--json", "scores.mp4"), "has the name of a film"),
        (("clips", "--fail-under", "motion_dis=5"), "neither more nor less is better"),
        (("clips", "--metrics", "beauty"), "There is no measure 'beauty'"),
        (("clips", "--json", "clips"), "clips is a folder"),
        (("clips", "nowhere"), "There is no folder or clip nowhere."),
        (("clips", "clips"), "clips is given twice"),
    ],
)
def test_wrong_requests_are_said_in_a_line(call, clips, arguments, said):
    shown = call("evaluate", *arguments)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert said in shown.stderr
    assert len(shown.stderr.splitlines()) <= 2


def test_an_empty_folder(call, tmp_path):
    (tmp_path / "empty").mkdir()
    shown = call("evaluate", "empty")
    assert shown.returncode == 2
    assert "There are no clips in empty" in shown.stderr


def test_a_run_that_was_killed_goes_on(run, environment, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(24):
        write_video(folder / f"{number:02d}.mp4", pan(1 + number % 5), 8)
    cache = tmp_path / "cache" / "scores"
    program = [sys.executable, "-m", "consisti2v_cli", "evaluate", "many", "--metrics", "smoothness_dis,flickering"]
    process = subprocess.Popen(
        program, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(list(cache.glob("*.json"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: os.stat(path).st_mtime_ns for path in cache.glob("*.json")}
    assert 4 <= len(kept) < 24
    shown = run(*program[3:])
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[-2].startswith("mean of 24")
    assert {path: os.stat(path).st_mtime_ns for path in kept} == kept
