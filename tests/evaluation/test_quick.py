"""Scores of clips that are known without any library."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from known_clips import COUNT, KINDS, flicker, photo, write_all
from PIL import Image

from consisti2v_cli.errors import RequestError
from consisti2v_cli.evaluation import extractors, quick, report, run
from consisti2v_cli.evaluation.clips import find_clips
from consisti2v_cli.evaluation.quick import QUICK
from consisti2v_cli.evaluation.run import Judged, choose_measures, judge
from consisti2v_cli.layout import camera_frames
from consisti2v_cli.media.video import write_video
from consisti2v_cli.recipe import Recipe, to_json
from consisti2v_cli.state import content_sha256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("known") / "clips")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSISTI2V_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("CONSISTI2V_STATE", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module")
def judged(folder: Path) -> dict[str, Judged]:
    return {clip.name: clip for clip in judge(find_clips(folder), QUICK)}


def values(clip: Judged) -> dict[str, float | bool]:
    return clip.scores.values


def test_every_clip_is_measured(judged: dict[str, Judged]) -> None:
    assert set(judged) == set(KINDS)
    for clip in judged.values():
        assert (clip.frames, clip.width, clip.height) == (len(KINDS[clip.name]()), 128, 128)
        lacking = {measure.key for measure in QUICK} - values(clip).keys()
        assert lacking == {"first_frame_psnr", "first_frame_ssim"} | ({"loop_seam"} if clip.name == "still" else set())
        assert {clip.scores.reasons[key] for key in lacking} <= {"no recipe", "a still picture has no seam"}


def test_a_still_clip_is_perfect_and_does_not_move(judged: dict[str, Judged]) -> None:
    found = values(judged["still"])
    assert found["flickering"] == found["smoothness_dis"] == 1
    assert found["consistency_efficientnet"] == pytest.approx(1, abs=1e-5)
    assert found["dynamic_dis"] is False
    assert found["motion_dis"] == found["colour_drift"] == 0
    assert found["sharpness"] == pytest.approx(1)


def test_flicker_costs_as_much_as_it_changes(judged: dict[str, Judged]) -> None:
    assert values(judged["flicker"])["flickering"] == pytest.approx((255 - 10) / 255)
    assert values(judged["flicker"])["colour_drift"] == pytest.approx(10)
    assert values(judged["flicker"])["dynamic_dis"] is False
    assert judged["flicker"].scores.series["change"] == [10.0] * (COUNT - 1)


def test_a_pan_moves_as_far_as_it_does(judged: dict[str, Judged]) -> None:
    found = values(judged["pan"])
    assert found["dynamic_dis"] is True
    assert found["motion_dis"] == pytest.approx(3 * 4, rel=0.35)  # at 24 frames a second, every third one is looked at
    assert found["smoothness_dis"] > 0.95


def test_disorder_is_neither_smooth_nor_consistent(judged: dict[str, Judged]) -> None:
    for name in ("swapped", "noise"):
        assert values(judged[name])["smoothness_dis"] < values(judged["pan"])["smoothness_dis"] - 0.02
        assert values(judged[name])["flickering"] < values(judged["pan"])["flickering"]
    assert values(judged["noise"])["consistency_efficientnet"] < values(judged["still"])["consistency_efficientnet"]


def test_a_loop_has_no_seam(judged: dict[str, Judged]) -> None:
    assert values(judged["ping-pong"])["loop_seam"] == pytest.approx(1, abs=0.2)
    assert values(judged["pan"])["loop_seam"] > 2


def test_the_first_frame_is_held_against_the_photo(tmp_path: Path) -> None:
    picture = tmp_path / "coffee.png"
    Image.fromarray(photo()).save(picture)
    recipe = Recipe(
        prompt="it flickers",
        seed=1,
        input_name=picture.name,
        input_sha256=content_sha256(picture),
        width=128,
        height=128,
    )
    frames = flicker()
    write_video(tmp_path / "clip.webp", frames, 8, quality=100, comment=to_json(recipe))
    (found,) = judge(find_clips(tmp_path), QUICK)
    assert found.recipe is not None
    assert found.recipe["prompt"] == "it flickers"
    assert found.fps == 8
    assert values(found)["first_frame_psnr"] > 30
    assert values(found)["first_frame_ssim"] > 0.9
    pan = replace(recipe, command="pan", direction="right", amount=0.5, frames=4)
    write_video(tmp_path / "pan.webp", camera_frames(pan, photo()), 8, quality=100, comment=to_json(pan))
    assert values(judge(find_clips(tmp_path / "pan.webp"), QUICK)[0])["first_frame_psnr"] > 30
    (tmp_path / "pan.webp").unlink()
    picture.unlink()
    write_video(tmp_path / "other.webp", frames[::-1], 8, quality=90, comment=to_json(recipe))
    other = judge(find_clips(tmp_path), QUICK)[1]
    assert other.scores.reasons["first_frame_psnr"] == "no first frame: coffee.png is not found"


def test_what_was_measured_is_not_measured_again(folder: Path, judged: dict[str, Judged], monkeypatch) -> None:
    monkeypatch.setattr(quick, "dis_flow", lambda *_: pytest.fail("measured again"))
    again = {clip.name: clip for clip in judge(find_clips(folder), choose_measures("motion_dis,sharpness"))}
    for name, clip in again.items():
        assert values(clip) == {key: values(judged[name])[key] for key in ("motion_dis", "sharpness")}
    monkeypatch.setattr(run, "VERSION", run.VERSION + 1)
    with pytest.raises(pytest.fail.Exception):
        judge(find_clips(folder / "pan"), choose_measures("motion_dis"))


def test_one_measure_that_fails_stops_no_other(folder: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONSISTI2V_CACHE", str(tmp_path))
    monkeypatch.setattr(extractors, "EfficientNetFeatures", lambda device: lambda frames: np.zeros((len(frames), 4)))
    (found,) = judge(find_clips(folder / "pan"), QUICK)
    assert found.scores.reasons["consistency_efficientnet"] == "a feature is zero"
    assert values(found)["flickering"] > 0.5


def test_a_clip_that_cannot_be_read_is_reported(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no film at all" * 50)
    write_video(tmp_path / "good.mp4", KINDS["pan"](), 8)
    (tmp_path / "photo.png").write_bytes(b"not looked at")
    broken, good = judge(find_clips(tmp_path), choose_measures("flickering"))
    assert "broken.mp4" in broken.problem
    assert not good.problem
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="no clips"):
        find_clips(tmp_path / "empty")


def test_measures_are_chosen_by_name() -> None:
    assert choose_measures("quick") == list(QUICK)
    assert [measure.key for measure in choose_measures("sharpness, flickering")] == ["sharpness", "flickering"]
    with pytest.raises(RequestError, match="no measure 'fvd'"):
        choose_measures("flickering,fvd")


def made(name: str, value: float | bool, key: str = "flickering", **recipe: object) -> Judged:
    scores = quick.Scores({key: value})
    return Judged(name, sha256=name, recipe=recipe or None, frames=16, fps=8, height=8, width=8, scores=scores)


def test_folders_are_paired_by_what_clips_were_made_from() -> None:
    first = [
        made("a.mp4", 0.5, input_sha256="x", prompt="p", seed=1),
        made("b.mp4", 0.5),
        made("c.mp4", 0.5),
    ]
    second = [
        made("z.gif", 0.75, input_sha256="x", prompt="p", seed=1),
        made("b.webm", 0.25),
        made("d.mp4", 0.5),
    ]
    pairs, alone = report.pairs_of(first, second)
    assert [(one.name, other.name) for one, other in pairs] == [("a.mp4", "z.gif"), ("b.mp4", "b.webm")]
    assert alone == (["c.mp4"], ["d.mp4"])
    (pair,), alone = report.pairs_of(first[:1], second[1:2])
    assert (pair, alone) == ((first[0], second[1]), ([], []))
    found = report.difference(pairs, quick.FLICKERING)
    assert found is not None
    assert (found.first, found.second, found.mean) == (0.5, 0.5, 0)
    assert (found.wins, found.ties, found.losses) == (1, 0, 1)
    assert found.low == pytest.approx(-0.25)
    assert found.high == pytest.approx(0.25)
    assert report.difference(pairs, quick.SMOOTHNESS) is None


def test_fewer_is_better_where_it_is() -> None:
    pairs = [(made("a", 10.0, "colour_drift"), made("a", 4.0, "colour_drift"))]
    found = report.difference(pairs, quick.COLOUR)
    assert found is not None
    assert (found.wins, found.losses) == (1, 0)
    mean = report.summary([pairs[0][1]], quick.COLOUR)
    assert not report.falls_short(mean.mean, quick.COLOUR, 5)
    assert report.falls_short(mean.mean, quick.COLOUR, 3)
    assert report.falls_short(0.5, quick.FLICKERING, 51)
    assert report.falls_short(None, quick.FLICKERING, 0)


def test_json_holds_no_nan(folder: Path, judged: dict[str, Judged]) -> None:
    told = report.as_json({"known": list(judged.values()), "bad": [Judged("x", problem="why")]}, QUICK, {})
    read = json.loads(json.dumps(told, allow_nan=False))
    clips = {clip["file"]: clip for clip in read["folders"]["known"]["clips"]}
    assert clips["still"]["values"]["loop_seam"] is None
    assert clips["still"]["reasons"]["loop_seam"] == "a still picture has no seam"
    summary = read["folders"]["known"]["summary"]
    assert summary["flickering"]["n"] == len(KINDS)
    assert summary["dynamic_dis"]["mean"] == pytest.approx(
        np.mean([values(clip)["dynamic_dis"] for clip in judged.values()])
    )
    assert summary["first_frame_psnr"] is None
    assert summary["consistency_efficientnet"]["frame_weighted"] == pytest.approx(
        np.concatenate([clip.scores.series["consistency"] for clip in judged.values()]).mean()
    )
    assert read["folders"]["bad"] == {
        "clips": [{"file": "x", "problem": "why"}],
        "summary": dict.fromkeys(measure.key for measure in QUICK),
        "spreads": {},
    }
