"""Disks that are full, folders that vanish, readers that go away: said in a line, and nothing half-written is left."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from consisti2v_cli.errors import ConsistI2VError
from consisti2v_cli.media import writers
from consisti2v_cli.media.video import read_video

SMALL = ["--size", "64x48", "--frames", "3", "--steps", "1", "--seed", "1"]
LAYOUT = ["--layout-only", "--size", "64x48", "--frames", "5"]  # without a model: quick
FULL = Path("/dev/full")  # Linux: every writing to it fails


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate("abc"):
        Image.effect_noise((60, 40), 20 + 10 * number).convert("RGB").save(folder / f"{name}.png")
    return folder


@pytest.fixture
def make(call, tiny_model, photos):
    """Animate the photos into out/, in this process."""
    return lambda *arguments, source=photos: call(
        "animate", source, "waves", "-o", "out/", "--model", tiny_model, *SMALL, *arguments
    )


def test_a_full_disk(run, photos, tmp_path):
    """No file may grow beyond 2000 bytes."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    formats = ("mp4", "gif", "webp", "mov", "png")
    rows = [f"{photos / 'a.png'},{format}" for format in formats]
    (tmp_path / "list.csv").write_text("\n".join(["input,format", *rows]))
    failed = run("pan", "--manifest", "list.csv", "-o", "out/", *LAYOUT, "-q", preexec_fn=limited)
    assert (failed.returncode, failed.stdout) == (1, "")
    lines = failed.stderr.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [["Error", f"list.csv, line {n}"] for n in range(2, 7)]
    assert list((tmp_path / "out").iterdir()) == []


def test_a_run_ends_where_the_disk_is_full(make, tmp_path, monkeypatch):
    """Nothing more is rendered that could not be kept."""
    write, begun = writers.WRITERS["mp4"], []

    def full(path, *given):
        begun.append(path)
        if len(begun) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, *given)

    monkeypatch.setitem(writers.WRITERS, "mp4", full)
    made = make()
    assert (made.returncode, made.stdout, len(begun)) == (1, "out/a.mp4\n", 2)
    assert "out/b.mp4 cannot be written: No space left on device" in made.stderr
    assert "The disk is full: 1 more are not made." in made.stderr
    assert os.listdir(tmp_path / "out") == ["a.mp4"]
    assert make().stdout == "out/b.mp4\nout/c.mp4\n"


def test_a_folder_that_vanishes_is_made_again(make, tmp_path, monkeypatch):
    write = writers.WRITERS["mp4"]

    def vanishing(*given):
        write(*given)
        monkeypatch.setitem(writers.WRITERS, "mp4", write)
        shutil.rmtree(tmp_path / "out")

    monkeypatch.setitem(writers.WRITERS, "mp4", vanishing)
    made = make()
    assert (made.returncode, made.stdout) == (1, "out/b.mp4\nout/c.mp4\n")
    assert made.stderr.count("Error: ") == 1
    assert "a.png" in made.stderr
    assert make().stdout == "out/a.mp4\n"


def test_a_file_in_the_place_of_the_folder(make, tmp_path):
    (tmp_path / "out").write_text("mine")
    shown = make()
    assert (shown.returncode, shown.stdout) == (2, "")
    assert "no folder" in shown.stderr
    assert len(shown.stderr.splitlines()) <= 2
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_that_becomes_a_file(make, tmp_path, monkeypatch):
    write = writers.WRITERS["mp4"]

    def vanishing(*given):
        write(*given)
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "out").write_text("mine")

    monkeypatch.setitem(writers.WRITERS, "mp4", vanishing)
    failed = make()
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.splitlines()[-4] == "0 made, 3 failed:"
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_without_permission(run, photos, tmp_path, unprivileged):
    (tmp_path / "out").mkdir(mode=0o500)
    shown = run("pan", photos / "a.png", "waves", "-o", "out/", *LAYOUT, preexec_fn=unprivileged)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert "no permission" in shown.stderr


@pytest.mark.parametrize("path", ["/proc/clips/", "/sys/clips/{name}"])
def test_a_place_that_takes_no_files(call, tiny_model, photos, path):
    shown = call("animate", photos / "a.png", "waves", "-o", path, "--model", tiny_model, *SMALL, "-q")
    assert shown.returncode in (1, 2)
    assert len(shown.stderr.splitlines()) <= 2
    assert path.split("{")[0].rstrip("/") in shown.stderr


@pytest.fixture
def shell(environment, tmp_path, photos):
    """Run a line of bash in which `$pan` is a command that makes clips of the photos, without a model."""
    command = [sys.executable, "-m", "consisti2v_cli", "pan", "photos", *LAYOUT]

    def shell(line):
        settings = {"env": {**environment, "pan": " ".join(command)}, "cwd": tmp_path, "text": True}
        return subprocess.run(
            ["bash", "-c", line], capture_output=True, stdin=subprocess.DEVNULL, timeout=240, check=False, **settings
        )

    return shell


