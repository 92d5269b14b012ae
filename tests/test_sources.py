"""What a long clip begins with: images, films from here and elsewhere, folders of frames."""

from dataclasses import replace

import numpy as np
import pytest

from consisti2v_cli import sources
from consisti2v_cli.clip import Film
from consisti2v_cli.errors import RequestError
from consisti2v_cli.media.image import fit_image
from consisti2v_cli.media.video import read_frames, read_timing, write_video
from consisti2v_cli.recipe import Recipe
from consisti2v_cli.resolve import local_revision
from consisti2v_cli.sources import begin, prompt_of, settle
from consisti2v_cli.state import content_sha256, keep_latent, remember
from consisti2v_cli.weights import ModelFolder

RECIPE = Recipe(command="extend", prompt="the boat drifts left", seed=7)
SIZE = {"width": 48, "height": 32}


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """State and cache in folders of the test's own."""
    monkeypatch.setenv("CONSISTI2V_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("CONSISTI2V_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tiny_model):
    return ModelFolder(tiny_model, "tiny")


def numbered(count, width=48, height=32):
    """Frames whose brightness says which one they are."""
    return [np.full((height, width, 3), 20 * number, np.uint8) for number in range(count)]


def numbers(frames):
    return [round(float(frame.mean()) / 20) for frame in frames]


@pytest.mark.parametrize("format", ["mp4", "gif", "webm", "webp", "mov", "png"])
def test_films_of_every_format_begin_with_their_last_frame(tmp_path, model, format):
    recipe = replace(RECIPE, **SIZE, input_sha256="ab" * 32)
    path = Film(numbered(6), recipe).save(tmp_path / "film", format=format)
    beginning = begin(path)
    assert (beginning.film, beginning.name, beginning.recipe) == (True, "film", recipe)
    assert numbers([beginning.picture]) == [5]
    settled, _ = settle(RECIPE, beginning, model)
    assert (settled.start, settled.input_name, settled.input_sha256) == ("frame", "film", content_sha256(path))
    assert numbers(beginning.front(replace(recipe, **SIZE))) == [0, 1, 2, 3, 4]


def test_images_and_their_bytes_begin_with_themselves(photo, model):
    path = photo("photo.jpg", size=(96, 64))
    for source, name in ((path, "photo.jpg"), (str(path), "photo.jpg"), (path.read_bytes(), "image")):
        beginning = begin(source)
        assert (beginning.film, beginning.picture.shape, beginning.recipe) == (False, (64, 96, 3), None)
        assert beginning.front(RECIPE) is None
        settled, _ = settle(RECIPE, beginning, model)
        assert (settled.start, settled.input_name, settled.input_sha256) == ("image", name, content_sha256(path))
        assert (settled.width, settled.height, settled.model) == (80, 48, "tiny")


def test_an_animated_gif_is_a_film_and_a_still_one_an_image(tmp_path):
    moving = write_video(tmp_path / "moving.gif", numbered(3), 8)
    still = write_video(tmp_path / "still.gif", numbered(1), 8)
    assert begin(moving).film
    assert not begin(still).film


def test_a_film_without_metadata_is_known_by_what_is_remembered(tmp_path):
    recipe = replace(RECIPE, **SIZE)
    path = Film(numbered(3), recipe).save(tmp_path / "film.mp4", metadata=False)
    assert begin(path).recipe is None
    remember(path, recipe, None)
    assert begin(path).recipe == recipe
    other = write_video(tmp_path / "other.mp4", numbered(3), 8, comment="holidays, 1998")
    assert begin(other).recipe is None


def test_the_exact_latent_is_taken_where_model_and_size_are_the_same(tmp_path, model):
    recipe = replace(RECIPE, **SIZE, model="tiny", revision=local_revision(model.path))
    path = Film(numbered(3), recipe).save(tmp_path / "film.mp4")
    latent = np.ones((6, 4, 6), np.float32)
    keep_latent(path, latent, recipe)
    settled, beginning = settle(replace(RECIPE, **SIZE), begin(path), model)
    assert settled.start == "latent"
    assert (beginning.latent == latent).all()
    redone, _ = settle(replace(RECIPE, **SIZE, start="frame"), begin(path), model)
    assert redone.start == "frame"  # as it was made before
    for change in ({"width": 64}, {"height": 48}):
        settled, beginning = settle(replace(RECIPE, **{**SIZE, **change}), begin(path), model)
        assert (settled.start, beginning.latent) == ("frame", None)
    keep_latent(path, latent[:4], recipe)  # of a model with other latents, under the same name
    assert settle(replace(RECIPE, **SIZE), begin(path), model)[0].start == "frame"


@pytest.mark.parametrize(
    ("fps", "expected"),
    [(8, [0, 1, 2, 3, 4]), (4, [0, 2, 4]), (16, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]), (6, [0, 1, 2, 4]), (100, None)],
)
def test_the_front_is_fitted_and_timed_as_the_film_behind_it(tmp_path, fps, expected):
    path = write_video(tmp_path / "film.mp4", numbered(6, width=64, height=32), 8)
    front = begin(path).front(replace(RECIPE, **SIZE, fps=fps))
    frames = list(front)
    assert len(front) == len(frames) == -(-5 * fps // 8)  # five frames of an eighth of a second
    if expected:
        assert numbers(frames) == expected
        assert numbers(front) == expected  # once more
    first = next(iter(read_frames(path)))
    assert (frames[0] == fit_image(first, 48, 32)).all()


def test_however_often_a_films_length_is_asked_for_it_is_counted_once(tmp_path, monkeypatch):
    path = write_video(tmp_path / "film.mp4", numbered(6), 8)
    timed = []
    monkeypatch.setattr(sources, "read_timing", lambda source: timed.append(source) or read_timing(source))
    beginning, recipe = begin(path), replace(RECIPE, **SIZE, join=True, chunks=2, frames=4)
    assert [beginning.length(replace(recipe, seed=seed)) for seed in range(3)] == [5 + 7] * 3
    assert beginning.length(replace(recipe, join=False)) == 7
    assert numbers(beginning.front(recipe)) == [0, 1, 2, 3, 4]
    assert timed == [path]


def test_a_film_made_here_is_timed_by_its_recipe(tmp_path):
    """A GIF's frames last a whole number of hundredths of a second."""
    recipe = replace(RECIPE, **SIZE, fps=7)
    path = Film(numbered(6), recipe).save(tmp_path / "film.gif")
    assert numbers(begin(path).front(recipe)) == [0, 1, 2, 3, 4]


def test_a_prompt_holds_from_its_chunk_on():
    recipe = replace(RECIPE, prompt_at={"10": "ten", "3": "three"}, chunks=12)
    prompts = [prompt_of(recipe, chunk) for chunk in range(1, 13)]
    assert prompts == [RECIPE.prompt] * 2 + ["three"] * 7 + ["ten"] * 3


def test_what_is_no_beginning_is_said(tmp_path):
    (tmp_path / "text.mp4").write_text("no film")
    (tmp_path / "empty").mkdir()
    for name in ("text.mp4", "empty", "nowhere.jpg"):
        with pytest.raises(RequestError, match=name):
            begin(tmp_path / name)
    with pytest.raises(RequestError, match="the image"):
        begin(b"no image", name="the image")
