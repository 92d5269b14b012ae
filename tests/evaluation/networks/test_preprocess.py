"""What networks are given, against the same written with plain loops, Pillow, or transformers' own processor."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from consisti2v_cli.evaluation.metrics import middle_frames
from consisti2v_cli.evaluation.networks.preprocess import (
    CLIP,
    IMAGENET,
    c3d_clip,
    clip_pictures,
    clipsim_pictures,
    dino_pictures,
    i2v_pictures,
    i3d_clip,
    inception_pictures,
    raft_frames,
    viclip_clip,
)


def noise(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def linear(x: float) -> float:
    return max(0.0, 1 - abs(x))


def cubic(x: float) -> float:
    """Keys' kernel with a = -0.75."""
    x = abs(x)
    if x < 1:
        return 1.25 * x**3 - 2.25 * x**2 + 1
    return -0.75 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def resized(levels: np.ndarray, height: int, width: int, kernel: Callable[[float], float]) -> np.ndarray:
    """`f h w 3`; pixel centres meet, borders are repeated, and no more is looked at than the kernel's reach."""

    def matrix(new: int, old: int) -> np.ndarray:
        weights = np.zeros((new, old))
        for i in range(new):
            centre = (i + 0.5) * old / new - 0.5
            for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
                inside = min(max(j, 0), old - 1)
                weights[i, inside] += kernel(centre - j)
        return weights

    rows, columns = matrix(height, levels.shape[1]), matrix(width, levels.shape[2])
    return np.einsum("yh,xw,fhwc->fyxc", rows, columns, levels.astype(np.float64), optimize=True)


