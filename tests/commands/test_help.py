"""Help is complete, offline and quick, and the README knows every command."""

import re
import sys
from pathlib import Path

import click
import pytest

from consisti2v_cli.commands import COMMANDS, consisti2v
from consisti2v_cli.commands.inputs import SUFFIXES
from consisti2v_cli.recipe import Recipe

HEAVY = {"PIL", "diffusers", "huggingface_hub", "numpy", "torch", "transformers"}
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def command_of(name: str) -> click.Command:
    command = consisti2v.get_command(click.Context(consisti2v), name)
    assert command is not None
    return command


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


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_imports_nothing_heavy(arguments, environment, tmp_path):
    import subprocess

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
    assert examples.count(f"consisti2v {name}") >= 2


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_has_every_command(name):
    assert f"consisti2v {name}" in README


def test_animate_has_an_option_for_every_choice_in_a_recipe():
    """What is not an option is found out, or is the same for all clips."""
    options = {parameter.name for parameter in command_of("animate").params}
    found_out = {"command", "revision", "input_name", "input_sha256", "versions", "width", "height", "noise"}
    assert set(Recipe.__dataclass_fields__) - found_out <= options


WRONG = {
    "animate": ["nowhere.jpg", "x"],
    "fetch-weights": ["no such model"],
    "train": ["network", "--config", "nowhere.toml", "-o", "model"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_vv_shows_where_an_error_was(run, name):
    assert "Traceback" not in run(name, *WRONG[name]).stderr
    assert "Traceback" in run(name, *WRONG[name], "-vv").stderr


def test_unknown_commands_and_options_are_wrong_requests(run):
    for arguments in (["animat"], ["animate", "a.jpg", "x", "--stepz", "3"]):
        shown = run(*arguments)
        assert shown.returncode == 2
        assert shown.stderr.startswith("Error: ")
        assert len(shown.stderr.splitlines()) <= 2
        assert shown.stdout == ""


def test_the_folder_suffixes_are_those_of_the_contract():
    assert {".jpg", ".png", ".webp", ".avif", ".tiff", ".bmp", ".gif"} <= set(SUFFIXES)
