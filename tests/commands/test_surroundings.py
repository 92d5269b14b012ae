"""What people's machines are like: other locales, no home, broken proxies, odd files of text, devices as outputs."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from consisti2v_cli.media.metadata import read_recipe

LAYOUT = ["--layout-only", "--amount", "0", "--frames", "2"]
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(autouse=True)
def photo(tmp_path):
    Image.new("RGB", (48, 32), "red").save(tmp_path / "photo.png")


def prompt_in(path):
    return json.loads(read_recipe(path))["prompt"]


def test_names_and_prompts_where_the_locale_knows_no_letters(run, tmp_path):
    (tmp_path / "é.png").write_bytes((tmp_path / "photo.png").read_bytes())
    (tmp_path / "list.csv").write_text("input,prompt\né.png,Wellen\n", encoding="utf-8")
    (tmp_path / "mine.toml").write_text('[pan]\noutput = "ü/{name}"\n', encoding="utf-8")
    made = run("pan", "é.png", "船は左へ", *LAYOUT, "-q", "-o", "o/", env=C_LOCALE, text=False)
    assert (made.returncode, made.stdout) == (0, "o/é.mp4\n".encode()), made.stderr
    assert prompt_in(tmp_path / "o" / "é.mp4") == "船は左へ"
    listed = run("pan", "--manifest", "list.csv", *LAYOUT, "-q", "--config", "mine.toml", env=C_LOCALE, text=False)
    assert (listed.returncode, listed.stdout) == (0, "ü/é.mp4\n".encode()), listed.stderr


@pytest.mark.parametrize("locale", [{}, C_LOCALE])
def test_names_that_are_no_text_are_printed_as_they_are(run, tmp_path, locale):
    name = b"\xe9.png"
    with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
        file.write((tmp_path / "photo.png").read_bytes())
    made = run("pan", "-q", *LAYOUT, "-o", os.fsdecode(b"o-\xe9.mp4"), os.fsdecode(name), env=locale, text=False)
    assert (made.returncode, made.stdout) == (0, b"o-\xe9.mp4\n"), made.stderr
    assert os.path.exists(os.fsencode(tmp_path) + b"/o-\xe9.mp4")


def test_bytes_of_a_prompt_that_are_no_text_are_told(call):
    shown = call("pan", "photo.png", os.fsdecode(b"caf\xe9"), *LAYOUT)
    assert "bytes that are not UTF-8" in shown.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_files_of_any_editor(call, tmp_path, encoding):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes((tmp_path / "photo.png").read_bytes())
    (folder / "a.txt").write_text("its own\r\n", encoding=encoding)
    (tmp_path / "prompt.txt").write_text("Schnee fällt", encoding=encoding)
    (tmp_path / "list.csv").write_text("input,prompt\nphoto.png,Wellen\n", encoding=encoding)
    (tmp_path / "mine.toml").write_text("[pan]\nquality = 41\n", encoding=encoding)
    (tmp_path / "old.json").write_text('{"prompt": "alt", "seed": 3, "command": "pan"}', encoding=encoding)
    asked = {
        ("photo.png", "@prompt.txt"): "Schnee fällt",
        ("photos", "@prompt.txt"): "its own",
        ("--manifest", "list.csv"): "Wellen",
        ("photo.png", "--recipe", "old.json"): "alt",
    }
    for arguments, prompt in asked.items():
        shown = call("pan", *arguments, *LAYOUT, "--config", "mine.toml", "--dry-run", "--json")
        recipe = json.loads(shown.stdout)["recipe"]
        assert recipe["prompt"] == prompt, shown.stderr
        assert recipe["quality"] == (41 if "--recipe" not in arguments else 85)  # a recipe's own wins


def test_a_prompt_that_begins_with_an_at_sign(call, tmp_path):
    call("pan", "photo.png", "@@home it snows", *LAYOUT, "-q", "-o", "a.mp4")
    assert prompt_in(tmp_path / "a.mp4") == "@home it snows"


def test_a_home_folder_that_no_shell_expands(call, tmp_path, monkeypatch):
    """The home folder of these tests is the current one."""
    (tmp_path / "mine.toml").write_text('[pan]\noutput = "~/configured/"\n')
    assert call("pan", "photo.png", *LAYOUT, "-q", "--config", "~/mine.toml").returncode == 0
    monkeypatch.setenv("CONSISTI2V_PAN_OUTPUT", "~/variable/")
    assert call("pan", "~/photo.png", *LAYOUT, "-q").returncode == 0
    assert call("pan", "photo.png", "-q", *LAYOUT, "--output=~/option/").returncode == 0
    for folder in ("configured", "variable", "option"):
        assert os.listdir(tmp_path / folder) == ["photo.mp4"]
    assert not (tmp_path / "~").exists()


@pytest.fixture
def shell(tmp_path, environment):
    """Run bash lines, in which $pan makes a small clip of photo.png."""

    def shell(line, **settings):
        program = f"{sys.executable} -m consisti2v_cli pan photo.png {' '.join(LAYOUT)} -q"
        settings = {"capture_output": True, "text": True, "check": False, "timeout": 60, **settings}
        return subprocess.run(["bash", "-c", line], cwd=tmp_path, env={**environment, "pan": program}, **settings)

    return shell


@pytest.mark.parametrize(
    "line",
    [
        "$pan -o /dev/stdout > f",
        "$pan -o /dev/stdout | cat > f",
        "$pan -o /dev/fd/1 > f",
        "$pan -o /dev/fd/3 3> f",
        "$pan -o >(cat > f); wait; sleep 0.2",
        "mkfifo p; cat p > f & $pan -o p; wait",
    ],
)
def test_devices_and_pipes_take_the_clip_and_nothing_else(shell, tmp_path, line):
    shown = shell(line)
    assert (shown.stdout, shown.stderr) == ("", "")
    assert json.loads(read_recipe(tmp_path / "f"))["command"] == "pan"
    assert b"/dev/" not in (tmp_path / "f").read_bytes()[-200:]


def test_a_device_that_is_full(shell):
    shown = shell("$pan -o /dev/full; echo $?")
    assert (shown.stdout, shown.stderr) == ("1\n", "Error: /dev/full cannot be written: No space left on device.\n")


def test_a_device_that_swallows_everything(shell):
    shown = shell("$pan -o /dev/null; echo $?")
    assert (shown.stdout, shown.stderr) == ("0\n", "")


def test_a_current_folder_that_is_gone(shell):
    gone = "mkdir gone; cd gone; rmdir ../gone; "
    made = shell(gone + "p=${pan/photo.png/../photo.png}; ${p/ --layout-only/} waves --model sketch; echo $?")
    assert made.stdout == "1\n"
    assert made.stderr == "Error: the current folder has been deleted; change to another one.\n"
    assert shell(gone + "$pan --help").stdout.startswith("Usage: ")


@pytest.mark.parametrize("home", [None, ""])
def test_a_user_without_a_home(run, environment, tmp_path, tiny_model, home):
    """As in containers that run under a number which no list of users has."""
    nobody = """