def levels_of(pictures: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> np.ndarray:
    """Normalised `f 3 h w` -> levels `f h w 3`."""
    mean, deviation = np.array(statistics)
    return 255 * (pictures.permute(0, 2, 3, 1).double().numpy() * deviation + mean)


@pytest.mark.parametrize(
    ("size", "wanted"), [((256, 256), (224, 224)), ((300, 401), (224, 299)), ((224, 224), (224, 224))]
)
def test_dino_sees_whole_frames_resized_without_smoothing(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    frames = noise(2, *size)
    pictures = dino_pictures(frames)
    assert pictures.shape == (2, 3, *wanted)
    assert np.allclose(levels_of(pictures, IMAGENET), resized(frames, *wanted, linear), atol=0.05)


@pytest.mark.parametrize(("size", "left"), [((256, 256), 16), ((128, 161), 49), ((512, 518), 18)])
def test_dino_beside_a_photo_sees_the_middle_of_larger_frames(size: tuple[int, int], left: int) -> None:
    """Of widths 256, 322 and 259; 17.5 becomes 18."""
    frames = noise(1, *size)
    full = resized(frames, 256, 256 * size[1] // size[0], cubic)
    found = levels_of(i2v_pictures(frames), IMAGENET)
    assert np.allclose(found, full[:, 16:240, left : left + 224], atol=0.05)


@pytest.mark.parametrize(
    ("size", "whole", "top", "left"),
    [
        ((256, 256), (224, 224), 0, 0),
        ((120, 200), (224, 373), 0, 74),  # 74.5 becomes 74
        ((227, 224), (227, 224), 2, 0),  # 1.5 becomes 2
        ((225, 224), (225, 224), 0, 0),  # 0.5 becomes 0
    ],
)
def test_clip_sees_the_middle_bicubic(size: tuple[int, int], whole: tuple[int, int], top: int, left: int) -> None:
    frames = noise(2, *size)
    full = resized(frames, *whole, cubic)
    wanted = full[:, top : top + 224, left : left + 224]
    found = levels_of(clip_pictures(frames), CLIP)
    assert found.shape == (2, 224, 224, 3)
    assert np.allclose(found, wanted, atol=0.05)


def test_clip_keeps_the_overshoot_unless_levels_are_rounded() -> None:
    frames = np.where(noise(1, 100, 100) > 127, 255, 0).astype(np.uint8)
    exact, whole = (levels_of(clip_pictures(frames, rounded=rounded), CLIP) for rounded in (False, True))
    assert exact.max() > 260
    assert exact.min() < -5
    assert np.allclose(whole, whole.round(), atol=1e-3)
    assert np.abs(whole - exact.clip(0, 255)).max() < 0.501


@pytest.mark.parametrize("size", [(256, 256), (300, 401), (120, 200), (227, 224), (224, 300)])
def test_clipsim_sees_what_clips_processor_makes(size: tuple[int, int]) -> None:
    frames = noise(2, *size)
    wanted = CLIPImageProcessorPil()(images=list(frames), return_tensors="pt")["pixel_values"]
    assert torch.allclose(clipsim_pictures(frames), wanted, atol=1e-5)


def test_clipsims_resize_smooths_and_the_other_does_not() -> None:
    frames = noise(1, 896, 896)
    assert levels_of(clipsim_pictures(frames), CLIP).std() < 0.6 * levels_of(clip_pictures(frames), CLIP).std()


@pytest.mark.parametrize(
    ("size", "sides"), [((64, 72), (0, 0, 0, 0)), ((66, 67), (3, 3, 2, 3)), ((71, 65), (0, 1, 3, 4))]
)
def test_raft_sees_frames_padded_on_both_sides(size: tuple[int, int], sides: tuple[int, ...]) -> None:
    frames = noise(2, *size)
    top, bottom, left, right = sides
    wanted = np.pad(frames, ((0, 0), (top, bottom), (left, right), (0, 0)), mode="edge")
    assert np.array_equal(raft_frames(frames).permute(0, 2, 3, 1).numpy(), wanted)


@pytest.mark.parametrize("count", [16, 8, 5])
def test_viclip_sees_eight_frames(count: int) -> None:
    frames = noise(count, 64, 80)
    clip = viclip_clip(frames)
    assert clip.shape == (3, 8, 224, 224)
    pictures = clip_pictures(frames, rounded=True)
    for place, number in enumerate(middle_frames(8, count)):
        assert torch.equal(clip[:, place], pictures[number])


def test_i3d_sees_squeezed_frames_from_minus_one_to_one() -> None:
    frames = noise(9, 256, 320)
    clip = i3d_clip(frames)
    assert clip.shape == (3, 9, 224, 224)
    wanted = resized(frames, 224, 224, linear) / 127.5 - 1
    assert np.allclose(clip.permute(1, 2, 3, 0).numpy(), wanted, atol=1e-3)
    extremes = np.stack([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)])
    assert torch.allclose(i3d_clip(extremes)[0, :, 0, 0], torch.tensor([-1.0, 1.0]))


def test_inception_sees_levels_as_they_are() -> None:
    frames = noise(2, 30, 40)
    assert np.array_equal(inception_pictures(frames).permute(0, 2, 3, 1).numpy(), frames)


def test_c3d_sees_what_tgan2_makes() -> None:
    """RGB from -1 to 1, turned to BGR, times 128, resized so that the corners meet, plus 128."""
    frames = noise(16, 64, 80)
    scaled = (frames.astype(np.float64) - 128) / 128
    places = [np.linspace(0, side - 1, 112) for side in (64, 80)]
    rows, columns = (
        np.array([[linear(place - j) for j in range(side)] for place in line])
        for line, side in zip(places, (64, 80), strict=True)
    )
    wanted = 128 + np.einsum("yh,xw,fhwc->cfyx", rows, columns, 128 * scaled[..., ::-1], optimize=True)
    found = c3d_clip(frames)
    assert found.shape == (3, 16, 112, 112)
    assert np.allclose(found.numpy(), wanted, atol=0.05)
    assert found[0, 3, 0, 0] == frames[3, 0, 0, 2]  # blue first
    with pytest.raises(ValueError, match="16 frames, not 15"):
        c3d_clip(frames[:15])
