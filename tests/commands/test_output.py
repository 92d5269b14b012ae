"""Names of output files: templates, formats, free numbers; nothing leaves its folder."""

import os
import unicodedata
from pathlib import Path

import pytest

from consisti2v_cli.commands.options import FORMATS
from consisti2v_cli.commands.output import FOLDERS, LONGEST, Outputs, safe, slug
from consisti2v_cli.errors import RequestError
from consisti2v_cli.media import writers
from consisti2v_cli.recipe import Recipe

RECIPE = Recipe(prompt="The boat, left!", seed=7)


def next_clip(outputs: Outputs, recipe: Recipe, name: str) -> list[Path]:
    """The files of the next clip as a run takes them: in its own order, then past what exists."""
    return outputs.still_free(outputs.reserve(recipe, name))


def names(output: str, *formats: str, clips: int = 1, overwrite: bool = False) -> list[str]:
    outputs = Outputs(output, formats, overwrite=overwrite)
    return [str(path) for _ in range(clips) for path in next_clip(outputs, RECIPE, "photo")]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("output", "formats", "expected"),
    [
        ("{name}", [], ["photo.mp4"]),
        ("clip.gif", [], ["clip.gif"]),
        ("clip.GIF", [], ["clip.GIF"]),
        ("clip.Mp4", ["gif", "mp4"], ["clip.gif", "clip.Mp4"]),
        ("clip", [], ["clip.mp4"]),
        ("clip", ["gif"], ["clip.gif"]),
        ("clip.mp4", ["gif", "mp4", "gif"], ["clip.gif", "clip.mp4"]),
        ("clip.v2", ["gif"], ["clip.v2.gif"]),
        ("clips/", [], ["clips/photo.mp4"]),
        ("frames/", ["png"], ["frames/photo"]),
        ("frames.png", [], ["frames"]),
        ("clip.v2", ["png", "mov"], ["clip.v2", "clip.v2.mov"]),
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
    first, second = (next_clip(outputs, RECIPE, "photo") for _ in range(2))
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
        ("{seed:c}", [], "template"),
        ("{name:.<2.0}/x", [], "template"),
        ("{name:{foo}}", [], "template"),
        ("{name:>9999999999}", [], "template"),
        ("{prompt!r}", [], "template"),
        ("", [], "empty"),
        ("-", ["mp4", "gif"], "one format"),
        ("-", ["png"], "folder of frames"),
        ("pipe.mp4", ["png"], "folder of frames"),
        ("x" * 252 + ".mp4", [], "xxx... has 256 bytes; possible: up to 250"),
        ("é" * 128 + "/{name}", [], "has 256 bytes"),
    ],
)
def test_impossible_outputs_are_refused(output, formats, message):
    os.mkfifo("pipe.mp4")
    with pytest.raises(RequestError, match=message):
        names(output, *formats)


def test_every_format_has_a_writer():
    assert set(FORMATS) == set(writers.WRITERS)
    assert set(FOLDERS) == set(writers.FOLDERS)


def test_slugs_are_short_and_never_empty():
    assert slug("../../etc: passwd?") == "etc-passwd"
    assert slug("!?") == "clip"
    assert len(slug("very " * 50)) <= 60


def test_the_format_that_was_asked_for_wins_over_a_suffix_and_that_is_said():
    outputs = Outputs("clip.gif", ["mp4", "png"], overwrite=False)
    assert outputs.notices == ["-f mp4 -f png wins over the suffix of -o clip.gif: writing clip.mp4, clip."]
    for output, formats in (("clip.gif", ["gif", "mp4"]), ("clip.v2", ["gif"]), ("clip", ["gif"]), ("clip.gif", [])):
        assert Outputs(output, formats, overwrite=False).notices == []


def test_a_folder_of_frames_stands_in_the_way_of_no_file_but_of_another_folder(tmp_path):
    (tmp_path / "clip").mkdir()
    assert names("clip.mp4") == ["clip.mp4"]
    assert names("clip.png") == ["clip-2"]
    assert names("clip.png", overwrite=True) == ["clip"]
    (tmp_path / "animate.gif").mkdir()
    assert names("{command}.gif", overwrite=True) == ["animate-2.gif"]


STRANGE = ["..", "../../etc/passwd", "a/b", "a\\b", "a\nb", "\x1b[31mred", "\x00", "", ".", "a\u202etxt.exe", "\udcff"]


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("template", ["clips/{name}", "clips/{name}/{prompt}", "clips/{name}/{name}.png"])
def test_no_name_leaves_the_folder_or_moves_a_cursor(name, template, tmp_path):
    outputs = Outputs(template, [], overwrite=False)
    (path,) = next_clip(outputs, Recipe(prompt=name or "x", seed=1), name)
    assert path.resolve().is_relative_to(tmp_path / "clips")
    assert len(path.parts) == len(template.split("/"))
    assert ".." not in path.parts
    assert str(path).isprintable()


