"""The README's tables of options say what the commands say."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from consisti2v_cli.commands import COMMANDS, consisti2v
from consisti2v_cli.commands.reference import BEGIN, END, MAKING, renewed, rows, tables
from consisti2v_cli.errors import RequestError
from consisti2v_cli.recipe import CHOICES

README = Path(__file__).parents[2] / "README.md"


def sections() -> dict[str, list[list[str]]]:
    """Title: cells of each row."""
    found: dict[str, list[list[str]]] = {}
    for line in tables().splitlines():
        if line.startswith("**"):
            found[line.strip("*")] = []
        elif line.startswith("| `"):
            found[list(found)[-1]].append(re.split(r"(?<!\\)\| ", line.strip("| ")))
    return found


def test_the_readme_is_current():
    """Where this fails: python -m consisti2v_cli.commands.reference README.md"""
    text = README.read_text(encoding="utf-8")
    assert renewed(text) == text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_a_table_of_its_command(name):
    command = consisti2v.get_command(click.Context(consisti2v), name)
    found = sections()
    own = [row for title, entries in found.items() if f"`{name}`" in title or title == name for row in entries]
    if name == "redo":
        own += [row for entries in found.values() for row in entries]
    listed = " ".join(row[0] for row in own) + tables().splitlines()[-1]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            for spelling in (*parameter.opts, *parameter.secondary_opts):
                assert re.search(rf"(?<![\w-]){re.escape(spelling)}(?![\w-])", listed), spelling


def test_the_shared_table_comes_first_and_nothing_of_it_again():
    (title, shared), *others = sections().items()
    assert all(f"`{name}`" in title for name in MAKING)
    names = {row[0].strip() for row in shared}
    assert any("--seed" in name for name in names)
    for title, entries in others:
        if title.strip("`") in MAKING:
            assert not names & {row[0].strip() for row in entries}, title


def test_a_row_tells_meaning_range_choices_and_default():
    told = {name.strip("`"): (meaning, default) for name, meaning, default in rows("animate")}
    assert set(MAKING) == set(CHOICES["command"])
    meaning, default = told["--motion N"]
    assert "1 to 5" in meaning
    assert "3" in default
    assert told["--fit crop|pad|stretch"][1] == "crop"
    assert told["--frameinit / --no-frameinit"][1] == "`--frameinit`"
    assert told["-o, --output PATH"][1] == "{name}"
    assert all(meaning and default for meaning, default in told.values())


def test_bars_do_not_split_cells():
    for entries in sections().values():
        assert all(len(row) == 3 for row in entries)
    assert "`--fit crop\\|pad\\|stretch`" in tables()


def test_a_file_is_brought_up_to_date(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    subprocess.run([sys.executable, "-m", "consisti2v_cli.commands.reference", path], check=True)
    text = path.read_text()
    assert text == f"before\n\n{BEGIN}\n\n{tables()}\n\n{END}\n\nafter\n"
    assert renewed(text) == text
    assert [entry.name for entry in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize("text", ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n"])
def test_texts_without_a_place_for_tables(text):
    with pytest.raises(RequestError, match="options"):
        renewed(text)
