"""Long films of chunks, with a made-up model: what the paper says of them, and that they survive interruptions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from consisti2v_cli.chunks import CHUNKS, Drift, anchored, chunk_seed, render_film
from consisti2v_cli.errors import ConsistI2VError, RequestError
from consisti2v_cli.recipe import Recipe
from consisti2v_cli.render import STEPS, render
from consisti2v_cli.sources import begin, settle
from consisti2v_cli.state import keep_latent
from consisti2v_cli.weights.load import load_model
from consisti2v_cli.work import Work


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model)


@pytest.fixture
def image(photo):
    return photo("photo.png", size=(96, 64))


@pytest.fixture
def recipe(tiny_model):
    small = {"width": 48, "height": 32, "frames": 3, "steps": 2, "guidance": 3.0}
    return Recipe(command="extend", prompt="the boat drifts left", seed=7, model=str(tiny_model), chunks=3, **small)


@pytest.fixture
def make(image, model):
    """The frames of a recipe's film, `f h w 3`."""

    def make(recipe, **settings):
        return np.stack(list(render_film(recipe, image, model=model, **settings).frames))

    return make


@pytest.fixture
def work(tmp_path):
    (tmp_path / "work").mkdir()
    return Work(tmp_path / "work")


def test_chunks_share_a_frame_and_the_first_one_is_the_clip_of_the_same_seed(make, recipe, image, model):
    film = render_film(recipe, image, model=model)
    frames = list(film.frames)
    assert len(film.frames) == len(frames) == 3 * (3 - 1) + 1
    clip = render(replace(recipe, command="animate"), image, model=model)
    assert (np.stack(frames[:3]) == clip.frames).all()
    assert film.recipe.start == "image"
    assert film.recipe.versions["torch"] == torch.__version__
    assert not (make(replace(recipe, seed=8)) == np.stack(frames)).all()


def test_each_chunk_begins_with_the_last_latent_of_the_one_before(recipe, image, model, work):
    film = render_film(recipe, image, model=model, work=work)
    assert film.last_latent is None
    assert film.drift is None
    list(film.frames)
    for chunk in (1, 2):
        assert (work.latents(chunk)[:, -1] == work.latents(chunk + 1)[:, 0]).all()
        assert not (work.latents(chunk) == work.latents(chunk + 1)).all()
    assert (film.last_latent == work.latents(3)[:, -1]).all()
    assert film.last_latent.dtype == np.float32


def test_frames_are_made_once_and_read_afterwards(recipe, image, model):
    stages = []
    film = render_film(recipe, image, model=model, on_event=lambda *event: stages.append(event))
    first = np.stack(list(film.frames))
    assert [event for event in stages if event[0] == CHUNKS] == [(CHUNKS, done, 3) for done in range(4)]
    assert len([event for event in stages if event[0] == STEPS]) == 3 * 3
    stages.clear()
    assert (np.stack(list(film.frames)) == first).all()
    assert {stage for stage, *_ in stages} == {CHUNKS}


def test_frames_come_while_later_chunks_are_not_yet_made(recipe, image, model, work):
    frames = iter(render_film(recipe, image, model=model, work=work).frames)
    for _ in range(3):
        next(frames)
    assert work.done() == 1


def test_a_film_that_is_stopped_anywhere_goes_on_and_becomes_the_same(make, recipe, image, model, work):
    whole = make(recipe)
    count = 0

    def stop_at(wanted):
        def event(*_):
            nonlocal count
            count += 1
            if count == wanted:
                raise KeyboardInterrupt

        return event

    starts = 0
    for wanted in range(2, 100, 5):  # each start gets a little further: what is finished is not made again
        count, starts = 0, starts + 1
        try:
            frames = make(recipe, work=work, on_event=stop_at(wanted))
        except KeyboardInterrupt:
            continue
        break
    assert starts > 3
    assert (frames == whole).all()


