"""Colours of latents by a linear map, and strips of frames."""

import numpy as np
import pytest
from PIL import Image

from consisti2v_cli.media.preview import fit_colours, paint, strip


def linear_latents(pixels, channels, height, width):
    """Latents of an autoencoder that is linear: an average of each block's colours, mixed into channels."""
    mix = np.random.RandomState(0).standard_normal((channels, 3))
    small = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX)) / 127.5 - 1
    return np.einsum("ck,hwk->chw", mix, small).astype(np.float32) + 0.3


def picture(seed, height=64, width=96):
    """Soft patches of all colours: `height width 3`."""
    patches = np.random.RandomState(seed).randint(0, 256, (4, 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(patches).resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("channels", [3, 4, 8, 16])
def test_what_one_picture_teaches_holds_for_others(channels):
    colours = fit_colours(linear_latents(picture(1), channels, 8, 12), picture(1))
    assert colours.shape == (channels + 1, 3)
    others = np.stack([picture(seed) for seed in (2, 3, 4)])
    latents = np.stack([linear_latents(other, channels, 8, 12) for other in others], axis=1)
    painted = paint(latents, colours)
    expected = np.stack([np.asarray(Image.fromarray(other).resize((12, 8), Image.Resampling.BOX)) for other in others])
    assert painted.shape == (3, 8, 12, 3)
    assert painted.dtype == np.uint8
    assert np.abs(painted.astype(int) - expected).max() <= 3


def test_the_bundled_models_latents_get_their_colours():
    """The map from one photo paints another nearly as the autoencoder decodes it."""
    import torch
    from diffusers import AutoencoderKL

    from consisti2v_cli.weights import require

    vae = AutoencoderKL.from_pretrained(require("sketch").path / "vae").eval()
    photos = np.stack([picture(seed, 64, 64) for seed in (5, 6)])
    with torch.no_grad():
        latents = vae.encode(torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mean.numpy()
    painted = paint(latents[1][:, None], fit_colours(latents[0], photos[0]))[0]
    side = painted.shape[0]
    small = np.asarray(Image.fromarray(photos[1]).resize((side, side), Image.Resampling.BOX))
    assert np.abs(painted.astype(int) - small).mean() < 12
    assert np.abs(small.astype(int) - small.mean((0, 1))).mean() > 30  # a plain grey would not have passed


def test_a_plain_picture_teaches_its_colour_and_nothing_wild():
    """A picture of one colour says nothing about the channels: other latents must not run off into false colours."""
    plain = np.full((32, 32, 3), (200, 100, 50), dtype=np.uint8)
    latent = np.full((4, 4, 4), 0.5) + 1e-3 * np.random.RandomState(0).standard_normal((4, 4, 4))
    painted = paint(np.random.RandomState(1).standard_normal((4, 5, 4, 4)), fit_colours(latent, plain))
    assert np.abs(painted.astype(int) - (200, 100, 50)).max() <= 2
    exact = fit_colours(np.full((4, 4, 4), 0.5), plain)
    assert (paint(np.full((4, 1, 2, 2), 0.5), exact) == (200, 100, 50)).all()


def test_colours_stay_within_their_range():
    latents = np.full((3, 2, 1, 2), 100.0)
    latents[:, 1] = -100.0
    latents[0, 0, 0, 1] = np.nan
    latents[1, 1, 0, 1] = np.inf
    painted = paint(latents, np.vstack([np.eye(3) * 50, np.full((1, 3), 128.0)]))
    assert (painted[0, 0, 0] == 255).all()
    assert (painted[1, 0, 0] == 0).all()
    assert painted[0, 0, 1, 0] == 0


def test_a_strip_shows_frames_from_the_first_to_the_last():
    frames = np.stack([np.full((8, 16, 3), 10 * number, dtype=np.uint8) for number in range(16)])
    sheet = strip(frames, columns=4, height=64)
    assert sheet.shape == (64, 4 * 128 + 3 * 4, 3)
    assert [int(sheet[32, 132 * column + 64, 0]) for column in range(4)] == [0, 50, 100, 150]
    assert (sheet[:, 128:132] == 0).all()


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (2, 2), (3, 3), (16, 4)])
def test_short_clips_show_each_frame_once(count, shown):
    frames = np.full((count, 4, 4, 3), 9, dtype=np.uint8)
    assert strip(frames, columns=4, height=32).shape == (32, shown * 32 + (shown - 1) * 2, 3)
