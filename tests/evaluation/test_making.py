"""The clips of an evaluation: what is missing is made, what is there stays, and a run that was ended goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from consisti2v_cli.errors import RequestError
from consisti2v_cli.evaluation import making
from consisti2v_cli.evaluation.ablations import VARIANTS, WHOLE
from consisti2v_cli.evaluation.clips import find_clips
from consisti2v_cli.evaluation.datasets import Sample, first_frame
from consisti2v_cli.evaluation.making import Made, OneModel, make_missing
from consisti2v_cli.evaluation.protocols import UCF101
from consisti2v_cli.media.video import read_video, write_video
from consisti2v_cli.render import animate
from consisti2v_cli.weights.folder import ModelFolder
from consisti2v_cli.weights.load import load_model

PROTOCOL = replace(UCF101, size=32, frames=4)
SETTINGS = {"steps": 1, "device": "cpu", "dtype": "fp32"}


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSISTI2V_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("CONSISTI2V_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Iterator[object]:
    return load_model(ModelFolder(tiny_model, "tiny"))


@pytest.fixture
def model(loaded, tiny_model: Path) -> OneModel:
    return OneModel(loaded.folder, loaded=loaded)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Three videos, one of them in a folder."""
    folder = tmp_path_factory.mktemp("videos")
    frames = np.random.default_rng(0).integers(0, 256, (6, 40, 56, 3), dtype=np.uint8)
    made = []
    for number, name in enumerate(("boat", "deep/0001", "cat.b")):
        path = write_video(folder / f"{name}.mp4", np.roll(frames, number, axis=0), 25)
        made.append(Sample(name, path, 0.4, f"the boat drifts {number}", "", 100 + number))
    return made


def marks(folder: Path) -> dict[str, int]:
    """When each file was written."""
    return {path.relative_to(folder).as_posix(): os.stat(path).st_mtime_ns for path in sorted(folder.rglob("*.*"))}


def test_clips_are_made_as_animate_makes_them(samples, model, tmp_path: Path) -> None:
    heard: list[Made] = []
    made = make_missing(samples, tmp_path / "out", SETTINGS, model, PROTOCOL, on_clip=heard.append)
    assert heard == made
    assert [clip.sample for clip in made] == samples
    assert all(clip.fresh and not clip.problem for clip in made)
    assert set(marks(tmp_path / "out")) == {
        f"{sample.name}{ending}" for sample in samples for ending in (".mp4", ".first.png")
    }
    picture = tmp_path / "out" / "boat.first.png"
    assert (np.asarray(Image.open(picture)) == first_frame(samples[0], 32)).all()
    direct = animate(
        picture, "the boat drifts 0", seed=100, model=model.loaded, width=32, height=32, frames=4, fps=8, steps=1
    )
    direct.save(tmp_path / "direct.mp4")
    assert (read_video(made[0].path)[0] == read_video(tmp_path / "direct.mp4")[0]).all()
    assert made[0].recipe == direct.recipe
    assert read_video(made[0].path)[0].shape == (4, 32, 32, 3)


def test_they_can_be_judged(samples, model, tmp_path: Path) -> None:
    """Also against the picture that lies beside them; a name of digits alone is no frame of a film."""
    make_missing(samples, tmp_path / "out", SETTINGS, model, PROTOCOL)
    clips = {clip.name: clip for clip in find_clips(tmp_path / "out")}
    assert set(clips) == {f"{sample.name}.mp4" for sample in samples}
    assert (clips["deep/0001.mp4"].first_picture(32, 32) == first_frame(samples[1], 32)).all()


def test_what_is_there_is_not_made_again(samples, model, tmp_path: Path, monkeypatch) -> None:
    first = make_missing(samples, tmp_path / "out", SETTINGS, model, PROTOCOL)
    before = marks(tmp_path / "out")
    monkeypatch.setattr("consisti2v_cli.render.render", lambda *_, **__: pytest.fail("made again"))
    monkeypatch.setattr(making, "first_frame", lambda *_: pytest.fail("decoded again"))
    again = make_missing(samples, tmp_path / "out", SETTINGS, model, PROTOCOL)
    assert [clip.fresh for clip in again] == [False] * 3
    assert [clip.recipe for clip in again] == [clip.recipe for clip in first]
    assert marks(tmp_path / "out") == before


