"""The tab key: the scripts are current, and complete in the shells themselves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from consisti2v_cli.commands import COMMANDS
from consisti2v_cli.commands.completions import SHELLS
from consisti2v_cli.commands.options import FORMATS
from consisti2v_cli.recipe import CHOICES

SCRIPTS = Path(__file__).parents[2] / "completions"
HEAVY = {"PIL", "diffusers", "httpx", "huggingface_hub", "imageio_ffmpeg", "numpy", "requests", "torch", "transformers"}


@pytest.fixture
def program(tmp_path, environment) -> dict[str, str]:
    """The environment of a shell that finds `consisti2v`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    executable = folder / "consisti2v"
    executable.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m consisti2v_cli "$@"\n')
    executable.chmod(0o755)
    return {**environment, "PATH": f"{folder}{os.pathsep}{environment['PATH']}"}


@pytest.fixture
def complete(program, tmp_path):
    """What the program answers when the last word of a line is to be completed: values, and the whole answer."""

    def complete(line: str, *, python: tuple[str, ...] = (), **variables: str) -> tuple[list[str], str]:
        words = line.split(" ")
        answered = subprocess.run(
            [sys.executable, *python, "-m", "consisti2v_cli"],
            env={
                **program,
                "_CONSISTI2V_COMPLETE": "bash_complete",
                "COMP_WORDS": line,
                "COMP_CWORD": str(len(words) - 1),
                **variables,
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        values = [entry.partition(",")[2] for entry in answered.stdout.splitlines() if entry.startswith("plain,")]
        return values, answered.stdout + answered.stderr

    return complete


@pytest.mark.parametrize("shell", SHELLS)
def test_the_scripts_are_current(run, tmp_path, shell):
    """Where this fails: consisti2v completions --all completions"""
    written = run("completions", "--all", "scripts")
    assert written.returncode == 0, written.stderr
    assert written.stdout.splitlines() == [f"scripts/consisti2v.{name}" for name in SHELLS]
    text = (tmp_path / "scripts" / f"consisti2v.{shell}").read_text()
    assert (SCRIPTS / f"consisti2v.{shell}").read_text() == text
    assert run("completions", shell).stdout == text
    assert run("completions", env={"SHELL": f"/usr/bin/{shell}"}).stdout == text
    assert sorted(path.name for path in (tmp_path / "scripts").iterdir()) == sorted(
        f"consisti2v.{name}" for name in SHELLS
    )


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        ([], {"SHELL": "/bin/tcsh"}),
        ([], {"SHELL": ""}),
        (["tcsh"], {}),
        (["bash", "--all", "scripts"], {}),
    ],
)
def test_wrong_requests(run, arguments, variables):
    shown = run("completions", *arguments, env=variables)
    assert shown.returncode == 2
    assert shown.stderr.startswith("Error: ")
    assert len(shown.stderr.splitlines()) <= 2
    assert shown.stdout == ""


def test_a_folder_that_cannot_be_written(run, tmp_path):
    (tmp_path / "taken").write_text("")
    shown = run("completions", "--all", "taken/scripts")
    assert shown.returncode == 1
    assert "taken/scripts" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("consisti2v ", set(COMMANDS)),
        ("consisti2v z", {"zoom"}),
        ("consisti2v animate --model s", {"sketch"}),
        ("consisti2v redo clip.mp4 --model s", {"sketch"}),
        ("consisti2v animate boat.jpg left --format ", set(FORMATS)),
        ("consisti2v animate --format m", {"mp4", "mov"}),
        ("consisti2v animate -f we", {"webm", "webp"}),
        ("consisti2v pan --sampler ", set(CHOICES["sampler"])),
        ("consisti2v pan --direction up", {"up", "up-left", "up-right"}),
        ("consisti2v zoom --ease in", {"in", "in-out"}),
        ("consisti2v animate --fit ", set(CHOICES["fit"])),
        ("consisti2v extend --chu", {"--chunks"}),
        ("consisti2v animate --no-", {"--no-compile", "--no-fast", "--no-frameinit", "--no-metadata"}),
        ("consisti2v completions ", set(SHELLS)),
    ],
)
def test_words(complete, line, expected):
    assert set(complete(line)[0]) == expected


