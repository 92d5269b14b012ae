"""The synthetic clips do what their class and caption say, measured by optical flow that knows nothing of either."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from consisti2v_cli.errors import RequestError
from consisti2v_cli.training.data import MOTIONS, PhotoSource, open_clips
from consisti2v_cli.training.synthetic import GROUPS, SyntheticClips, parse_motions

PHOTOS = Path(__file__).parents[1] / "fixtures" / "heldout"
SIZE = 96
TOWARDS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
TOWARDS |= {f"{v}-{h}": (TOWARDS[h][0], TOWARDS[v][1]) for v in ("up", "down") for h in ("left", "right")}


def clips(
    motion: str, count: int = 6, frames: int = 16, seed: int = 0, stride: int | None = None
) -> tuple[Tensor, Tensor]:
    """`b f 3 h w` in [-1, 1] and strides; with `stride`, only the clips of this stride."""
    source = open_clips(f"synthetic:{PHOTOS}", size=SIZE, motions=[motion])
    if stride is None:
        batch = source.draw(count, frames, torch.Generator().manual_seed(seed))
        return batch.frames, batch.strides
    many = source.draw(6 * count, frames, torch.Generator().manual_seed(seed))
    chosen = many.strides == stride
    return many.frames[chosen][:count], many.strides[chosen][:count]


def grey(frame: Tensor) -> np.ndarray:
    picture = frame.add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()
    return cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)


def flow_between(clip: Tensor) -> np.ndarray:
    """`f-1 h w 2`: optical flow from each frame to the next, in pixels, x to the right and y down."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    greys = [grey(frame) for frame in clip]
    return np.stack([dis.calc(a, b, None) for a, b in itertools.pairwise(greys)])


@pytest.mark.parametrize("motion", [*GROUPS["pans"], *GROUPS["diagonals"]])
def test_a_pan_moves_the_content_the_way_it_is_named(motion: str) -> None:
    wanted = np.array(TOWARDS[motion], dtype=float)
    wanted /= np.linalg.norm(wanted)
    found, _ = clips(motion, stride=3, count=4)
    for clip in found:
        way = np.median(flow_between(clip).reshape(15, -1, 2), axis=1).sum(axis=0) / SIZE
        assert way @ wanted > 0.9 * np.linalg.norm(way)
        assert 0.10 < way @ wanted < 0.45  # of the width


@pytest.mark.parametrize(("motion", "sign"), [("zoom-in", 1), ("zoom-out", -1)])
def test_a_zoom_moves_the_content_out_of_the_middle_or_into_it(motion: str, sign: int) -> None:
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    for clip in clips(motion, stride=3, count=4)[0]:
        flow = flow_between(clip)
        growth = (flow[..., 0] * x + flow[..., 1] * y).sum(axis=(1, 2)) / (x**2 + y**2).sum()
        assert 0.08 < sign * growth.sum() < 0.5


@pytest.mark.parametrize(("motion", "sign"), [("turn-left", 1), ("turn-right", -1)])
def test_a_turn_to_the_left_is_counterclockwise(motion: str, sign: int) -> None:
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    for clip in clips(motion, stride=3, count=4)[0]:
        flow = flow_between(clip)
        # with y pointing down, a counterclockwise turn by a moves (x, 0) towards (0, -x a)
        turned = (flow[..., 0] * y - flow[..., 1] * x).sum(axis=(1, 2)) / (x**2 + y**2).sum()
        assert 6 < np.degrees(sign * turned.sum()) < 45


@pytest.mark.parametrize("direction", ["left", "right", "up", "down"])
def test_a_cutout_moves_over_a_background_that_stays(direction: str) -> None:
    wanted = np.array(TOWARDS[direction], dtype=float)
    for clip in clips(f"cutout-{direction}", stride=3, count=4)[0]:
        moving = (clip - clip[:1]).abs().amax(dim=(0, 1)).numpy() > 0.05
        assert 0.03 < moving.mean() < 0.75
        assert (clip[:, :, ~torch.from_numpy(moving)] - clip[:1, :, ~torch.from_numpy(moving)]).abs().max() <= 0.05
        flow = flow_between(clip)
        strong = np.linalg.norm(flow, axis=-1) > 0.5
        assert flow[strong].mean(axis=0) @ wanted > 0.8 * np.linalg.norm(flow[strong].mean(axis=0))


@pytest.mark.parametrize(("motion", "low", "high"), [("brighten", 1.15, 2.2), ("darken", 0.4, 0.7)])
def test_light_changes_evenly_and_without_clipping(motion: str, low: float, high: float) -> None:
    for clip in clips(motion, stride=3)[0]:
        mean = clip.add(1).div(2).mean(dim=(1, 2, 3))
        assert low < mean[-1] / mean[0] < high or mean[0] > 0.75
        steps = mean.diff() * (1 if motion == "brighten" else -1)
        assert steps.min() > 0
        assert (clip[-1] > 0.999).float().mean() <= (clip[0] > 0.99).float().mean() + 0.02