def test_a_run_that_was_ended_goes_on(samples, model, tmp_path: Path) -> None:
    steps = []

    def stop(stage: str, done: int, total: int) -> None:
        """In the midst of the second clip."""
        steps.append((stage, done))
        if steps.count(("steps", 0)) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_missing(samples, tmp_path / "out", SETTINGS, model, PROTOCOL, on_event=stop)
    before = marks(tmp_path / "out")
    assert {name for name in before if name.endswith(".mp4")} == {"boat.mp4"}
    made = make_missing(samples, tmp_path / "out", SETTINGS, model, PROTOCOL)
    assert [clip.fresh for clip in made] == [False, True, True]
    after = marks(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    whole = make_missing(samples, tmp_path / "other", SETTINGS, model, PROTOCOL)
    for one, other in zip(made, whole, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()


def test_the_model_is_loaded_once_and_only_where_it_is_needed(samples, tiny_model: Path, tmp_path, monkeypatch) -> None:
    loads = []
    load = load_model

    def counted(*arguments, **options):
        loads.append(1)
        return load(*arguments, **options)

    monkeypatch.setattr("consisti2v_cli.render.load_model", counted)
    make = (samples, tmp_path / "out", SETTINGS)
    one = OneModel(ModelFolder(tiny_model, "tiny"))
    make_missing(*make, one, PROTOCOL)
    make_missing(samples, tmp_path / "other", SETTINGS, one, PROTOCOL, variant=VARIANTS[1])
    assert loads == [1]
    make_missing(*make, OneModel(ModelFolder(tiny_model, "tiny")), PROTOCOL)
    assert loads == [1]


def test_what_was_made_otherwise_is_neither_taken_nor_overwritten_unasked(samples, model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_missing(samples[1:2], out, SETTINGS, model, PROTOCOL)
    before = marks(out)
    with pytest.raises(RequestError, match=r"0001.mp4 is there already, .* \(guidance 3.0, not 2\)"):
        make_missing(samples, out, {**SETTINGS, "guidance": 2}, model, PROTOCOL)
    with pytest.raises(RequestError, match=r"\(ConsistI2V, not w/o FrameInit & T.Cond.\)"):
        make_missing(samples, out, {**SETTINGS, "frameinit": True}, model, PROTOCOL, variant=VARIANTS[2])
    moved = [replace(sample, draw=0.9) for sample in samples]
    assert {name: mark for name, mark in marks(out).items() if name.endswith(".mp4")} == {
        name: mark for name, mark in before.items() if name.endswith(".mp4")
    }
    with pytest.raises(RequestError, match="input-sha256"):
        make_missing(moved, out, SETTINGS, model, PROTOCOL)
    made = make_missing(samples, out, {**SETTINGS, "guidance": 2}, model, PROTOCOL, overwrite=True)
    assert [clip.fresh for clip in made] == [True] * 3
    (out / "boat.mp4").write_bytes(b"damaged")
    with pytest.raises(RequestError, match="has no recipe"):
        make_missing(samples, out, {**SETTINGS, "guidance": 2}, model, PROTOCOL)


def test_one_video_that_cannot_be_read_ends_nothing(samples, model, tmp_path: Path) -> None:
    (tmp_path / "broken.avi").write_bytes(b"no film at all")
    bad = [
        Sample("broken", tmp_path / "broken.avi", 0.5, "p", "", 1),
        Sample("gone", tmp_path / "gone.avi", 0.5, "p", "", 2),
    ]
    made = make_missing([*bad, samples[0]], tmp_path / "out", SETTINGS, model, PROTOCOL)
    assert [bool(clip.problem) for clip in made] == [True, True, False]
    assert "broken.avi" in made[0].problem
    assert "gone.avi cannot be read" in made[1].problem
    assert [clip.recipe is None for clip in made] == [True, True, False]


@pytest.mark.parametrize(
    ("settings", "said"), [({"steps": 0}, "steps is 0"), ({"step": 5}, "'step'"), ({"width": 33}, "width is 33")]
)
def test_wrong_settings_are_said_once(samples, model, tmp_path: Path, settings, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        make_missing(samples, tmp_path / "out", {**SETTINGS, **settings}, model, PROTOCOL)
    assert not (tmp_path / "out").exists()


def test_variants_make_other_clips_of_the_same_inputs(samples, model, tmp_path: Path) -> None:
    clips = {}
    for variant in VARIANTS:
        (clips[variant],) = make_missing(
            samples[:1], tmp_path / variant.key, SETTINGS, model, PROTOCOL, variant=variant
        )
    recipes = [clip.recipe for clip in clips.values()]
    assert len({(recipe.input_sha256, recipe.prompt, recipe.seed) for recipe in recipes}) == 1
    assert [recipe.frameinit for recipe in recipes] == [True, False, False, False]
    frames = [read_video(clip.path)[0].astype(int) for clip in clips.values()]
    changes = [np.abs(one - other).max() for one, other in pairwise(frames)]
    assert min(changes) > 0
    told = find_clips(tmp_path / VARIANTS[3].key)[0].recipe
    assert told.versions["ablation"] == "w/o FrameInit & T.Cond. & S.Cond."
    (again,) = make_missing(samples[:1], tmp_path / "whole", SETTINGS, model, PROTOCOL, overwrite=True, variant=WHOLE)
    assert not again.fresh
    assert again.recipe.versions.keys() == {"consisti2v", "torch", "diffusers", "transformers"}


def test_nothing_is_left_among_clips_of_another_kind(samples, model, tmp_path: Path) -> None:
    own = tmp_path / "own"
    write_video(own / "boat.mp4", np.zeros((3, 32, 32, 3), np.uint8), 8)
    with pytest.raises(RequestError, match="it has no recipe"):
        make_missing(samples, own, SETTINGS, model, PROTOCOL)
    assert set(marks(own)) == {"boat.mp4"}
