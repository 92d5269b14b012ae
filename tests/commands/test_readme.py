"""Every command line of the README runs, in the README's order, with the bundled model.

The lines stay as they are; the environment makes clips small and quick. Photos, films, folders and texts that they
name and that no earlier line made are made here.
"""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
BOAT = ROOT / "tests" / "fixtures" / "boat.jpg"
WARM = ROOT / "tests" / "warm_program.py"
SHORT = 70  # characters of a line that name its test
OURS = re.compile(r"(?<![\w/.-])(\S*/)?consisti2v(?= )")

LEFT_OUT = {  # patterns of commands that are not run, be it before or behind others with &&, and why
    r"python3 -m venv|(\S*/)?pip |git clone|cd ": "installs what is under test",
    r"(\S*/)?consisti2v fetch-weights(?!.* --list)": "downloads gigabytes; other tests have a hub of their own",
    r"(\S*/)?consisti2v train": "takes an hour; tests/training",
    r"(\S*/)?consisti2v evaluate .*--(protocol|ratings)": "reads data sets and what people said; test_protocol.py",
}
REPLACED = {  # programs that need not be there
    "ffplay": "cat >/dev/null",
}
QUICK = {  # what is not given on a line
    **{
        f"CONSISTI2V_{command}_{option}": value
        for command in ("ANIMATE", "EXTEND", "PAN", "ZOOM", "REDO")
        for option, value in {"STEPS": "1", "SIZE": "64x48", "FRAMES": "4"}.items()
    },
}
PHOTOS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".avif")
FILMS = (".mp4", ".mov", ".webm", ".gif", ".webp")


def statements(markdown: str) -> list[str]:
    """The shell's statements in the fenced sh blocks, those of several lines in one piece."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```$", markdown, flags=re.MULTILINE | re.DOTALL):
        piece = ""
        for line in block.splitlines():
            piece += line + "\n"
            if not line.endswith("\\") and is_whole(piece):
                found.append(piece.strip())
                piece = ""
        assert not piece.strip(), f"the shell does not understand {piece!r}"
    return found


@functools.cache
def is_whole(text: str) -> bool:
    return subprocess.run(["bash", "-n", "-c", text], capture_output=True, check=False).returncode == 0


def kept(statement: str) -> str:
    """A statement without the commands that are left out; empty where none of ours is in what is kept."""
    parts = re.split(r"\s+&&\s+", statement)
    parts = [part for part in parts if not is_left_out(part)]
    rest = " && ".join(parts)
    return rest if OURS.search(rest) else ""


def is_left_out(command: str) -> bool:
    return any(re.match(pattern, command.lstrip()) for pattern in LEFT_OUT)


LINES = [line for line in map(kept, statements((ROOT / "README.md").read_text(encoding="utf-8"))) if line]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the programs in `bin`, and `work`, where the lines run one after the other."""
    folder = tmp_path_factory.mktemp("readme")
    ours = f'exec "{sys.executable}" -I -S "{WARM}" call "{folder / "socket"}" "$@"'
    for name, script in {**REPLACED, "consisti2v": ours}.items():
        for bin in ("bin", "work/.venv/bin"):
            program = folder / bin / name
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def surroundings(place):
    """The environment of a fresh machine: no configuration, an empty hub cache, no network; and quick clips."""
    ours = ("CONSISTI2V_", "HF_", "XDG_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    fresh = {"HOME": str(place), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return environment | fresh | QUICK | {"PATH": f"{place / 'bin'}{os.pathsep}{environment['PATH']}"}


@pytest.fixture(scope="module")
def shell(place, surroundings):
    """Runs a statement; the programs share one import of the libraries."""
    server = subprocess.Popen([sys.executable, WARM, "serve", place / "socket"], env=surroundings, cwd=place)
    try:
        while not (place / "socket").exists():
            assert server.poll() is None, "the server of tests/warm_program.py has ended"
            time.sleep(0.05)

        def shell(statement):
            return subprocess.run(
                ["bash", "-euo", "pipefail", "-c", statement],
                cwd=place / "work",
                env=surroundings,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=240,
                check=False,
            )

        yield shell
    finally:
        server.kill()
        server.wait()


def prepare(statement: str, folder: Path) -> None:
    """Make what a statement reads and what is not there: everything it names that is no output."""
    words = shlex.split(statement, comments=True)
    written = {word for before, word in pairwise(words) if before in ("-o", "--output", ">", "--all")}
    for word in words:
        path = folder / word.removeprefix("@").removesuffix(";")
        if word in written or path.exists() or not re.fullmatch(r"@?[\w./-]+;?", word):
            continue
        make(path, is_folder=word.endswith("/"), is_text=word.startswith("@"))


def make(path: Path, *, is_folder: bool, is_text: bool) -> None:
    suffix = path.suffix.lower()
    if not (is_folder or is_text or suffix in (*PHOTOS, *FILMS, ".csv", ".jsonl", ".toml")):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_folder:
        path.mkdir()
        for name in ("one.jpg", "two.jpg"):
            shutil.copy(BOAT, path / name)
    elif is_text:
        path.write_text("everything moves left\n")
    elif suffix in PHOTOS:
        Image.open(BOAT).save(path)
    elif suffix in FILMS:
        make_film(path)
    elif suffix == ".toml":
        path.write_text("[animate]\nguidance = 5\n")
    else:
        make_manifest(path)


def make_film(path: Path) -> None:
    import numpy as np

    from consisti2v_cli.media.video import write_video

    picture = np.asarray(Image.open(BOAT).convert("RGB").resize((96, 64)))
    write_video(path, [np.roll(picture, -i, axis=1) for i in range(4)], 8)


def make_manifest(path: Path) -> None:
    for name in ("first.jpg", "second.jpg"):
        shutil.copy(BOAT, path.parent / name)
    if path.suffix == ".csv":
        path.write_text("input,prompt,seed\nfirst.jpg,moves left,1\nsecond.jpg,moves right,2\n")
    else:
        path.write_text('{"input": "first.jpg", "prompt": "moves left"}\n{"input": "second.jpg", "prompt": "rises"}\n')


@pytest.mark.parametrize("statement", LINES, ids=[f"{number}-{line[:SHORT]}" for number, line in enumerate(LINES)])
def test_the_line_runs(statement, shell, place):
    prepare(statement, place / "work")
    done = shell(statement)
    assert done.returncode == 0, done.stderr.decode(errors="replace")


def test_the_readme_shows_every_making_command():
    shown = {found for line in LINES for found in re.findall(r"consisti2v ([a-z-]+)", line)}
    assert {"animate", "extend", "pan", "zoom", "redo", "info"} <= shown


def test_only_what_has_a_reason_is_left_out():
    everything = statements((ROOT / "README.md").read_text(encoding="utf-8"))
    for statement in everything:
        if OURS.search(statement) and not kept(statement):
            assert is_left_out(statement), statement
