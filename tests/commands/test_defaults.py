"""Where an option's value comes from: option, environment, configuration file, the model's own."""

import json

import click
import pytest

from consisti2v_cli.commands import COMMANDS, consisti2v
from consisti2v_cli.commands.config import CONFIGURED
from consisti2v_cli.recipe import FAST


@pytest.fixture
def plan(run, boat, tiny_model):
    """The recipe that a dry run plans."""

    def plan(*arguments, **settings):
        planned = run(
            "animate", boat, "moves left", "--model", tiny_model, "--dry-run", "--json", *arguments, **settings
        )
        assert planned.returncode == 0, planned.stderr
        return json.loads(planned.stdout)["recipe"]

    return plan


@pytest.fixture
def config(tmp_path):
    """A configuration file where the user's would be."""
    path = tmp_path / "config" / "consisti2v" / "config.toml"
    path.parent.mkdir(parents=True)

    def write(text):
        path.write_text(text)
        return path

    return write


def test_precedence(plan, config):
    model_steps = plan()["steps"]
    assert model_steps not in (31, 32, 33)
    config("[animate]\nsteps = 31\n")
    assert plan()["steps"] == 31
    assert plan(env={"CONSISTI2V_ANIMATE_STEPS": "32"})["steps"] == 32
    assert plan("--steps", "33", env={"CONSISTI2V_ANIMATE_STEPS": "32"})["steps"] == 33
    assert plan("--steps", model_steps, env={"CONSISTI2V_ANIMATE_STEPS": "32"})["steps"] == model_steps


def test_a_recipe_comes_between_environment_and_configuration(plan, config, tmp_path):
    recipe = {"prompt": "rises", "seed": 5, "steps": 34, "guidance": 3.0, "motion": 4, "fit": "pad", "quality": 40}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    config("[animate]\nsteps = 31\nguidance = 9\nfps = 30\n")
    found = plan("--recipe", "recipe.json", "--fit", "crop", env={"CONSISTI2V_ANIMATE_GUIDANCE": "7.5"})
    expected = {
        "prompt": "moves left",
        "seed": 5,
        "steps": 34,
        "guidance": 7.5,
        "motion": 4,
        "fit": "crop",
        "quality": 40,
    }
    assert {name: found[name] for name in expected} == expected


def test_a_seed_that_counts_from_a_recipes(plan, run, boat, tmp_path):
    (tmp_path / "recipe.json").write_text('{"prompt": "rises", "seed": 5}')
    assert plan("--recipe", "recipe.json", "--seed", "+2")["seed"] == 7
    without = run("animate", boat, "moves left", "--seed", "+2", "--dry-run")
    assert without.returncode == 2
    assert "+2" in without.stderr


