"""`consisti2v extend`, killed at any moment: at last the film is there, made once, and the one it would have been."""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import pytest

from consisti2v_cli import state
from consisti2v_cli.clip import Film
from consisti2v_cli.commands import main
from consisti2v_cli.media import scratch
from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.media.video import read_video
from consisti2v_cli.recipe import from_json
from consisti2v_cli.work import Work, unfinished

KILLS = [5, pytest.param(25, marks=pytest.mark.slow)]
SEED = 3  # of the moments
OPTIONS = ["--chunks", "4", "--size", "48x32", "--frames", "4", "--steps", "12", "--seed", "7"]


@pytest.fixture
def start(tiny_model, boat, environment, tmp_path):
    """Start `consisti2v extend` in a process of its own, a copy of this one that need not import torch again: returns
    its number and the file that gets what it says."""
    import torch

    import consisti2v_cli.chunks
    from consisti2v_cli.weights.load import load_model

    load_model(tiny_model)  # imports what is imported late
    assert consisti2v_cli.chunks
    torch.set_num_threads(1)  # threads do not live on in a copy

    def start(folder, *more):
        said = tmp_path / "said"
        arguments = ["extend", boat, "moves left", "--model", tiny_model, *OPTIONS, *more]
        process = os.fork()
        if process:
            return process, said
        try:
            with said.open("w") as words:
                os.dup2(words.fileno(), 1)
                os.dup2(words.fileno(), 2)
            os.setsid()
            os.environ.update(environment | {"CONSISTI2V_STATE": str(folder / "state")})
            os.chdir(folder / "out")
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            sys.stdout.flush()
            os._exit(ended.code)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(99)

    return start


@pytest.fixture
def empty(tmp_path):
    """Makes folders for a round: an output folder and a state of its own."""

    def make(name):
        (tmp_path / name / "out").mkdir(parents=True)
        return tmp_path / name

    return make


