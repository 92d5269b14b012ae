"""The mathematics of the metrics against numbers from the projects that define them (tests/fixtures/reference)."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consisti2v_cli.evaluation import metrics

CASES: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "reference" / "evaluation_cases.json").read_text()
)
CLOSE = 1e-6  # against other projects' float32
EXACT = 1e-10  # against the same formula in float64


def rng(key: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(key.encode()))


def features(case: dict[str, Any]) -> np.ndarray:
    """Features as the block's recipe says."""
    draw, (count, width) = rng(case["key"]), case["shape"]
    x = draw.standard_normal((count, width))
    match case["mode"]:
        case "near":
            x = draw.standard_normal((1, width)) + 0.25 * x
        case "drift":
            x = np.concatenate([3 * x[:1], 0.5 * x[1:]]).cumsum(axis=0)
        case "opposed":
            x = draw.standard_normal((1, width)) * np.where(np.arange(count) % 2, -1, 1)[:, None]
    return x.astype(np.float32)


def frames(case: dict[str, Any]) -> np.ndarray:
    """Frames as the block's recipe says."""
    draw, (count, height, width, _) = rng(case["key"]), case["shape"]
    match case["mode"]:
        case "iid":
            found = draw.randint(0, 256, case["shape"])
        case "still":
            found = np.repeat(draw.randint(0, 256, (1, height, width, 3)), count, axis=0)
        case "jitter":
            found = (draw.randint(16, 240, (1, height, width, 3)) + draw.randint(-6, 7, case["shape"])).clip(0, 255)
        case "roll":
            base = draw.randint(0, 256, (height, width, 3))
            found = np.stack([np.roll(base, 2 * number, axis=1) for number in range(count)])
    return found.astype(np.uint8)


def close(found: float, said: str, bound: float = CLOSE) -> bool:
    return math.isclose(found, float(said), rel_tol=bound, abs_tol=bound)


@pytest.mark.parametrize("case", CASES["consistency"]["clips"], ids=lambda case: case["key"])
def test_consistency(case: dict[str, Any]) -> None:
    found = metrics.consistency(features(case))
    assert close(found, case["vbench_subject"])
    assert close(found, case["f64"], EXACT)
    series = metrics.consistency_series(features(case))
    assert len(series) == case["f64_count"]
    assert close(float(series.sum()), case["f64_sum"], EXACT)


def test_consistency_of_folders() -> None:
    block = CASES["consistency"]
    series = [metrics.consistency_series(features(case)) for case in block["clips"]]
    assert close(metrics.frame_weighted(series), block["folder_f64_frame_weighted"], EXACT)
    assert close(metrics.frame_weighted(series), block["folder_vbench_frame_weighted"])
    assert close(float(np.mean([some.mean() for some in series])), block["folder_f64_clip_mean"], EXACT)


@pytest.mark.parametrize("case", CASES["i2v_subject"]["clips"], ids=lambda case: case["key"])
def test_image_consistency(case: dict[str, Any]) -> None:
    x = features(case)
    drawn = rng(case["key"] + "/image").standard_normal(x.shape[1]).astype(np.float32)
    found = metrics.image_consistency(drawn * np.float32(0.2) + x[0], x)
    assert close(found["score"], case["f64"])
    assert found["last"] <= found["mean"] <= 1


@pytest.mark.parametrize("case", CASES["temporal_flickering"]["clips"], ids=lambda case: case["key"])
def test_temporal_flickering(case: dict[str, Any]) -> None:
    found = metrics.temporal_flickering(frames(case))
    assert close(found, case["vbench"])
    assert close(found, case["f64"], EXACT)