def test_a_still_clip_is_exactly_still() -> None:
    found, _ = clips("still")
    assert torch.equal(found, found[:, :1].expand_as(found))


@pytest.mark.parametrize("motion", ["snow", "rain"])
def test_weather_comes_from_the_top_onto_a_clean_photo(motion: str) -> None:
    for clip in clips(motion, stride=2, count=3)[0]:
        change = (clip - clip[:1]).abs().amax(dim=1)  # f h w
        assert change[1, SIZE // 2 :].max() < 1e-5
        assert (change[8:] > 0.1).float().mean() > 0.002


def test_a_ripple_moves_things_to_and_fro() -> None:
    for clip in clips("ripple", stride=3)[0]:
        flow = flow_between(clip)
        assert np.abs(flow).mean() > 0.05
        assert np.abs(np.median(flow.reshape(15, -1, 2), axis=1).sum(axis=0)).max() < 0.06 * SIZE


@pytest.mark.parametrize("motion", list(MOTIONS))
def test_fewer_frames_are_the_beginning_of_more(motion: str) -> None:
    short, long = clips(motion, frames=4, seed=3)[0], clips(motion, frames=16, seed=3)[0]
    assert torch.allclose(short, long[:, :4], atol=2e-5)


def test_speed_is_proportional_to_the_stride() -> None:
    per_stride = {}
    for stride in (1, 2, 4, 5):
        found, _ = clips("right", stride=stride, count=10, seed=1)
        per_stride[stride] = np.mean([np.median(flow_between(clip)[..., 0]) for clip in found]) / stride
    slowest, fastest = min(per_stride.values()), max(per_stride.values())
    assert fastest < 1.5 * slowest  # distances themselves are drawn from a range of 1 : 2.7


def test_the_same_generator_draws_the_same_and_another_does_not() -> None:
    source = open_clips(f"synthetic:{PHOTOS}", size=32)
    first, again, other = (source.draw(24, 5, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(first.frames, again.frames)
    assert (first.captions, first.motions) == (again.captions, again.motions)
    assert torch.equal(first.strides, again.strides)
    assert not torch.equal(first.frames, other.frames)


def test_a_batch_has_the_promised_shape_and_range() -> None:
    batch = open_clips(f"synthetic:{PHOTOS}", size=40).draw(30, 3, torch.Generator().manual_seed(0))
    assert batch.frames.shape == (30, 3, 3, 40, 40)
    assert batch.frames.dtype == torch.float32
    assert batch.frames.abs().max() <= 1 + 1e-5
    assert set(batch.strides.tolist()) <= {1, 2, 3, 4, 5}
    assert all(batch.captions)


def test_motions_are_drawn_by_their_weights() -> None:
    source = SyntheticClips(PHOTOS, size=16, motions=["pans:4", "still", "left:12"])
    drawn = source.draw(400, 1, torch.Generator().manual_seed(0)).motions
    assert set(drawn) == {"left", "right", "up", "down", "still"}
    assert drawn.count("left") > drawn.count("right") > drawn.count("still")


@pytest.mark.parametrize("motions", [["sideways"], ["left:much"], ["left:-1"], []])
def test_wrong_motions_are_refused(motions: list[str]) -> None:
    with pytest.raises(RequestError):
        parse_motions(motions)


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    with pytest.raises(RequestError, match="no photo"):
        open_clips(f"synthetic:{tmp_path}", size=16)
    with pytest.raises(RequestError, match="not a folder"):
        open_clips(f"synthetic:{tmp_path / 'missing'}", size=16)


def test_photo_crops_are_whole_flipped_and_repeatable(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 300).astype(np.uint8)[None, :, None], (200, 1, 3))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    source = PhotoSource(tmp_path, 64)
    crops = source.draw(64, torch.Generator().manual_seed(0))
    assert crops.shape == (64, 3, 64, 64)
    rise = (crops[:, :, :, -1] - crops[:, :, :, 0]).mean(dim=(1, 2))
    assert (rise > 0.5).any()
    assert (rise < -0.5).any()
    assert rise.abs().max() > 1.2  # two thirds of the width: the whole short side
    assert torch.equal(crops, source.draw(64, torch.Generator().manual_seed(0)))


def test_large_photos_do_not_alias(tmp_path: Path) -> None:
    board = (np.indices((800, 800)).sum(axis=0) % 2 * 255).astype(np.uint8)  # a chessboard of single pixels
    Image.fromarray(np.repeat(board[:, :, None], 3, axis=2)).save(tmp_path / "board.png")
    source = open_clips(f"synthetic:{tmp_path}", size=64, motions=["left", "zoom-out", "turn-left"])
    frames = source.draw(12, 4, torch.Generator().manual_seed(0)).frames
    assert frames.abs().max() < 0.1  # an even grey
