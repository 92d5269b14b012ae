"""300 damaged or strange inputs: what is a picture is planned, what is none is named, and memory stays small."""

import io
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

SEED = 20_231_107
COUNT = 300
MOST_MEMORY = 1_500_000_000  # bytes
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "avif": "AVIF", "tif": "TIFF", "bmp": "BMP", "gif": "GIF"}
MODES = {
    "jpg": ("RGB", "L", "CMYK"),
    "png": ("RGB", "RGBA", "P", "L", "LA", "1", "I;16"),
    "webp": ("RGB", "RGBA"),
    "avif": ("RGB", "RGBA"),
    "tif": ("RGB", "RGBA", "L", "1", "CMYK", "I;16", "F", "LAB"),
    "bmp": ("RGB", "L", "P", "1"),
    "gif": ("RGB", "P", "L"),
}
GOOD, BAD, EITHER = "good", "bad", "either"  # EITHER: cut or changed at random, so that some can still be read

Entry = tuple[str, bytes, str]  # name, content, what it is


def picture(dice: random.Random, mode: str = "RGB", size: tuple[int, int] | None = None) -> Image.Image:
    """Smooth noise."""
    width, height = size or (dice.randint(3, 90), dice.randint(3, 90))
    grey = Image.effect_noise((8, 8), dice.uniform(10, 90)).resize((width, height), Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    if mode == "LAB":
        profiles = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
        return ImageCms.profileToProfile(grey.convert("RGB"), *profiles, outputMode="LAB")
    return grey.convert(mode)


def saved(image: Image.Image, suffix: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=FORMATS[suffix], **options)
    return stream.getvalue()


def plain(dice: random.Random) -> Entry:
    suffix = dice.choice(list(FORMATS))
    mode = dice.choice(MODES[suffix])
    return f"plain-{mode.replace(';', '')}.{suffix}", saved(picture(dice, mode), suffix), GOOD


def animated(dice: random.Random) -> Entry:
    suffix = dice.choice(("gif", "webp", "png", "tif"))
    frames = [picture(dice, "RGB", (40, 30)) for _ in range(dice.randint(2, 5))]
    return f"animated.{suffix}", saved(frames[0], suffix, save_all=True, append_images=frames[1:]), GOOD


def rotated(dice: random.Random) -> Entry:
    suffix = dice.choice(("jpg", "png", "webp", "tif"))
    exif = Image.Exif()
    exif[0x0112] = dice.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65535))
    return f"rotated.{suffix}", saved(picture(dice), suffix, exif=exif), GOOD


def broken_exif(dice: random.Random) -> Entry:
    suffix = dice.choice(("jpg", "webp"))
    start = dice.choice((b"Exif\0\0II*\0\x08\0\0\0", b"Exif\0\0MM\0*", b"Exif\0\0", b""))
    return f"broken-exif.{suffix}", saved(picture(dice), suffix, exif=start + dice.randbytes(dice.randint(0, 60))), GOOD


def profiled(dice: random.Random) -> Entry:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    damaged = srgb[: dice.randint(0, len(srgb) - 1)] + dice.randbytes(dice.randint(0, 40))
    suffix = dice.choice(("jpg", "png", "webp", "tif"))
    mode = dice.choice(("RGB", "L", "CMYK") if suffix == "jpg" else ("RGB",))
    return f"profile.{suffix}", saved(picture(dice, mode), suffix, icc_profile=dice.choice((srgb, damaged))), GOOD


def tiny_or_long(dice: random.Random) -> Entry:
    size = dice.choice(((1, 1), (1, 20_000), (20_000, 1), (2, 1), (1, 300), (7000, 3)))
    suffix = dice.choice(("png", "jpg", "tif", "bmp", "gif"))
    return f"size-{size[0]}x{size[1]}.{suffix}", saved(picture(dice, size=size), suffix), GOOD


def misnamed(dice: random.Random) -> Entry:
    """The suffix of one format, the content of another: read by its content."""
    suffix, other = dice.sample(list(FORMATS), 2)
    return f"misnamed-{suffix}.{other}", saved(picture(dice), suffix), GOOD


def cut(dice: random.Random) -> Entry:
    suffix = dice.choice(list(FORMATS))
    content = saved(picture(dice, size=(90, 70)), suffix)
    return f"cut.{suffix}", content[: dice.randint(1, len(content) - 1)], EITHER