def ended(process):
    """The exit code of a process when it ends; minus the signal if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def run(start, folder, *more):
    process, said = start(folder, *more)
    assert ended(process) == 0, said.read_text()
    return said.read_text()


def visible(folder):
    return sorted(path.name for path in (folder / "out").iterdir() if not path.name.startswith("."))


def check(folder, reference):
    """The film of a round is there, once, playable, and the very one that an undisturbed run made."""
    assert visible(folder) == ["boat.mp4"]
    assert (folder / "out" / "boat.mp4").read_bytes() == reference
    frames, fps = read_video(folder / "out" / "boat.mp4")
    assert (frames.shape, fps) == ((13, 32, 48, 3), 8)
    assert from_json(read_recipe(folder / "out" / "boat.mp4")).chunks == 4
    assert list((folder / "state" / "chunks").iterdir()) == []
    assert not [path for path in (folder / "out").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("most", KILLS)
def test_killed_many_times_and_the_film_is_the_same(start, empty, most):
    begun = time.monotonic()
    undisturbed = empty("undisturbed")
    run(start, undisturbed)
    reference, lasts = (undisturbed / "out" / "boat.mp4").read_bytes(), time.monotonic() - begun
    moments, kills, rounds, stages = random.Random(SEED), 0, 0, set()
    while kills < most:
        folder = empty(f"round-{rounds}")
        for _ in range(most):
            process, _ = start(folder)
            time.sleep(moments.uniform(0, lasts))
            os.kill(process, signal.SIGKILL)
            if ended(process) == 0:  # it was done before
                break
            kills += 1
            stages.add(len(list((folder / "state").glob("chunks/*/*.latents.npz"))))
            if kills == most:
                break
        run(start, folder)
        check(folder, reference)
        rounds += 1
    assert len(stages) > 1, f"the moments hit the making after {stages} chunks only"


def test_what_a_killed_writer_left_goes_with_the_next_start(start, empty):
    """Be there anything to write or not: killed when its film just had its name."""
    folder = empty("named")
    run(start, folder)
    hidden = folder / "out" / f".boat.mp4-{scratch._place()}-{2**22 + 1}-01234567.part"  # of no process
    hidden.mkdir()
    (hidden / "made.part").hardlink_to(folder / "out" / "boat.mp4")
    assert "Made already" in run(start, folder)
    assert [path.name for path in (folder / "out").iterdir()] == ["boat.mp4"]


def test_two_processes_make_the_film_once(start, empty):
    folder = empty("together")
    first, _ = start(folder)
    second, said = start(folder)
    assert (ended(first), ended(second)) == (0, 0), said.read_text()
    assert visible(folder) == ["boat.mp4"]
    assert list((folder / "state" / "chunks").iterdir()) == []


@pytest.fixture
def make(call, tiny_model, tmp_path, boat):
    """Run a command in this process with the made-up model, beside a photo boat.jpg: make("extend", ...)."""
    (tmp_path / "boat.jpg").write_bytes(boat.read_bytes())
    small = ["--frames", "3", "--steps", "2", "--size", "48x32", "--model", tiny_model]
    return lambda command, *arguments: call(command, *arguments, *small)


@pytest.fixture
def extend(make):
    """`consisti2v extend`."""
    return lambda *arguments: make("extend", *arguments)


def recipe(path):
    return from_json(read_recipe(path))


def work_folders():
    place = state.state_folder() / "chunks"
    return list(place.iterdir()) if place.exists() else []


class Killed(BaseException):
    """What no code of ours catches."""


def kill(*_, **__):
    raise Killed


def test_killed_before_a_finished_file_was_noted(extend, monkeypatch, tmp_path):
    """Between the renaming of the file and everything that follows: with and without a recipe inside."""
    for metadata in ("--metadata", "--no-metadata"):
        folder = tmp_path / metadata
        folder.mkdir()
        asked = ["boat.jpg", "x", "--chunks", "2", "-o", f"{folder}/", "-f", "mp4", "-f", "gif", metadata]
        with monkeypatch.context() as patch:
            patch.setattr("consisti2v_cli.state.remember", kill)
            with pytest.raises(Killed):
                extend(*asked)
        content = (folder / "boat.mp4").read_bytes()
        assert len(work_folders()) == 1
        made = extend(*asked)
        assert made.stdout == f"{folder}/boat.gif\n", made.stderr
        assert "Going on with a film that was begun: 2 of its 2 chunks" in made.stderr
        assert sorted(path.name for path in folder.iterdir()) == ["boat.gif", "boat.mp4"]
        assert (folder / "boat.mp4").read_bytes() == content
        assert from_json(state.recipe_of(folder / "boat.mp4")).command == "extend"
        assert work_folders() == []


def test_killed_between_two_variations(extend, monkeypatch):
    asked = ["boat.jpg", "x", "--chunks", "2", "--variations", "2", "-o", "{name}-{n}"]
    note, noted = Work.note, []

    def second(*given, **settings):
        noted.append(given)
        (note if len(noted) == 1 else kill)(*given, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Work, "note", second)
        with pytest.raises(Killed):
            extend(*asked)
    assert Path("boat-1.mp4").exists()
    made = extend(*asked)
    assert made.stdout == "boat-1.mp4\nboat-2.mp4\n"  # the first line is the killed one's
    assert "Made already: boat-1.mp4" in made.stderr
    assert recipe("boat-2.mp4").seed == recipe("boat-1.mp4").seed + 1
    assert work_folders() == []


def test_another_seed_begins_another_film(extend, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("consisti2v_cli.clip.Film.save", kill)
        with pytest.raises(Killed):
            extend("boat.jpg", "x", "--chunks", "2", "--seed", "5")
    assert [film.recipe.seed for film in unfinished()] == [5]
    for asked, seed in ((["boat.jpg", "x", "--seed", "6"], 6), (["boat.jpg", "x"], 5)):
        extend(*asked, "--chunks", "2", "-q", "-o", "{seed}")
        assert recipe(f"{seed}.mp4").seed == seed
    assert work_folders() == []


def test_killed_between_two_files_of_a_film_that_goes_on_with_the_last_clip(make, extend, monkeypatch):
    """Its own first file is not the last clip until all are there; then the second one is."""
    make("animate", "boat.jpg", "x", "-q", "-o", "clip.mp4")
    asked = ["--chunks", "2", "-f", "mp4", "-f", "gif", "-o", "longer"]
    saves, save = [], Film.save

    def save_one(*given, **settings):
        saves.append(given)
        return save(*given, **settings) if len(saves) == 1 else kill()

    with monkeypatch.context() as patch:
        patch.setattr(Film, "save", save_one)
        with pytest.raises(Killed):
            extend(*asked)
    for moment in ("remember", "keep_latent", "remember_last"):
        with monkeypatch.context() as patch:
            patch.setattr(state, moment, kill)
            with pytest.raises(Killed):
                extend(*asked)
        assert state.last_clip() == Path("clip.mp4").absolute()
    made = extend(*asked)
    assert made.returncode == 0, made.stderr
    assert "Made already: " in made.stderr
    assert sorted(path.name for path in Path().glob("*.[mg][pi][4f]")) == ["clip.mp4", "longer.gif", "longer.mp4"]
    assert {recipe(path).input_name for path in ("longer.mp4", "longer.gif")} == {"clip.mp4"}
    assert state.last_clip() == Path("longer.gif").absolute()
    assert work_folders() == []


@pytest.mark.parametrize("film", [1, 2])
def test_an_interrupt_when_a_film_is_saved_already(extend, monkeypatch, film):
    """After the last one nothing is left to do; before, the run's seed is kept for the same command."""
    asked = ["boat.jpg", "x", "--chunks", "2", "--variations", "2", "-o", "{name}-{n}", "-q"]
    clears, clear = [], Work.clear

    def clear_and_interrupt(work):
        clears.append(work)
        clear(work)
        if len(clears) == film:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Work, "clear", clear_and_interrupt)
        stopped = extend(*asked)
    assert (stopped.returncode, len(work_folders())) == (130, 2 - film)
    assert (state.last_clip() is None) == (film == 1)
    seed = recipe("boat-1.mp4").seed
    if film == 1:
        assert extend(*asked).stdout == "boat-2.mp4\n"
        assert recipe("boat-2.mp4").seed == seed + 1
    else:
        assert extend(*asked).stdout == "boat-1-2.mp4\nboat-2-2.mp4\n"
    assert work_folders() == []
