"""A film has its name when it is whole, and takes nobody else's: full disks, killed writers, two at once."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from moving_photos import moving

from consisti2v_cli.errors import ConsistI2VError, RequestError, TakenError
from consisti2v_cli.media.video import WRITERS, read_frames, read_video, remove_leftovers, write_video

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals, links and limits")

START = """
import os, resource, shutil, signal, sys, time
import numpy as np
from consisti2v_cli.errors import ConsistI2VError, TakenError
from consisti2v_cli.media import scratch
from consisti2v_cli.media.video import write_video
frames = np.random.default_rng(0).integers(0, 255, (12, 96, 96, 3), np.uint8)
path, format, *rest = sys.argv[1:]
"""


@pytest.fixture(scope="module")
def clip():
    """5 frames of 64x48."""
    return moving(frames=5, width=64, height=48)


def start(script, *arguments):
    command = [sys.executable, "-c", START + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(script, *arguments):
    process = start(script, *arguments)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def hidden(folder):
    return [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("format", WRITERS)
def test_a_full_disk(tmp_path, format):
    script = """
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    write_video(path, frames, 8, format=format, comment="a recipe")
except ConsistI2VError as error:
    print(f"{type(error).__name__}: {error}")
"""
    code, said = finished(script, tmp_path / "clip", format)
    assert (code, said) == (0, f"ConsistI2VError: {tmp_path / 'clip'} cannot be written: File too large.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", WRITERS)
def test_a_folder_that_vanishes(tmp_path, clip, format):
    folder = tmp_path / "out"

    class Vanishing:
        def __iter__(self):
            yield from clip[:3]
            shutil.rmtree(folder, ignore_errors=True)
            yield from clip[3:]

    with pytest.raises(ConsistI2VError, match=rf"{re.escape(str(folder))}/clip cannot be written: No such file"):
        write_video(folder / "clip", Vanishing(), 8, format=format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", WRITERS)
def test_whoever_is_second_gets_nothing(tmp_path, clip, format):
    class Overtaken:
        def __iter__(self):
            yield from clip[:3]
            if not (tmp_path / "clip").exists():
                write_video(tmp_path / "clip", clip[:2], 8, format=format)
            yield from clip[3:]

    with pytest.raises(TakenError, match="exists already"):
        write_video(tmp_path / "clip", Overtaken(), 8, format=format)
    assert len(read_video(tmp_path / "clip")[0]) == 2
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("format", ["gif", "png"])
def test_many_at_once(tmp_path, format):
    script = """
(tint, begin) = map(float, rest)
time.sleep(max(0, begin - time.time()))
try:
    write_video(path, np.full((3, 32, 32, 3), tint, np.uint8), 8, format=format)
    print("written")
except TakenError:
    print("taken")
"""
    begin = time.time() + 2
    writers = {tint: start(script, tmp_path / "clip", format, tint, begin) for tint in (20, 90, 160, 230)}
    said = {tint: writer.communicate(timeout=60)[0].strip() for tint, writer in writers.items()}
    assert sorted(said.values()) == ["taken", "taken", "taken", "written"]
    (winner,) = (tint for tint, word in said.items() if word == "written")
    assert np.abs(read_video(tmp_path / "clip")[0].astype(int) - winner).max() <= 1
    assert hidden(tmp_path) == []


def test_without_hard_links(tmp_path, clip, monkeypatch):
    def refuse(*names, **options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)  # as on FAT
    write_video(tmp_path / "clip.gif", clip, 8)
    with pytest.raises(TakenError):
        write_video(tmp_path / "clip.gif", clip, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.gif"]


@pytest.mark.parametrize("format", ["mp4", "png"])
def test_a_killed_writer_leaves_nothing_for_long(tmp_path, clip, format):
    script = """
class Slow:
    def __iter__(self):
        for frame in frames:
            yield frame
            print("one", flush=True)
            time.sleep(0.5)
write_video(path, Slow(), 8, format=format)
"""
    writer = start(script, tmp_path / "killed", format)
    assert writer.stdout.readline() == "one\n"
    assert len(hidden(tmp_path)) == 1
    remove_leftovers(tmp_path)
    assert len(hidden(tmp_path)) == 1  # it is being written
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert not (tmp_path / "killed").exists()
    write_video(tmp_path / "other.gif", clip, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["other.gif"]


def test_a_machine_of_the_same_name_is_another(tmp_path):
    """As where several write into a folder that they share: their processes cannot be seen."""
    script = """
from pathlib import Path
scratch._MACHINE = Path(rest[0])
class Killed:
    def __iter__(self):
        yield from frames[:2]
        os.kill(os.getpid(), signal.SIGKILL)
