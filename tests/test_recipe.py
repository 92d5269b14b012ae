"""A recipe says what is possible, and comes back from JSON as it was."""

import dataclasses
import json

import pytest

from consisti2v_cli.errors import RequestError
from consisti2v_cli.recipe import (
    CHOICES,
    OF_MODEL,
    OWN,
    RANGES,
    Recipe,
    check,
    from_json,
    own_fields,
    same_clip,
    spelled,
    to_dict,
    to_json,
)

RECIPE = Recipe(prompt="the boat drifts left", seed=7)
EXTEND = dataclasses.replace(RECIPE, command="extend", chunks=3, prompt_at={"2": "it stops"}, anchor=0.5)


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


def test_a_layout_needs_no_prompt():
    check(dataclasses.replace(RECIPE, command="pan", prompt="", layout_only=True))


@pytest.mark.parametrize("chunk", ["0", "4", "-1", "two", "", "1.5"])
def test_prompts_at_chunks_that_are_not_there(chunk):
    with pytest.raises(RequestError, match="1 to 3"):
        check(dataclasses.replace(EXTEND, prompt_at={chunk: "it stops"}))


def test_an_empty_prompt_at_a_chunk():
    check(EXTEND)
    with pytest.raises(RequestError, match="chunk 2 is empty"):
        check(dataclasses.replace(EXTEND, prompt_at={"2": " "}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("quality", 8.5), ("quality", "high"), ("max_size", 8e6), ("smooth", "30"), ("layout_only", 1), ("join", None)],
)
def test_values_of_the_wrong_kind(name, value):
    with pytest.raises(RequestError, match=f"{spelled(name)}.*wrong kind"):
        check(dataclasses.replace(RECIPE, **{name: value}))


@pytest.mark.parametrize("command", CHOICES["command"])
def test_json_and_back(command):
    own = {
        "animate": {},
        "extend": {"chunks": 9, "prompt_at": {"2": "böat"}, "anchor": 0.5, "start": "latent", "join": True},
        "pan": {"direction": "up-left", "amount": 0.7, "ease": "in"},
        "zoom": {"zoom": "out", "ratio": 2.5, "center_x": 0.1, "center_y": 1.0, "ease": "in-out"},
    }[command]
    shared = {"width": 128, "height": 64, "fps": 7.5, "revision": "abc", "versions": {"torch": "2.13.0"}}
    files = {"quality": 40, "max_size": 8_000_000, "smooth": 24.0}
    recipe = Recipe(prompt="böat \N{SAILBOAT}", seed=7, command=command, **own, **shared, **files)
    assert from_json(to_json(recipe)) == recipe
    assert "\n" not in to_json(recipe)


@pytest.mark.parametrize("command", CHOICES["command"])
def test_json_has_the_fields_that_mean_something_to_the_command(command):
    written = to_dict(dataclasses.replace(RECIPE, command=command))
    assert list(written)[:2] == ["prompt", "seed"]
    assert set(written) == own_fields(command) == set(json.loads(to_json(dataclasses.replace(RECIPE, command=command))))
    strangers = {name for name, owners in OWN.items() if command not in owners}
    assert set(Recipe.__dataclass_fields__) - set(written) == strangers


def test_a_layouts_json_has_nothing_of_a_model():
    layout = dataclasses.replace(RECIPE, command="pan", direction="up", layout_only=True, width=64, height=48)
    written = to_dict(dataclasses.replace(layout, steps=9, device="cuda", model="other"))
    assert set(written) == own_fields("pan") - OF_MODEL
    assert from_json(to_json(layout)) == layout


def test_the_same_clip():
    assert same_clip(RECIPE, dataclasses.replace(RECIPE, versions={"torch": "1"}))
    assert same_clip(RECIPE, dataclasses.replace(RECIPE, direction="up"))  # which means nothing to animate
    assert not same_clip(RECIPE, dataclasses.replace(RECIPE, seed=8))
    assert same_clip(RECIPE, dataclasses.replace(RECIPE, seed=8), any_seed=True)
    assert not same_clip(RECIPE, dataclasses.replace(RECIPE, input_sha256="ab"))
    assert not same_clip(EXTEND, dataclasses.replace(EXTEND, prompt_at={}))


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
        (json.dumps({"prompt": "x", "seed": 1, "prompt_at": ["it stops"]}), "prompt_at"),
        (json.dumps({"prompt": "x", "seed": 1, "max_size": True}), "max_size"),
        ('{"prompt": "x", "seed": ' + "1" * 10_000 + "}", "JSON"),
        ('{"prompt": ' * 100_000, "JSON"),
    ],
)
def test_json_that_is_no_recipe_is_refused(text, message):
    with pytest.raises(RequestError, match=message):
        from_json(text)
