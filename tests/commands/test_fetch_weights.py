"""`consisti2v fetch-weights` through the real executable. Downloads themselves: tests/weights/test_hub.py."""

import pytest


def test_a_model_that_is_here_is_named_by_its_folder(run, tiny_model):
    shown = run("fetch-weights", tiny_model)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == f"{tiny_model}\n"
    assert "GB" in shown.stderr
    assert run("fetch-weights", tiny_model, "-q").stderr == ""


@pytest.mark.parametrize("arguments", [[], ["someone/something"]])
def test_without_a_network_nothing_is_fetched(run, arguments):
    shown = run("fetch-weights", *arguments)
    assert shown.returncode == 3
    assert shown.stderr.startswith("Error: ")
    assert (arguments or ["consisti2v"])[0] in shown.stderr
    assert len(shown.stderr.splitlines()) <= 2
    assert shown.stdout == ""


def test_nonsense_is_a_wrong_request(run):
    shown = run("fetch-weights", "no such model")
    assert shown.returncode == 2
    assert "no such model" in shown.stderr


def test_an_incomplete_folder(run, model_copy):
    (model_copy / "vae" / "config.json").unlink()
    shown = run("fetch-weights", model_copy)
    assert shown.returncode == 3
    assert "vae/config.json" in shown.stderr