def cut_to_the_header(dice: random.Random) -> Entry:
    suffix = dice.choice(list(FORMATS))
    return f"header.{suffix}", saved(picture(dice, size=(90, 70)), suffix)[: dice.randint(1, 60)], BAD


def changed(dice: random.Random) -> Entry:
    suffix = dice.choice(list(FORMATS))
    content = bytearray(saved(picture(dice, size=(60, 50)), suffix))
    for _ in range(dice.randint(1, 40)):
        content[dice.randrange(len(content))] = dice.randrange(256)
    return f"changed.{suffix}", bytes(content), EITHER


def no_picture(dice: random.Random) -> Entry:
    contents = [
        b"",
        b"\0" * 5000,
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\nshowpage\n",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        b"PK\x03\x04" + dice.randbytes(200),
        dice.randbytes(3000),
        b"GIF89a",
        b"RIFF\x24\0\0\0WEBPVP8 ",
        b"\0\0\0\x20ftypavif",
        b"\xff\xd8\xff\xe0",
    ]
    return f"none.{dice.choice(list(FORMATS))}", dice.choice(contents), BAD


def bomb(dice: random.Random) -> Entry:
    """A header that promises more pixels than there can be memory for."""
    side = dice.choice((30_000, 60_000, 2**31 - 1, 0))
    header = struct.pack(">IIBBBBB", side, side, 8, dice.choice((0, 2, 6)), 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(parts)
    bmp = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, side % 2**31, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
    gif = b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0xF0, 0, 0) + bytes(6) + b";"
    return f"bomb.{dice.choice(('png', 'bmp', 'gif'))}", dice.choice((png, bmp, gif)), BAD


KINDS = (plain, animated, rotated, broken_exif, profiled, tiny_or_long, misnamed, cut, cut_to_the_header)
KINDS += (changed, no_picture, bomb)


def inputs() -> Iterator[Entry]:
    dice = random.Random(SEED)
    for number in range(COUNT):
        name, content, kind = KINDS[number % len(KINDS)](dice)
        yield f"{number:03}-{name}", content, kind


@pytest.fixture(scope="module")
def strange(tmp_path_factory) -> dict[Path, str]:
    """The files, and what they are."""
    folder = tmp_path_factory.mktemp("strange")
    kinds = {}
    for name, content, kind in inputs():
        (folder / name).write_bytes(content)
        kinds[folder / name] = kind
    return kinds


# Runs the command line, then prints the most memory that it had: bytes. Where Linux says so, of this program alone:
# getrusage counts what the tests' own process had when it began the new one.
MEASURED = """
import re, resource, sys
from pathlib import Path
from consisti2v_cli.commands import main
try:
    main(sys.argv[1:])
finally:
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\\s*([0-9]+)", status.read_text() if status.exists() else "")
    most = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("most memory:", 1024 * most, file=sys.stderr)
"""


@pytest.fixture
def measured(tmp_path, environment):
    """Run the command line in a process of its own -> the result, and the most bytes of memory that it had."""

    def measured(*arguments):
        command = [sys.executable, "-c", MEASURED, *map(str, arguments)]
        settings = {"env": environment, "cwd": tmp_path, "stdin": subprocess.DEVNULL}
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, **settings)
        *said, memory = done.stderr.splitlines()
        done.stderr = "\n".join(said)
        return done, int(memory.removeprefix("most memory:"))

    return measured


def check(done, kinds: dict[Path, str]) -> None:
    """What is a picture is among the results, and what is none among the errors, in a line of its own."""
    assert "Traceback" not in done.stderr
    told = {json.loads(line)["input"] for line in done.stdout.splitlines()}
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    for path, kind in kinds.items():
        named = [line for line in errors if str(path) in line]
        assert (path.name in told) is not bool(named), path.name
        assert len(named) <= 1, named
        if kind != EITHER:
            assert (path.name in told) is (kind == GOOD), (path.name, named)
    assert len(errors) == len(kinds) - len(told)


@pytest.mark.slow
def test_three_hundred_strange_inputs(measured, strange, tiny_model):
    folder = next(iter(strange)).parent
    assert len(strange) == COUNT
    done, memory = measured("animate", folder, "waves", "--model", tiny_model, "--dry-run", "--json")
    assert done.returncode == 1
    check(done, strange)
    assert memory < MOST_MEMORY
    assert sum(kind == GOOD for kind in strange.values()) > 150