import pwd
def unknown(number): raise KeyError(number)
pwd.getpwuid = unknown
from consisti2v_cli.__main__ import main
main()
"""
    for name in ("HOME", "CONSISTI2V_STATE", "CONSISTI2V_CACHE", "HF_HOME", "XDG_CONFIG_HOME"):
        environment.pop(name)
    settings = {"program": ["-c", nobody], "env": {} if home is None else {"HOME": home}}
    told = run("doctor", "--json", **settings)
    assert told.returncode == 0, told.stderr
    small = ["--model", tiny_model, "--size", "64x48", "--frames", "2", "--steps", "1", "--chunks", "1"]
    made = run("extend", "photo.png", "it snows", *small, **settings)
    assert (made.returncode, made.stdout) == (0, "photo.mp4\n"), made.stderr
    assert "CONSISTI2V_STATE" in made.stderr
    assert not (tmp_path / "~").exists()


def test_a_home_that_cannot_be_written(call, tmp_path, tiny_model, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    for name in ("STATE", "CACHE"):
        monkeypatch.setenv(f"CONSISTI2V_{name}", str(tmp_path / "file" / name))
    small = ["--model", tiny_model, "--size", "64x48", "--frames", "2", "--steps", "1"]
    made = call("extend", "photo.png", "it snows", *small, "--chunks", "2")
    assert (made.returncode, made.stdout) == (0, "photo.mp4\n"), made.stderr
    assert "an interrupted clip has to be made anew. CONSISTI2V_STATE names another folder" in made.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks://127.0.0.1:9"),
        ("ALL_PROXY", "socks5://127.0.0.1:9"),
        ("HTTPS_PROXY", "garbage"),
        ("SSL_CERT_FILE", "/nope"),
        ("HF_ENDPOINT", "notaurl"),
    ],
)
def test_settings_of_the_network_that_cannot_be_meant(run, environment, variable, value):
    for name in ("ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE", "NO_PROXY", "no_proxy"):
        environment.pop(name, None)
    once = "import consisti2v_cli.weights.download as d; d.WAITS = (); from consisti2v_cli.__main__ import main; main()"
    settings = {"env": {"HF_HUB_OFFLINE": "0", variable: value}, "program": ["-c", once]}
    shown = run("fetch-weights", "somebody/something", **settings)
    assert shown.returncode == 3, shown.stderr
    assert variable in shown.stderr
    assert value in shown.stderr
    assert len(shown.stderr.splitlines()) <= 2


def test_a_terminal_that_cannot_move_its_cursor(environment, tmp_path, tiny_model):
    parent, child = pty.openpty()
    small = ["--model", tiny_model, "--size", "64x48", "--frames", "2", "--steps", "1"]
    command = [sys.executable, "-m", "consisti2v_cli", "animate", "photo.png", "it snows", *map(str, small)]
    process = subprocess.Popen(command, cwd=tmp_path, env={**environment, "TERM": "dumb"}, stderr=child, stdout=child)
    os.close(child)
    shown = b""
    try:
        while data := os.read(parent, 4096):
            shown += data
    except OSError:  # closed at the other end
        pass
    assert process.wait(60) == 0
    os.close(parent)
    assert b"photo.png: steps 1/1" in shown
    assert b"\x1b" not in shown


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1])
def test_an_interrupt_while_it_starts(environment, tmp_path, delay):
    """Not before Python itself has begun: of that it says what it likes."""
    ready = """
import signal, sys
from consisti2v_cli.__main__ import main
handle = signal.signal
def handle_and_tell(*given):
    handle(*given)
    print(".", end="", flush=True)
signal.signal = handle_and_tell
main()
"""
    command = [sys.executable, "-c", ready, "pan", "photo.png", *LAYOUT, "--dry-run"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.read(1) == "."
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode in (0, 130), told
    assert "Traceback" not in told


def test_python_without_docstrings(run, tiny_model):
    shown = run("animate", "photo.png", "it snows", "--model", tiny_model, "-q", env={"PYTHONOPTIMIZE": "2"})
    assert shown.returncode == 1
    assert "PYTHONOPTIMIZE=2" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


def test_the_program_is_installed_under_its_name(environment, tmp_path):
    program = Path(sys.executable).with_name("consisti2v")
    if not program.exists():
        pytest.skip("install the package: pip install '.[test]'")
    shown = subprocess.run([program, "--version"], env=environment, capture_output=True, text=True, check=False)
    assert shown.stdout.startswith("consisti2v, version ")