@pytest.mark.parametrize("letter", ["a", "é", "写", "\N{SAILBOAT}"])
def test_long_names_are_cut_so_that_files_can_be_written(letter, tmp_path):
    outputs = Outputs("clips/{name}-{prompt}", ["webm", "png"], overwrite=False)
    long = [next_clip(outputs, Recipe(prompt=letter * 300, seed=1), letter * 300 + end) for end in "xyz"]
    assert len({path for paths in long for path in paths}) == 6
    for path in (path for paths in long for path in paths):
        assert LONGEST - 4 <= len(os.fsencode(path.name)) <= 255 - 25
        path.parent.mkdir(exist_ok=True)
        path.touch()


def test_a_name_of_ones_own_is_never_shortened():
    long = "x" * 246 + ".mp4"
    assert names(long) == [long]
    with pytest.raises(RequestError, match="252 bytes"):
        names(long, clips=2)
    Path(long).touch()
    assert names(long) == ["x" * 246 + "-2.mp4"]


def test_clips_that_are_numbered_are_said_to_be():
    sentence = Outputs("out/clips", ["gif", "mp4"], overwrite=False).numbering(3)
    assert "3 clips" in sentence
    assert "out/clips.gif, out/clips-2.gif" in sentence
    assert "write out/clips/ for a folder, or use {name}" in sentence
    for output, clips in (("clips", 1), ("clips/", 3), ("{name}", 3), ("{seed}.gif", 2), ("-", 1)):
        assert Outputs(output, [], overwrite=False).numbering(clips) is None


def test_names_that_some_file_systems_take_for_the_same_get_numbers(tmp_path):
    composed = unicodedata.normalize("NFC", "café")
    decomposed = unicodedata.normalize("NFD", "café")
    outputs = Outputs("clips/", [], overwrite=False)
    taken = [
        next_clip(outputs, RECIPE, name)[0].name for name in (composed, decomposed, composed.upper(), "Boat", "boat")
    ]
    assert taken == [f"{composed}.mp4", f"{composed}-2.mp4", f"{composed.upper()}-3.mp4", "Boat.mp4", "boat-2.mp4"]
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / f"{decomposed.upper()}.mp4").touch()
    assert next_clip(Outputs("clips/", [], overwrite=False), RECIPE, composed)[0].name == f"{composed}-2.mp4"


def test_names_of_a_run_do_not_depend_on_what_exists(tmp_path):
    """So that machines that make parts of one run give the same names."""

    def reserved():
        outputs = Outputs("clips/{name}-{n}", ["mp4", "gif"], overwrite=False)
        return [str(path) for name in ("b", "a", "b") for path in outputs.reserve(RECIPE, name)]

    before = reserved()
    (tmp_path / "clips").mkdir()
    for name in before:
        (tmp_path / name).touch()
    assert reserved() == before
    assert before == [f"clips/{name}.{format}" for name in ("b-1", "a-2", "b-3") for format in ("mp4", "gif")]


ROWS = [
    ("clips/", "boat", ["clips/boat.mp4"]),
    ("clips/", "sub/boat.gif", ["clips/sub/boat.gif"]),
    ("clips/", "sub/", ["clips/sub/photo.mp4"]),
    ("clips/", "{name}-{seed}", ["clips/photo-7.mp4"]),
    ("clips/{prompt}/{name}", "boat", ["clips/boat.mp4"]),
    ("{name}", "boat", ["boat.mp4"]),
    ("clips/{name}-{n}", None, ["clips/photo-1.mp4"]),
]


@pytest.mark.parametrize(("output", "inside", "expected"), ROWS)
def test_a_row_names_files_in_the_folder(output, inside, expected):
    outputs = Outputs(output, [], overwrite=False)
    row = outputs.of_row(inside, output, [], metadata=True)
    assert list(map(str, next_clip(row, RECIPE, "photo"))) == expected


@pytest.mark.parametrize(
    "inside",
    [
        "../boat",
        "a/../../boat",
        "/tmp/boat",
        "\\\\server\\boat",
        "..\\boat",
        "C:boat",
        "c:/boat",
        "~/boat",
        "a\nb",
        "\x1b[2J",
        " ",
        "\0",
    ],
)
def test_a_row_never_leaves_the_folder(inside):
    with pytest.raises(RequestError, match="output"):
        Outputs("clips/", [], overwrite=False).of_row(inside, "clips/", [], metadata=True)


def test_rows_share_the_names_of_their_run():
    outputs = Outputs("clips/", [], overwrite=False)
    first, second = (outputs.of_row("boat", "clips/", [], metadata=True) for _ in range(2))
    assert [str(entry.reserve(RECIPE, "x")[0]) for entry in (first, second)] == ["clips/boat.mp4", "clips/boat-2.mp4"]


def test_safe_names_keep_what_people_write():
    for name in ("boat", "My boat (2).final", "Größe", "写真", "\N{SAILBOAT}", ".hidden", "-x"):
        assert safe(name) == name