@pytest.mark.parametrize("name", ["00001.latents.npz", "00002.latents.npz", "00002.frames.zip", "00003.latents.npz"])
def test_damaged_chunks_are_made_again(make, recipe, work, name):
    whole = make(recipe, work=work)
    path = work.folder / name
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (content[: len(content) // 2], b"", bytes(flipped)):
        path.write_bytes(damaged)
        for frames in work.folder.glob("*.zip"):  # so that latents are needed again
            if name.endswith("npz"):
                frames.unlink()
        assert (make(recipe, work=work) == whole).all()


def test_a_prompt_holds_until_the_next_one(make, recipe):
    plain = make(recipe)
    changed = make(replace(recipe, prompt_at={"2": "the boat stays"}))
    assert (changed[:3] == plain[:3]).all()
    assert not (changed[3:5] == plain[3:5]).all()
    repeated = make(replace(recipe, prompt_at={"2": "the boat stays", "3": "the boat stays"}))
    assert (repeated == changed).all()
    other = make(replace(recipe, prompt_at={"3": "the boat drifts left", "2": "the boat stays"}))
    assert (other[:5] == changed[:5]).all()
    assert not (other[5:] == changed[5:]).all()
    assert (make(replace(recipe, prompt="the boat stays", prompt_at={"1": recipe.prompt})) == plain).all()


def test_a_long_prompt_is_said_once(recipe, image, model):
    said = []
    film = render_film(replace(recipe, prompt="boat " * 30), image, model=model, on_notice=said.append)
    list(film.frames)
    assert len(said) == 1


def test_the_anchor_pulls_statistics_back_without_a_seam():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 5, 6, 8, generator=generator) * 2 + 1
    reference = torch.randn(1, 4, 1, 6, 8, generator=generator)
    pulled = anchored(latents, reference, 1.0)
    assert (pulled[:, :, 0] == latents[:, :, 0]).all()  # it is the chunk before's last frame too
    torch.testing.assert_close(torch.std_mean(pulled[:, :, -1], (2, 3)), torch.std_mean(reference[:, :, 0], (2, 3)))
    half = anchored(latents, reference, 0.5)[:, :, -1].mean((2, 3))
    torch.testing.assert_close(half, (latents[:, :, -1].mean((2, 3)) + reference[:, :, 0].mean((2, 3))) / 2)
    assert torch.isfinite(anchored(torch.zeros(1, 4, 5, 6, 8), reference, 1.0)).all()


def test_an_anchored_film_stays_nearer_to_its_first_frame(recipe, image, model, work):
    def distance(anchor):
        film = render_film(replace(recipe, anchor=anchor), image, model=model)
        list(film.frames)
        return np.abs(film.last_latent.mean((1, 2)) - first.mean((1, 2))).max()

    list(render_film(recipe, image, model=model, work=work).frames)
    first = work.latents(1)[:, 0]
    distances = [distance(anchor) for anchor in (0.0, 0.5, 1.0)]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-5


def test_an_anchored_film_goes_on_the_same_even_without_its_first_chunk(make, recipe, work):
    recipe = replace(recipe, anchor=0.5)
    whole = make(recipe, work=work)
    for name in ("00001.latents.npz", "00003.latents.npz", "00003.frames.zip"):
        (work.folder / name).unlink()
    assert (make(recipe, work=work) == whole).all()


def test_chunk_seeds_are_fixed_and_all_different():
    assert chunk_seed(7, 1) == 7
    assert chunk_seed(7, 2) == 992_399_040_556_432_219
    seeds = {chunk_seed(seed, chunk) for seed in range(20) for chunk in range(1, 50)}
    assert len(seeds) == 20 * 49
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_film_goes_on_from_a_clip_through_its_exact_latent(recipe, image, model, tmp_path, monkeypatch):
    monkeypatch.setenv("CONSISTI2V_CACHE", str(tmp_path / "cache"))
    clip = render(replace(recipe, command="animate"), image, model=model)
    path = clip.save(tmp_path / "clip.mp4")
    encoded = render_film(recipe, path, model=model)
    assert encoded.recipe.start == "frame"
    keep_latent(path, clip.last_latent, clip.recipe)
    exact = render_film(recipe, path, model=model)
    assert exact.recipe.start == "latent"
    frames = list(exact.frames)
    assert (frames[0] == clip.frames[-1]).all()
    assert not (frames[0] == next(iter(encoded.frames))).all()
    larger, beginning = settle(replace(recipe, width=64, height=48), begin(path), model.folder)
    assert (larger.start, beginning.latent) == ("frame", None)


def test_drift_is_measured_between_the_ends():
    rng = np.random.default_rng(0)
    sharp = rng.integers(100, 150, (32, 48, 3)).astype(np.uint8)
    darker = sharp - np.array([0, 10, 4], np.uint8)
    drift = Drift.between(sharp, darker, 61)
    assert str(drift) == "Drift over 61 frames: colour 10.0 of 255, sharpness +0 %"
    soft = ((sharp.astype(int) - 125) // 2 + 125).astype(np.uint8)
    assert Drift.between(sharp, soft, 61).sharpness == pytest.approx(-0.5, abs=0.05)
    flat = np.full((32, 48, 3), 9, np.uint8)
    assert Drift.between(flat, sharp, 61).sharpness == 0


def test_previews_come_from_every_chunk(recipe, image, model):
    seen = []
    film = render_film(recipe, image, model=model, on_preview=lambda frames: seen.append(frames.shape))
    list(film.frames)
    assert seen == [(3, 4, 6, 3)] * (3 * recipe.steps)


def test_chunks_that_cannot_be_kept_are_an_error(recipe, image, model, tmp_path):
    film = render_film(recipe, image, model=model, work=Work(tmp_path / "nowhere"))
    with pytest.raises(ConsistI2VError, match=r"nowhere.*No such file.*CONSISTI2V_STATE"):
        list(film.frames)


def test_films_and_clips_are_made_in_different_places(recipe, image, model):
    with pytest.raises(RequestError, match="chunks"):
        render(recipe, image, model=model)
    with pytest.raises(RequestError, match="render"):
        render_film(replace(recipe, command="animate"), image, model=model)