write_video(path, Killed(), 8, format=format)
"""
    (tmp_path / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "out").mkdir()
    code, _ = finished(script, tmp_path / "out" / "clip", "gif", tmp_path / "machine-id")
    assert code == -signal.SIGKILL
    remove_leftovers(tmp_path / "out")
    assert len(hidden(tmp_path / "out")) == 1


def test_a_writer_that_is_killed_while_it_replaces_a_folder(tmp_path, clip):
    path = write_video(tmp_path / "clip", clip, 8, format="png")
    script = """
rename = os.rename
def once(*names):
    rename(*names)
    os.kill(os.getpid(), signal.SIGKILL)
os.rename = once
write_video(path, frames, 8, format=format, overwrite=True)
"""
    code, _ = finished(script, path, "png")
    assert code == -signal.SIGKILL
    assert not path.exists()
    remove_leftovers(tmp_path)
    assert np.array_equal(read_video(path)[0], clip)
    assert hidden(tmp_path) == []


def test_leftovers_of_other_machines_are_kept_for_a_day(tmp_path):
    fresh, old, mine = (tmp_path / f".clip-0123abcd-{number}-89abcdef.part" for number in (1, 2, 3))
    others = [tmp_path / ".config-part", tmp_path / ".clip-0123abcd-1-89abcdef.part.txt", tmp_path / "clip.part"]
    for folder in (fresh, old, mine, *others):
        folder.mkdir()
        (folder / "made.part").write_bytes(b"x")
    yesterday = time.time() - 25 * 3600
    for folder in (old, *others):
        os.utime(folder / "made.part", (yesterday, yesterday))
        os.utime(folder, (yesterday, yesterday))
    os.utime(mine, (yesterday, yesterday))  # its film still grows
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([fresh, mine, *others])
    remove_leftovers(tmp_path / "absent")


def test_a_folder_of_frames_is_replaced_whole(tmp_path, clip):
    path = write_video(tmp_path / "clip", clip, 8, format="png")
    with pytest.raises(TakenError):
        write_video(path, clip, 8, format="png")
    write_video(path, clip[:2], 8, format="png", overwrite=True)
    assert sorted(file.name for file in path.iterdir()) == ["0001.png", "0002.png"]
    assert hidden(tmp_path) == []


def test_a_folder_with_anything_else_is_never_replaced(tmp_path, clip):
    for stranger in ("notes.txt", "1.png", "0001.jpg", ".hidden"):
        folder = tmp_path / "clip"
        folder.mkdir()
        (folder / "0001.png").touch()
        (folder / stranger).write_text("mine")
        with pytest.raises(RequestError, match=re.escape(stranger)):
            write_video(folder, clip, 8, format="png", overwrite=True)
        assert (folder / stranger).read_text() == "mine"
        shutil.rmtree(folder)


def test_a_stranger_that_comes_while_frames_are_written(tmp_path, clip):
    folder = tmp_path / "clip"
    folder.mkdir()

    class Late:
        def __iter__(self):
            yield from clip
            (folder / "notes.txt").write_text("mine")

    with pytest.raises(RequestError, match=r"notes\.txt"):
        write_video(folder, Late(), 8, format="png", overwrite=True)
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]


def test_places_for_no_film(tmp_path, clip):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/full")
    (tmp_path / "astray").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "link", "astray", "/dev/full"):
        for overwrite in (False, True):
            with pytest.raises(RequestError, match="name another output") as caught:
                write_video(tmp_path / name, clip, 8, format="gif", overwrite=overwrite)
            assert not isinstance(caught.value, TakenError)  # another number would not help
    with pytest.raises(RequestError, match="is a file"):
        write_video(tmp_path / "file", clip, 8, format="png", overwrite=True)
    with pytest.raises(TakenError, match="folder"):
        write_video(tmp_path / "folder", clip, 8, format="mp4", overwrite=True)
    with pytest.raises(ConsistI2VError, match="Not a directory"):
        write_video(tmp_path / "file" / "clip.gif", clip, 8)
    assert (tmp_path / "file").read_text() == "mine"
    assert Path("/dev/full").is_char_device()


def test_a_link_to_a_film_stays_and_its_film_is_replaced(tmp_path, clip):
    (tmp_path / "there").mkdir()
    target = write_video(tmp_path / "there" / "target.gif", clip, 8)
    (tmp_path / "link.gif").symlink_to(target)
    write_video(tmp_path / "link.gif", clip[:2], 8, overwrite=True)
    assert (tmp_path / "link.gif").is_symlink()
    assert len(list(read_frames(target))) == 2
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["target.gif"]


def test_frames_that_cannot_be_read_are_no_fault_of_the_disk(tmp_path, clip):
    class Missing:
        def __iter__(self):
            yield clip[0]
            raise FileNotFoundError(2, "No such file or directory", "chunk-2.npy")

    with pytest.raises(ConsistI2VError, match=r"frames cannot be read: .*chunk-2\.npy"):
        write_video(tmp_path / "clip.mp4", Missing(), 8)
    assert list(tmp_path.iterdir()) == []
