"""A recipe says what is possible, and comes back from JSON as it was."""

import dataclasses
import json

import pytest

from consisti2v_cli.errors import RequestError
from consisti2v_cli.recipe import CHOICES, RANGES, Recipe, check, from_json, to_json

RECIPE = Recipe(prompt="the boat drifts left", seed=7)


def test_the_defaults_are_possible():
    check(RECIPE)


@pytest.mark.parametrize("name", RANGES)
def test_numbers_out_of_range_are_refused_with_the_range(name):
    low, high = RANGES[name]
    for value in (low - 1, high + 1, float("nan")):
        with pytest.raises(RequestError, match=f"{low} to {high}") as caught:
            check(dataclasses.replace(RECIPE, **{name: value}))
        assert name.replace("_", "-") in str(caught.value)


@pytest.mark.parametrize("name", CHOICES)
def test_unknown_words_are_refused_with_the_known_ones(name):
    with pytest.raises(RequestError) as caught:
        check(dataclasses.replace(RECIPE, **{name: "nonsense"}))
    assert all(word in str(caught.value) for word in (*CHOICES[name], "nonsense", name))


@pytest.mark.parametrize("name", ["width", "height"])
def test_sides_are_multiples_of_8(name):
    check(dataclasses.replace(RECIPE, **{name: 136}))
    with pytest.raises(RequestError, match=r"130.*128 and 136"):
        check(dataclasses.replace(RECIPE, **{name: 130}))


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "mps"])
def test_devices(device):
    check(dataclasses.replace(RECIPE, device=device))


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_unknown_devices_are_refused(device):
    with pytest.raises(RequestError, match="cpu, cuda, mps"):
        check(dataclasses.replace(RECIPE, device=device))


def test_an_empty_prompt_is_refused():
    with pytest.raises(RequestError, match="prompt is empty"):
        check(dataclasses.replace(RECIPE, prompt="  "))


def test_json_and_back():
    recipe = dataclasses.replace(
        RECIPE, prompt="böat \N{SAILBOAT}", width=128, height=64, fps=7.5, revision="abc", versions={"torch": "2.13.0"}
    )
    assert from_json(to_json(recipe)) == recipe
    assert "\n" not in to_json(recipe)


def test_json_may_leave_out_what_has_a_default():
    assert from_json('{"prompt": "the boat drifts left", "seed": 7}') == RECIPE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "JSON"),
        ("[]", "object"),
        ('{"prompt": "x"}', "seed"),
        (json.dumps({"prompt": "x", "seed": 1, "stepz": 2}), "stepz"),
        (json.dumps({"prompt": "x", "seed": "1"}), "seed"),
        (json.dumps({"prompt": "x", "seed": True}), "seed"),
        (json.dumps({"prompt": "x", "seed": 1.5}), "seed"),
        (json.dumps({"prompt": "x", "seed": 1, "frameinit": 1}), "frameinit"),
        (json.dumps({"prompt": "x", "seed": 1, "guidance": "high"}), "guidance"),
        ('{"prompt": "x", "seed": 1, "guidance": Infinity}', "guidance"),
        (json.dumps({"prompt": "x", "seed": 1, "width": "128"}), "width"),
        (json.dumps({"prompt": "x", "seed": 1, "versions": {"torch": 2}}), "versions"),
    ],
)
def test_json_that_is_no_recipe_is_refused(text, message):
    with pytest.raises(RequestError, match=message):
        from_json(text)