@pytest.mark.slow
def test_strange_pictures_are_made(measured, strange, tiny_model, tmp_path):
    some = dict(random.Random(SEED).sample(sorted(strange.items()), 40))
    options = ["--model", tiny_model, "--size", "32x32", "--frames", "2", "--steps", "1", "-o", "out/", "-f", "gif"]
    done, memory = measured("animate", *some, "waves", *options)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert memory < MOST_MEMORY
    made = {Path(line).stem for line in done.stdout.splitlines()}
    for path, kind in some.items():
        if kind != EITHER:
            assert (path.stem in made) is (kind == GOOD), path.name
    assert {path.stem for path in (tmp_path / "out").iterdir()} == made


def test_alone_they_have_the_right_exit_code(call, strange, tiny_model):
    for path, kind in random.Random(SEED + 1).sample(sorted(strange.items()), 60):
        shown = call("animate", path, "waves", "--model", tiny_model, "--dry-run", "-q")
        assert shown.returncode in {GOOD: (0,), BAD: (2,), EITHER: (0, 2)}[kind], (path.name, shown.stderr)
        assert len(shown.stderr.splitlines()) == (shown.returncode != 0), shown.stderr
        assert shown.returncode == 0 or str(path) in shown.stderr


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> list[Path]:
    """As many pixels as are allowed, in formats whose decoders take much."""
    folder = tmp_path_factory.mktemp("large")
    Image.new("RGB", (10_900, 10_900), "teal").save(folder / "large.png", compress_level=1)
    Image.new("RGB", (8000, 6800), "teal").save(folder / "large.webp", method=0, quality=10)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8000, 6300), "teal").save(folder / "turned.jpg", exif=exif)
    return sorted(folder.iterdir())


@pytest.mark.slow
def test_large_photos_take_no_more_memory_than_they_may(measured, large, tiny_model):
    options = ["--model", tiny_model, "--frames", "2", "--steps", "1", "--json", "-f", "gif"]
    done, memory = measured("animate", *large, "waves", *options)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(large)
    assert memory < MOST_MEMORY


def test_what_is_no_file_at_all(call, boat, tiny_model, tmp_path):
    """Nobody writes into the pipe: it must not be waited for."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    names = ["pipe.png", "folder.png", "loop.png", "/dev/zero", "nowhere.png", "x" * 300 + ".png", "boat.jpg/x.png"]
    (tmp_path / "boat.jpg").write_bytes(boat.read_bytes())
    for name in names:
        shown = call("animate", name, "waves", "--model", tiny_model, "--dry-run", "-q")
        assert (shown.returncode, len(shown.stderr.splitlines())) == (2, 1), shown.stderr
        assert name in shown.stderr
    shown = call("animate", *names, "boat.jpg", "waves", "--model", tiny_model, "--dry-run", "--json", "-q")
    assert shown.returncode == 1
    assert [json.loads(line)["input"] for line in shown.stdout.splitlines()] == ["boat.jpg"]
    assert len(shown.stderr.splitlines()) == len(names)


def test_photos_without_permission(run, boat, tmp_path, unprivileged):
    (tmp_path / "locked.jpg").write_bytes(boat.read_bytes())
    (tmp_path / "locked.jpg").chmod(0)
    shown = run("animate", "locked.jpg", "waves", "--model", "sketch", "--dry-run", "-q", preexec_fn=unprivileged)
    assert shown.returncode == 2
    assert "locked.jpg cannot be read: Permission denied" in shown.stderr


def test_standard_input_that_is_no_picture(run):
    for content in (b"", b"<html>", b"\x89PNG\r\n\x1a\n"):
        shown = run("pan", "-", "--layout-only", "--dry-run", "-q", input=content, text=False)
        assert shown.returncode == 2
        assert len(shown.stderr.splitlines()) == 1


def test_memory_is_bounded_for_an_endless_input(environment, tmp_path):
    command = [sys.executable, "-c", MEASURED, "pan", "-", "--layout-only", "--dry-run"]
    with Path("/dev/zero").open("rb") as endless:
        done = subprocess.run(
            command,
            stdin=endless,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 2
    assert "standard input, which holds more than 500 MB" in done.stderr
    assert int(done.stderr.splitlines()[-1].removeprefix("most memory:")) < MOST_MEMORY
