"""Help is complete, offline and quick, and the README knows every command."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest

from consisti2v_cli.commands import COMMANDS, consisti2v, main
from consisti2v_cli.commands.values import FOUND_OUT
from consisti2v_cli.recipe import CHOICES, OWN, Recipe, own_fields

HEAVY = {"PIL", "diffusers", "huggingface_hub", "imageio_ffmpeg", "numpy", "torch", "transformers"}
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
MAKING = CHOICES["command"]

PARAMETERS = {  # of the command line, for the recipe's fields that have another name there
    "width": "size",
    "height": "size",
    "zoom": "zoom_in",
    "guidance_begin": "guidance_interval",
    "guidance_end": "guidance_interval",
    "center_x": "center",
    "center_y": "center",
}
FIXED = {"noise", "revision"}  # the same for all clips of a model


def command_of(name: str) -> click.Command:
    command = consisti2v.get_command(click.Context(consisti2v), name)
    assert command is not None
    return command


def parameters_of(name: str) -> set[str]:
    return {parameter.name for parameter in command_of(name).params}


def test_help_names_every_command(run):
    shown = run("--help")
    assert shown.returncode == 0
    assert shown.stderr == ""
    for name in COMMANDS:
        assert name in shown.stdout


def test_no_command_at_all_shows_help_and_is_a_wrong_request(run):
    shown = run()
    assert shown.returncode == 2
    assert "animate" in shown.stderr
    assert shown.stdout == ""


def test_a_misspelled_command(run):
    shown = run("animite", "boat.jpg", "x")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.splitlines()[0] == "Error: No such command 'animite'; did you mean animate?"
    assert run("fly").stderr.splitlines()[0] == "Error: No such command 'fly'."


def test_a_file_that_looks_like_an_option(run, tmp_path):
    (tmp_path / "-dash.jpg").touch()
    shown = run("pan", "-dash.jpg", "--layout-only")
    assert shown.returncode == 2
    assert shown.stderr == "Error: -dash.jpg is read as an option; write ./-dash.jpg for the file of that name.\n"
    assert "No such option" in run("pan", "-xyz.jpg", "--layout-only").stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_imports_nothing_heavy(arguments, environment, tmp_path):
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "consisti2v_cli", *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in shown.stderr.splitlines()}
    assert "click" in imported
    assert not imported & HEAVY


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_the_default_of_every_option(name):
    command = command_of(name)
    context = click.Context(command, info_name=name)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            record = parameter.get_help_record(context)
            assert record is not None
            assert parameter.required or re.search(r"\[.*default: .*\]", record[1]), record


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_examples(name, run):
    shown = run(name, "--help")
    assert shown.returncode == 0
    _, found, examples = shown.stdout.partition("Examples:")
    assert found
    assert examples.count(f"consisti2v {name}") in (2, 3)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_has_every_command(name):
    assert f"consisti2v {name}" in README


@pytest.mark.parametrize("name", MAKING)
def test_there_is_an_option_for_every_field_of_a_commands_recipe(name):
    """What is not an option is found out, or is the same for all clips."""
    asked = own_fields(name) - FOUND_OUT - FIXED
    assert {PARAMETERS.get(field, field) for field in asked} <= parameters_of(name)


def test_redo_has_an_option_for_every_field_of_any_recipe():
    asked = set(Recipe.__dataclass_fields__) - FOUND_OUT - FIXED
    assert {PARAMETERS.get(field, field) for field in asked} <= parameters_of("redo")


@pytest.mark.parametrize("name", MAKING)
def test_no_command_has_an_option_that_means_something_to_others_only(name):
    others = {PARAMETERS.get(field, field) for field, owners in OWN.items() if name not in owners}
    assert not others & parameters_of(name)


WRONG = {
    "animate": ["nowhere.jpg", "x"],
    "extend": ["nowhere.jpg", "x"],
    "pan": ["nowhere.jpg", "x"],
    "zoom": ["nowhere.jpg", "x"],
    "redo": ["nowhere.mp4"],
    "info": ["nowhere.mp4"],
    "fetch-weights": ["no such model"],
    "doctor": ["--config", "nowhere.toml"],
    "evaluate": ["nowhere"],
    "train": ["network", "--config", "nowhere.toml", "-o", "model"],
    "completions": ["bash", "--all", "scripts"],
}


@pytest.fixture
def call(environment, tmp_path, monkeypatch, capsys):
    """Runs a command line in this process: exit code, stdout, stderr."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
            main(arguments)
        return ended.value.code, *capsys.readouterr()

    return call


@pytest.mark.parametrize("name", COMMANDS)
def test_vv_shows_where_an_error_was(call, name):
    code, out, err = call(name, *WRONG[name], "-q")
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert len(err.splitlines()) <= 2
    assert "Traceback" not in err
    code, out, err = call(name, *WRONG[name], "-vv")
    assert (code, out) == (2, "")
    assert "Traceback" in err


def test_unknown_commands_and_options_are_wrong_requests(run):
    for arguments in (["animat"], ["animate", "a.jpg", "x", "--stepz", "3"]):
        shown = run(*arguments)
        assert shown.returncode == 2
        assert shown.stderr.startswith("Error: ")
        assert len(shown.stderr.splitlines()) <= 2
        assert shown.stdout == ""