@pytest.mark.parametrize(
    "line",
    [
        "consisti2v animate ph",
        "consisti2v animate photo.jpg ph",
        "consisti2v extend cl",
        "consisti2v pan ph",
        "consisti2v zoom ph",
        "consisti2v info cl",
        "consisti2v redo cl",
        "consisti2v redo clip.mp4 --input ph",
        "consisti2v animate --output cl",
        "consisti2v animate --recipe cl",
        "consisti2v animate --manifest ph",
        "consisti2v animate --config my",
    ],
)
def test_files(complete, line):
    """The shell is told to complete names of files itself."""
    answer = complete(line)[1]
    assert answer.startswith("file,"), answer


def test_a_model_of_the_cache_is_completed(complete, tiny_model, tmp_path):
    """A whole model in the hub's cache is offered by its repository's name."""
    storage = tmp_path / "hub" / "hub" / "models--someone--swaying"
    (storage / "refs").mkdir(parents=True)
    (storage / "refs" / "main").write_text("0" * 40)
    (storage / "snapshots").mkdir()
    (storage / "snapshots" / ("0" * 40)).symlink_to(tiny_model)
    assert complete("consisti2v animate --model so")[0] == ["someone/swaying"]


@pytest.mark.parametrize(
    ("line", "needed"),
    [
        ("consisti2v ", set()),
        ("consisti2v pan --direction ", set()),
        ("consisti2v animate --model s", {"huggingface_hub"}),  # knows where its cache is; its own imports are lazy
    ],
)
def test_nothing_heavy_is_imported(complete, line, needed):
    values, answer = complete(line, python=("-X", "importtime"))
    imported = {entry.rpartition("|")[2].strip().partition(".")[0] for entry in answer.splitlines() if "|" in entry}
    assert values
    assert "click" in imported
    assert not imported & (HEAVY - needed)


def test_a_broken_configuration_does_not_matter(complete, tmp_path):
    path = tmp_path / "config" / "consisti2v" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[animate\n")
    assert set(complete("consisti2v animate --model sk")[0]) == {"sketch"}


BASH = """
source {script}
COMP_WORDS=({line}); COMP_CWORD={last}
_consisti2v_completion consisti2v 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

ZSH = """
autoload -Uz compinit && compinit -u -d {folder}/zcompdump
compadd() {{ for word in "${{(@P)@[-1]}}"; do print -r -- $word; done }}
_describe() {{ for word in "${{(@P)@[-2]}}"; do print -r -- ${{word%%:*}}; done }}
source {script}
words=({line}); CURRENT={last}+1
_consisti2v_completion
"""

FISH = """
source {script}
complete --do-complete "{line}"
"""


@pytest.mark.parametrize(("shell", "template"), [("bash", BASH), ("zsh", ZSH), ("fish", FISH)])
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("consisti2v animate --model s", {"sketch"}),
        ("consisti2v pan --direction up", {"up", "up-left", "up-right"}),
        ("consisti2v comp", {"completions"}),
    ],
)
def test_in_the_shell_itself(program, tmp_path, shell, template, line, expected):
    executable = shutil.which(shell)
    if executable is None:
        pytest.skip(f"install the shell: apt-get install {shell}")
    script = template.format(
        script=SCRIPTS / f"consisti2v.{shell}", line=line, last=len(line.split()) - 1, folder=tmp_path
    )
    plain = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    shown = subprocess.run(
        [executable, *plain, "-c", script], env=program, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert {entry.split("\t")[0] for entry in shown.stdout.splitlines()} == expected, shown.stderr