def test_a_model_without_settings_of_its_own_takes_the_papers(plan, tiny_model, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for part in tiny_model.iterdir():
        if part.name != "consisti2v.json":
            (bare / part.name).symlink_to(part)
    recipe = plan("--model", bare)
    expected = {"frames": 16, "fps": 8, "steps": 50, "guidance": 7.5, "layout_strength": 850, "layout_cutoff": 0.25}
    assert {name: recipe[name] for name in expected} == expected


def test_a_named_configuration_file(plan, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[animate]\nlayout-strength = 700\nlayout_cutoff = 0.5\nframeinit = false\nsize = "64x32"\n')
    recipe = plan("--config", file)
    assert recipe["layout_strength"] == 700
    assert recipe["layout_cutoff"] == 0.5
    assert recipe["frameinit"] is False
    assert (recipe["width"], recipe["height"]) == (64, 32)


def test_formats_from_a_configuration_file(run, boat, tiny_model, config):
    config('[animate]\nformat = "gif"\n')
    planned = run("animate", boat, "moves left", "--model", tiny_model, "--dry-run", "--json")
    assert json.loads(planned.stdout)["outputs"] == ["boat.gif"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[animate]\nstepz = 3\n", "stepz"),
        ("[animat]\nsteps = 3\n", "animat"),
        ("[doctor]\njson = true\n", "unknown table [doctor]"),
        ("[train]\nsteps = 3\n", "unknown table [train]"),
        ("animate = 3\n", "[animate]"),
        ("[animate\n", "TOML"),
        ('[animate]\nsteps = "many"\n', "many"),
        ("[animate]\nsteps = 0\n", "steps"),
        ("[animate]\nsteps = true\n", "steps = True must be text or a number"),
        ("[animate]\nsteps = 1.5\n", "1.5"),
        ("[animate]\nsize = [128, 96]\n", "size = [128, 96] must be one value"),
        ("[animate]\nformat = []\n", "format = [] must be one value"),
        ("[animate]\njson = 1\n", "json = 1 must be true or false"),
    ],
)
def test_wrong_configuration_files_are_wrong_requests(run, boat, config, text, message):
    config(text)
    shown = run("animate", boat, "moves left", "--dry-run")
    assert shown.returncode == 2
    assert message in shown.stderr
    assert len(shown.stderr.splitlines()) <= 2


def test_the_commands_with_a_table_are_those_that_read_it(call, config):
    path = config("[animat]\n")
    reading = {name for name in COMMANDS if "[animat]" in call(name, "--config", path).stderr}
    assert reading - {"doctor"} == set(CONFIGURED)  # which examines it


def test_a_missing_configuration_file_that_was_named(run, boat):
    shown = run("animate", boat, "moves left", "--config", "nowhere.toml")
    assert shown.returncode == 2
    assert "nowhere.toml" in shown.stderr


def test_help_works_whatever_the_configuration_says(run, config):
    config("[animate\n")
    assert run("animate", "--help").returncode == 0


def test_wrong_values_in_the_environment_name_the_option(run, boat):
    shown = run("animate", boat, "moves left", env={"CONSISTI2V_ANIMATE_MOTION": "9"})
    assert shown.returncode == 2
    assert "--motion" in shown.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_its_variable_in_the_environment(name, monkeypatch):
    parent = click.Context(consisti2v, auto_envvar_prefix="CONSISTI2V")
    context = click.Context(consisti2v.get_command(parent, name), parent=parent, info_name=name)
    options = [entry for entry in context.command.params if isinstance(entry, click.Option)]
    spellings = [(entry, text) for entry in options for text in (*entry.opts, *entry.secondary_opts)]
    for option, spelling in spellings:
        if spelling.startswith("--"):
            variable = f"CONSISTI2V_{name}_{spelling.removeprefix('--')}".upper().replace("-", "_")
            assert option.resolve_envvar_value(context) is None
            with monkeypatch.context() as patch:
                patch.setenv(variable, "1")
                assert option.resolve_envvar_value(context) == ("1" if spelling in option.opts else "False"), variable


def test_switches_and_formats_from_the_environment(run, boat, tiny_model):
    variables = {"FORMAT": "mp4 gif", "JSON": "1", "DRY_RUN": "yes", "NO_FRAMEINIT": "true", "MODEL": str(tiny_model)}
    planned = run(
        "animate", boat, "moves left", env={f"CONSISTI2V_ANIMATE_{name}": value for name, value in variables.items()}
    )
    plan = json.loads(planned.stdout)
    assert plan["outputs"] == ["boat.mp4", "boat.gif"]
    assert plan["recipe"]["frameinit"] is False
    wrong = run("animate", boat, "moves left", env={"CONSISTI2V_ANIMATE_NO_METADATA": "perhaps"})
    assert wrong.returncode == 2
    assert "'--metadata': 'perhaps' is not possible; possible: yes or no." in wrong.stderr
    wrong = run("animate", boat, "moves left", env={"CONSISTI2V_ANIMATE_QUIET": "perhaps"})
    assert "'perhaps' is not possible; possible: yes or no. It comes from the environment." in wrong.stderr


def test_recipes_may_lack_prompt_and_seed_and_their_errors_name_the_file(plan, run, boat, tmp_path):
    (tmp_path / "recipe.json").write_text('{"steps": 34}')
    found = plan("--recipe", "recipe.json")
    assert (found["prompt"], found["steps"]) == ("moves left", 34)
    shown = run("animate", boat, "moves left", "--recipe", "recipe.json", "--dry-run")
    assert shown.stderr.startswith("Seed: ")
    for text in ('{"stpes": 3}', "{", '{"seed": "x"}'):
        (tmp_path / "recipe.json").write_text(text)
        shown = run("animate", boat, "moves left", "--recipe", "recipe.json", "--dry-run")
        assert shown.returncode == 2
        assert shown.stderr.startswith("Error: recipe.json: ")


def planned(call, *arguments):
    shown = call("animate", *arguments, "--model", "sketch", "--dry-run", "--json")
    assert shown.returncode == 0, shown.stderr
    return {name: json.loads(shown.stdout)["recipe"][name] for name in FAST}


def test_fast_and_what_wins_over_it(call, boat, tmp_path):
    """What is given beside it always; configured, it yields to recipes, and to what else is configured."""
    asked = [boat, "waves", "--seed", "1"]
    usual = planned(call, *asked)
    assert usual != FAST
    assert planned(call, *asked, "--fast") == FAST
    assert planned(call, *asked, "--fast", "--steps", "7") == FAST | {"steps": 7}
    (tmp_path / "old.json").write_text(json.dumps({"prompt": "old", "seed": 3, **usual}))
    assert planned(call, *asked, "--recipe", "old.json") == usual
    assert planned(call, *asked, "--recipe", "old.json", "--fast") == FAST
    for steps, reuse in ((9, 3), (50, 1)):  # the second are the built-in defaults
        (tmp_path / "fast.toml").write_text(f"[animate]\nfast = true\nsteps = {steps}\nreuse = {reuse}\n")
        assert planned(call, *asked, "--config", "fast.toml") == FAST | {"steps": steps, "reuse": reuse}
    assert planned(call, *asked, "--config", "fast.toml", "--recipe", "old.json") == usual
    (tmp_path / "fast.toml").write_text("[animate]\nfast = true\n")
    assert planned(call, *asked, "--config", "fast.toml") == FAST
    assert planned(call, *asked, "--config", "fast.toml", "--no-fast") == planned(call, *asked)