@pytest.mark.parametrize("case", CASES["dynamic_degree"]["clips"], ids=lambda case: f"{case['key']}-{case['amp']}")
def test_dynamic_degree(case: dict[str, Any]) -> None:
    draw, (pairs, _, height, width) = rng(case["key"]), case["flow_shape"]
    base = draw.standard_normal((pairs, 2, 1, 1)) * case["amp"] * 0.5
    flow = (base + draw.standard_normal((pairs, 2, height, width)) * case["amp"]).astype(np.float32)
    scores = [metrics.motion_score(some.transpose(1, 2, 0)) for some in flow]
    assert scores == pytest.approx([float(score) for score in case["f64_scores"]], rel=EXACT)
    assert scores == pytest.approx([float(score) for score in case["vbench_scores"]], rel=CLOSE)
    assert metrics.is_dynamic(scores, case["frames"], height, width) == case["dynamic"]


def test_what_dynamic_degree_asks_for() -> None:
    block = CASES["dynamic_degree"]
    for count, height, width, threshold, needed in block["parameters_frames_h_w_thres_count"]:
        assert metrics.dynamic_threshold(height, width) == float(threshold)
        assert metrics.dynamic_count(count) == needed
    for case in block["decisions_at_256"]:
        assert metrics.is_dynamic(case["scores"], case["frames"], 256, 256) == case["dynamic"], case["name"]
    assert [metrics.frame_step(fps) for fps, _ in block["interval_of_fps"]] == [k for _, k in block["interval_of_fps"]]


