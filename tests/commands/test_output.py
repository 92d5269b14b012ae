"""Names of output files: templates, formats, free numbers."""

import pytest

from consisti2v_cli.commands.options import FORMATS
from consisti2v_cli.commands.output import Outputs, slug
from consisti2v_cli.errors import RequestError
from consisti2v_cli.media.video import WRITERS
from consisti2v_cli.recipe import Recipe

RECIPE = Recipe(prompt="The boat, left!", seed=7)


def names(output: str, *formats: str, clips: int = 1, overwrite: bool = False) -> list[str]:
    outputs = Outputs(output, formats, overwrite=overwrite)
    return [str(path) for _ in range(clips) for path in outputs.next_clip(RECIPE, "photo")]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("output", "formats", "expected"),
    [
        ("{name}", [], ["photo.mp4"]),
        ("clip.gif", [], ["clip.gif"]),
        ("clip.GIF", [], ["clip.gif"]),
        ("clip", [], ["clip.mp4"]),
        ("clip", ["gif"], ["clip.gif"]),
        ("clip.mp4", ["gif", "mp4", "gif"], ["clip.gif", "clip.mp4"]),
        ("clip.v2", ["gif"], ["clip.v2.gif"]),
        ("clips/", [], ["clips/photo.mp4"]),
        ("{command}/{name}-{seed:03}-{prompt}-{n}.gif", [], ["animate/photo-007-the-boat-left-1.gif"]),
    ],
)
def test_names(output, formats, expected):
    assert names(output, *formats) == expected


def test_an_existing_folder_is_a_folder(tmp_path):
    (tmp_path / "clips").mkdir()
    assert names("clips") == ["clips/photo.mp4"]


def test_the_next_free_number(tmp_path):
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "clip-2.mp4").touch()
    assert names("clip.mp4", clips=2) == ["clip-3.mp4", "clip-4.mp4"]


def test_the_formats_of_a_clip_share_a_number(tmp_path):
    (tmp_path / "clip.gif").touch()
    assert names("clip", "mp4", "gif", clips=2) == ["clip-2.mp4", "clip-2.gif", "clip-3.mp4", "clip-3.gif"]


def test_names_that_are_taken_meanwhile_get_the_next_free_number(tmp_path):
    (tmp_path / "clip.mp4").touch()
    outputs = Outputs("clip", ["mp4", "gif"], overwrite=False)
    first, second = (outputs.next_clip(RECIPE, "photo") for _ in range(2))
    assert outputs.still_free(first) == first
    (tmp_path / "clip-2.gif").touch()
    assert list(map(str, outputs.still_free(first))) == ["clip-4.mp4", "clip-4.gif"]
    assert outputs.still_free(second) == second


def test_overwriting_replaces_files_but_never_those_of_the_same_run(tmp_path):
    (tmp_path / "clip.mp4").touch()
    assert names("clip.mp4", clips=2, overwrite=True) == ["clip.mp4", "clip-2.mp4"]


@pytest.mark.parametrize(
    ("output", "formats", "message"),
    [
        ("clip.avi", [], "avi.*mp4, gif"),
        ("{nam}.mp4", [], "{nam}.*{name} {seed} {prompt} {command} {n}"),
        ("{name.__class__}", [], "possible"),
        ("{", [], "template"),
        ("{seed:q}", [], "template"),
        ("-", ["mp4", "gif"], "one format"),
    ],
)
def test_impossible_outputs_are_refused(output, formats, message):
    with pytest.raises(RequestError, match=message):
        names(output, *formats)


def test_every_format_has_a_writer():
    assert set(FORMATS) == set(WRITERS)


def test_slugs_are_short_and_never_empty():
    assert slug("../../etc: passwd?") == "etc-passwd"
    assert slug("!?") == "clip"
    assert len(slug("very " * 50)) <= 60
