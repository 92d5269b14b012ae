"""What of a folder is taken: pictures by their content; and what is said of the rest."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image
from pillow_heif import register_heif_opener

from consisti2v_cli.media.reading import kind_of

register_heif_opener()
LAYOUT = ["--layout-only", "--amount", "0", "--frames", "2"]


def picture(path, format=None, colour="red"):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (48, 32), colour).save(path, format)


@pytest.fixture
def planned(call):
    """The plan of a pan over a folder: planned("photos") -> names of inputs, prompts, notices."""

    def planned(*arguments):
        shown = call("pan", *arguments, *LAYOUT, "--dry-run", "--json")
        assert shown.returncode == 0, shown.stderr
        plans = [json.loads(line) for line in shown.stdout.splitlines()]
        return [plan["input"] for plan in plans], [plan["recipe"]["prompt"] for plan in plans], shown.stderr

    return planned


def test_pictures_are_known_by_their_content(planned, tmp_path):
    folder = tmp_path / "photos"
    for name, format in (
        *(("a.tif", None), ("b.jfif", "JPEG"), ("c.heic", None), ("D.JPG", "JPEG"), ("e", "PNG"), ("f.dat", "WEBP")),
        ("g.jpg", "MPO"),
    ):
        picture(folder / name, format)
    names, _, notices = planned("photos")
    assert names == ["D.JPG", "a.tif", "b.jfif", "c.heic", "e", "f.dat", "g.jpg"]
    assert "left out" not in notices


def test_what_is_left_out_is_counted(planned, tmp_path, call):
    folder = tmp_path / "photos"
    picture(folder / "a.png")
    for name in ("b.nef", "c.doc", "film.mp4", ".hidden", "z.svg", "a.txt", "list.csv"):
        (folder / name).write_bytes(b"\0\0\0\x14ftypisom" if name.endswith("mp4") else b"<svg " * 9)
    assert call("pan", "photos/a.png", *LAYOUT, "-q", "-o", "photos/ours.mp4").returncode == 0
    names, _, notices = planned("photos")
    assert names == ["a.png"]
    assert (
        "photos: 4 files are left out, being no pictures that can be read: b.nef, c.doc, film.mp4 and 1 more."
        in notices
    )
    quiet = call("pan", "photos", *LAYOUT, "--dry-run", "-q")
    assert quiet.stderr == ""


def test_prompts_beside_pictures_in_any_case(planned, tmp_path):
    picture(tmp_path / "photos" / "PHOTO.JPG")
    (tmp_path / "photos" / "PHOTO.TXT").write_text("it snows")
    assert planned("photos")[:2] == (["PHOTO.JPG"], ["it snows"])


@pytest.fixture
def piped(tmp_path):
    """A picture in a pipe, under the name that a shell gives it: pan <(cat photo.jpg)."""
    picture(tmp_path / "photo.jpg")
    read, write = os.pipe()
    os.write(write, (tmp_path / "photo.jpg").read_bytes())
    os.close(write)
    yield f"/dev/fd/{read}"
    os.close(read)


def test_a_picture_through_a_pipe(call, piped):
    made = call("pan", piped, *LAYOUT, "-q")
    assert (made.returncode, made.stdout) == (0, "pipe.mp4\n"), made.stderr


def test_extend_takes_a_pipe_too(call, piped):
    planned = call("extend", piped, "it snows", "--model", "sketch", "--dry-run", "--json")
    assert json.loads(planned.stdout)["input"] == "pipe", planned.stderr


def test_an_endless_device_is_refused(call):
    refused = call("pan", "/dev/zero", "waves", *LAYOUT, "-q")
    assert refused.returncode == 2
    assert "zero is no ordinary file but a pipe or a device" in refused.stderr


def test_a_still_is_a_picture_whatever_it_is_made_of(tmp_path, call):
    """ffmpeg takes a HEIC's tiles, and a burst's pictures, for a video."""
    picture(tmp_path / "photo.heic")
    Image.new("RGB", (48, 32), "blue").save(
        tmp_path / "burst.heic", save_all=True, append_images=[Image.new("RGB", (48, 32), "red")]
    )
    for name in ("photo.heic", "burst.heic"):
        assert kind_of(tmp_path / name) == "image"
        planned = call("extend", name, "it snows", "--model", "sketch", "--dry-run", "--json", "--chunks", "1")
        assert json.loads(planned.stdout)["recipe"]["start"] == "image"


def test_jpeg_xl_says_which_extra_it_needs(run, tmp_path):
    (tmp_path / "photo.jxl").write_bytes(b"\xff\x0a" + bytes(50))
    program = ["-c", "import sys; sys.modules['pillow_jxl'] = None; from consisti2v_cli.commands import main; main()"]
    shown = subprocess.run(
        [sys.executable, *program, "pan", "photo.jxl", *LAYOUT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 2
    assert "pip install 'consisti2v-cli[jxl]'" in shown.stderr
