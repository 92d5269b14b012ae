"""Flow and interpolation on motions that are known."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from consisti2v_cli.errors import RequestError
from consisti2v_cli.evaluation import flow
from consisti2v_cli.evaluation.metrics import motion_score, motion_smoothness, temporal_flickering

RNG = np.random.default_rng(0)


def texture(side: int) -> np.ndarray:
    """Blobs of many sizes."""
    layers = [
        np.asarray(Image.fromarray(RNG.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize((side, side), 3), float)
        for n in (8, 24, 72)
    ]
    return np.mean(layers, axis=0).astype(np.uint8)


def pan(step: int, count: int = 4, side: int = 256) -> np.ndarray:
    """Frames of a picture that moves `step` pixels to the left each time."""
    whole = texture(side + step * count)
    return np.stack([whole[:side, n * step : n * step + side] for n in range(count)])


@pytest.mark.parametrize("step", [3, 6, 12])
def test_a_shift_is_found(step: int) -> None:
    frames = pan(step)
    found = flow.dis_flow(frames[0], frames[1])
    assert np.median(found[..., 0]) == pytest.approx(-step, abs=0.2)
    assert np.median(found[..., 1]) == pytest.approx(0, abs=0.2)
    assert motion_score(found) == pytest.approx(step, rel=0.2)


def test_a_still_clip_does_not_move_and_flicker_is_no_motion() -> None:
    still = texture(128)
    assert motion_score(flow.dis_flow(still, still)) == 0
    brighter = (still.astype(int) + 6).clip(0, 255).astype(np.uint8)
    assert motion_score(flow.dis_flow(still, brighter)) < 1


def test_smoothness_knows_a_pan_from_a_jump() -> None:
    frames = pan(4, count=7)
    jumping = frames[[0, 4, 2, 6, 1, 5, 3]]
    smooth, rough = (motion_smoothness(clip, flow.interpolate) for clip in (frames, jumping))
    assert smooth > 0.98
    assert rough < smooth - 0.02
    assert motion_smoothness(np.repeat(frames[:1], 5, axis=0), flow.interpolate) == 1
    assert temporal_flickering(frames) < smooth  # a pan is smooth, though its pixels change


def test_without_opencv_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(RequestError, match="evaluate"):
        flow.dis_flow(*pan(1, count=2, side=32))