def test_a_reader_that_goes_away(shell, tmp_path):
    """`head -1` has enough after one path; the clips that are there stay whole."""
    shown = shell("$pan -q | head -1; echo ${PIPESTATUS[0]}")
    assert shown.stdout.splitlines()[0] == "a.mp4"
    assert shown.stdout.splitlines()[-1] in ("0", "1")  # 0: it was done before the reader was
    assert shown.stderr == ""
    shown = shell("$pan -o one/ -y -q | true; echo ${PIPESTATUS[0]}")
    assert (shown.stdout, shown.stderr) == ("1\n", "")
    assert read_video(next((tmp_path / "one").iterdir()))[0].shape == (5, 48, 64, 3)


def test_a_player_that_goes_away(shell, tmp_path):
    (tmp_path / "photos" / "b.png").unlink()
    (tmp_path / "photos" / "c.png").unlink()
    shown = shell("$pan -o - -q | true; echo ${PIPESTATUS[0]}")
    assert (shown.stdout, shown.stderr) == ("1\n", "")
    shown = shell("$pan -o - -q -f gif | head -c 6")
    assert (shown.stdout, shown.stderr) == ("GIF89a", "")


def test_no_standard_output_at_all(shell, tmp_path):
    shown = shell("$pan -o out/ -q >&-")
    assert shown.stderr == ""
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")
def test_standard_output_on_a_full_disk(shell, tmp_path):
    shown = shell("$pan -o out/ -q > /dev/full; echo $?")
    assert shown.stdout == "1\n"
    assert "a.png: standard output cannot be written: No space left on device." in shown.stderr
    for name in "bc":
        (tmp_path / "photos" / f"{name}.png").unlink()
    shown = shell("$pan -o - -q > /dev/full")
    assert shown.stderr == "Error: standard output cannot be written: No space left on device.\n"


def test_paths_are_written_as_they_are_whatever_the_encoding(run, boat, tmp_path):
    (tmp_path / "写真").mkdir()
    shutil.copy(boat, tmp_path / "写真" / "ボート.jpg")
    command = ["pan", "写真/ボート.jpg", "waves", "-o", "写真/", *LAYOUT]
    made = run(*command, env={"PYTHONIOENCODING": "cp1252"}, text=False)
    assert made.returncode == 0, made.stderr
    assert made.stdout.decode() == "写真/ボート.mp4\n"
    assert (tmp_path / made.stdout.decode().rstrip()).is_file()


def test_interrupted_while_a_clip_is_written_the_clip_is_finished(make, tmp_path, monkeypatch):
    write = writers.WRITERS["mp4"]

    def interrupted(*given):
        signal.raise_signal(signal.SIGINT)
        write(*given)

    monkeypatch.setitem(writers.WRITERS, "mp4", interrupted)
    made = make()
    assert made.returncode == 130
    assert made.stdout == "out/a.mp4\n"
    assert made.stderr.splitlines()[-1] == "Interrupted."
    assert "1 made.\nThe same command goes on from here." in made.stderr
    assert os.listdir(tmp_path / "out") == ["a.mp4"]
    assert read_video(tmp_path / "out" / "a.mp4")[0].shape == (3, 48, 64, 3)


def test_interrupted_while_a_clip_fails_the_run_ends(make, tmp_path, monkeypatch):
    def interrupted(*_):
        signal.raise_signal(signal.SIGINT)
        raise ConsistI2VError("The encoder failed.")

    monkeypatch.setitem(writers.WRITERS, "mp4", interrupted)
    made = make()
    assert (made.returncode, made.stdout) == (130, "")
    assert made.stderr.count("The encoder failed.") == 2  # when it happens, and at the end: for one clip, no more
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("command", ["animate", "extend"])
def test_without_standard_error_a_clip_is_made(run, photos, tiny_model, tmp_path, command):
    """As `2>&-` in a shell."""
    asked = [command, photos / "a.png", "waves", "--model", tiny_model, *SMALL, "-o", "clip.mp4"]
    made = run(*asked, preexec_fn=lambda: os.close(2))
    assert (made.returncode, made.stdout) == (0, "clip.mp4\n")
    assert (tmp_path / "clip.mp4").is_file()


@pytest.mark.slow
def test_where_interrupts_are_ignored_they_stay_so(run, photos, tiny_model):
    """As a background job of a shell: Ctrl-C is meant for what runs in front."""
    script = (
        "import os, signal, sys; from consisti2v_cli.commands import main; from consisti2v_cli.media import writers; "
        "write = writers.WRITERS['mp4']; "
        "writers.WRITERS['mp4'] = lambda *given: (os.kill(os.getpid(), signal.SIGINT), write(*given)); "
        "main(sys.argv[1:])"
    )
    asked = ["animate", photos / "a.png", "waves", "--model", tiny_model, *SMALL, "-q", "-o", "clip.mp4"]
    settings = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    made = run(*asked, program=["-c", script], **settings)
    assert (made.returncode, made.stdout) == (0, "clip.mp4\n")


def test_the_second_interrupt_ends_at_once_and_leaves_nothing_half_written(make, tmp_path, monkeypatch):
    def interrupted(path, *_):
        path.write_bytes(b"half")
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("went on")

    monkeypatch.setitem(writers.WRITERS, "mp4", interrupted)
    made = make()
    assert (made.returncode, made.stdout) == (130, "")
    assert os.listdir(tmp_path / "out") == []