@pytest.mark.parametrize("case", CASES["motion_smoothness"]["clips"], ids=lambda case: case["key"])
def test_motion_smoothness(case: dict[str, Any]) -> None:
    asked = []

    def mean(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        asked.append((one, other))
        return np.float32(0.5) * (one.astype(np.float32) / 255 + other.astype(np.float32) / 255)

    assert close(metrics.motion_smoothness(frames(case), mean), case["vbench_with_mean_interpolator"])
    assert len(asked) == len(case["compared_frames"])


@pytest.mark.parametrize("case", CASES["motion_smoothness"]["given_predictions"], ids=lambda case: case["key"])
def test_motion_smoothness_of_given_predictions(case: dict[str, Any]) -> None:
    count, *shape = case["shape"]
    drawn = rng(case["key"] + "/pred").uniform(-0.1, 1.1, (math.ceil(count / 2) - 1, *shape)).astype(np.float32)
    given = iter(drawn)
    assert close(metrics.motion_smoothness(frames(case), lambda *_: next(given)), case["vbench"])


@pytest.mark.parametrize("case", CASES["frechet"]["cases"], ids=lambda case: case["key"])
def test_frechet_distance(case: dict[str, Any]) -> None:
    (count, width), (others, _) = case["real_shape"], case["fake_shape"]
    real = rng(case["key"] + "/real").standard_normal((count, width)) * np.linspace(0.5, 2, width)
    fake = rng(case["key"] + "/fake").standard_normal((others, width)) * np.linspace(2, 0.5, width) + case["shift"]
    real = real.astype(np.float32)
    fake = real if case["key"] == "frechet/same" else fake.astype(np.float32)
    for ddof, name in ((1, "f64_nuclear_n_minus_1"), (0, "f64_nuclear_n")):
        assert close(metrics.frechet_distance(real, fake, ddof=ddof), case[name], EXACT)
    assert close(metrics.frechet_distance(real, fake), case["tats_float32"], 4e-5)
    assert close(metrics.frechet_distance(real, fake, ddof=0), case["styleganv"], 1e-7)


@pytest.mark.parametrize("case", CASES["inception_score"]["cases"], ids=lambda case: case["key"])
def test_inception_score(case: dict[str, Any]) -> None:
    logits = rng(case["key"]).standard_normal(case["shape"]) * case["scale"]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    mean, deviation = metrics.inception_score(shares, splits=case["splits"])
    assert close(mean, case["styleganv_mean"], EXACT)
    assert close(deviation, case["styleganv_std"], EXACT)


def test_the_highest_inception_score() -> None:
    assert metrics.inception_score(np.eye(101), splits=1)[0] == pytest.approx(101, rel=EXACT)


@pytest.mark.parametrize("case", CASES["clipsim"]["cases"], ids=lambda case: case["key"])
def test_clipsim(case: dict[str, Any]) -> None:
    count, width = case["frames"], case["dim"]
    images = rng(case["key"] + "/image").standard_normal((count, width)).astype(np.float32)
    along = images.mean(axis=0) * case["amp"] * math.sqrt(count) * case["sign"]
    text = (along + rng(case["key"] + "/text").standard_normal(width)).astype(np.float32)
    assert close(metrics.text_similarity(images, text), case["mean_cosine_f64"], CLOSE)
    assert close(metrics.clipsim(images, text), case["clipsim_f64"], CLOSE)
    assert close(100 * metrics.clipsim(images, text), case["torchmetrics"], 1e-5)


@pytest.mark.parametrize(("count", "there", "chosen"), CASES["frame_sampling"]["num_len_indices"])
def test_middle_frames(count: int, there: int, chosen: list[int]) -> None:
    assert metrics.middle_frames(count, there) == chosen


WAYS = {
    "shift x +6 px": lambda p: p + np.array([6, 0]),
    "shift x -6 px": lambda p: p - np.array([6, 0]),
    "shift y +6 px": lambda p: p + np.array([0, 6]),
    "shift y -6 px": lambda p: p - np.array([0, 6]),
    "grow 1.1 about the middle": lambda p: 127.5 + 1.1 * (p - 127.5),
    "shrink 0.9 about the middle": lambda p: 127.5 + 0.9 * (p - 127.5),
    "still": lambda p: p,
    "shift x +1 px (under the 1.28 px bound)": lambda p: p + np.array([1, 0]),
    "shift x +6, y +6": lambda p: p + np.array([6, 6]),
}


@pytest.mark.parametrize(("name", "labels"), CASES["camera_motion"]["start_to_end_to_labels"])
def test_camera_motion(name: str, labels: list[str]) -> None:
    side = np.linspace(5, 250, 10)
    exact = np.stack(np.meshgrid(side, side), axis=-1)
    assert (metrics.grid_points(256, 256) == exact.astype(int)).all()
    end = WAYS[name](exact).astype(int)
    assert metrics.camera_motion(exact.astype(int), end, 256, 256) == labels


def test_words() -> None:
    tests = CASES["word_tests"]
    objects, scenes = (next(cases for name, cases in tests.items() if name.startswith(kind)) for kind in ("obj", "sc"))
    assert [metrics.names_object(wanted, names) for wanted, names, _ in objects] == [right for *_, right in objects]
    assert [metrics.tells_scene(wanted, caption) for wanted, caption, _ in scenes] == [right for *_, right in scenes]


def test_the_papers_rows_for_all_clips() -> None:
    block = CASES["paper_aggregation"]
    values = dict(zip(block["counts"], block["consisti2v_dynamic_degree_by_category"], strict=True))
    assert metrics.weighted_mean(values, block["counts"]) == pytest.approx(block["all"], abs=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: metrics.consistency(np.ones((1, 4))),
        lambda: metrics.consistency(np.zeros((4, 4))),
        lambda: metrics.consistency(np.full((4, 4), np.nan)),
        lambda: metrics.temporal_flickering(np.zeros((1, 4, 4, 3), np.uint8)),
        lambda: metrics.motion_smoothness(np.zeros((2, 4, 4, 3), np.uint8), lambda a, b: a),
        lambda: metrics.frechet_distance(np.full((4, 4), np.inf), np.ones((4, 4))),
        lambda: metrics.inception_score(np.full((4, 4), 0.25), splits=10),
        lambda: metrics.middle_frames(8, 0),
    ],
)
def test_what_cannot_be_measured_is_no_number(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"needed|finite|zero|no frames"):
        wrong()


def test_bootstrap_intervals_hold_the_mean() -> None:
    values = rng("bootstrap").normal(3.0, 1.0, 400)
    low, high = metrics.bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert metrics.bootstrap_interval([2.0]) == (2.0, 2.0)
