"""Runs over many inputs: what is made already is left out, what is wrong stops nothing, several machines share one."""

import json
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from consisti2v_cli.commands.claims import Claims
from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.recipe import from_json, same_clip

SMALL = ["--size", "64x48", "--frames", "3", "--steps", "1"]


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of four photos that differ."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate("abcd"):
        Image.effect_noise((60, 40), 20 + 10 * number).convert("RGB").save(folder / f"{name}.png")
    return folder


@pytest.fixture
def make(call, tiny_model, photos):
    """Animate the photos into out/: make("--seed", 3) -> the result, in this process."""

    def make(*arguments, source=photos, prompt="waves", output="out/"):
        return call("animate", source, prompt, "-o", output, "--model", tiny_model, *SMALL, *arguments)

    return make


def recipe_of(path):
    return from_json(read_recipe(path))


def files(folder):
    """Everything in a folder, hidden things too, as names and bytes."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bad_image_of_a_folder_is_named_once(call, photos):
    """Be it found before all clips, or before its own."""
    (photos / "a.png").write_bytes((photos / "a.png").read_bytes()[:300])
    for arguments in (["--dry-run"], []):
        shown = call("pan", "photos", "--layout-only", "-q", "-o", "out/", *arguments)
        assert shown.returncode == 1
        assert shown.stderr.startswith("Error: photos/a.png cannot be read: ")


def test_clips_of_one_name_are_said_to_be_numbered(call, photos):
    layout = ["pan", "photos", "--layout-only", "--dry-run", "-o"]
    numbered = call(*layout, "clips").stderr
    assert numbered.startswith("4 clips, and -o names one file: they are numbered, clips.mp4, clips-2.mp4, ...; write ")
    assert "numbered" not in call(*layout, "clips/").stderr


def test_a_folder_is_made_with_one_model_and_numbered_labels(make, tmp_path):
    made = make("--seed", 7)
    assert made.returncode == 0
    assert made.stdout.splitlines() == [f"out/{name}.mp4" for name in "abcd"]
    assert made.stderr.count("loading 3/3") == 1
    for number, name in enumerate("abcd", start=1):
        assert f"[{number}/4] {name}.png: steps 1/1" in made.stderr
    assert made.stderr.splitlines()[-1] == "4 made."
    assert {recipe_of(tmp_path / "out" / f"{name}.mp4").seed for name in "abcd"} == {7}


def test_what_is_made_is_left_out_with_the_seed_or_without_any(make, tmp_path):
    make()
    before = files(tmp_path / "out")
    seed = recipe_of(tmp_path / "out" / "a.mp4").seed
    for arguments in ([], ["--seed", seed]):
        again = make(*arguments)
        assert (again.returncode, again.stdout) == (0, "")
        assert "Made already: out/a.mp4, out/b.mp4, out/c.mp4 and 1 more;" in again.stderr
        assert "-y makes them again" in again.stderr
        assert again.stderr.splitlines()[-1] == "0 made, 4 made already."
        assert "loading" not in again.stderr
    assert files(tmp_path / "out") == before


def test_a_run_without_a_seed_goes_on_with_the_one_it_began_with(make, tmp_path):
    make()
    before = files(tmp_path / "out")
    (tmp_path / "out" / "c.mp4").unlink()
    again = make()
    assert again.stdout == "out/c.mp4\n"
    assert again.stderr.splitlines()[-1] == "1 made, 3 made already."
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("template", ["out/{name}-{seed}", "out/{seed}/{name}", "out/{n}-{name}-{seed:020}"])
def test_names_with_a_random_seed_go_on_too(make, tmp_path, template):
    first = make(output=template).stdout.splitlines()
    (tmp_path / first[2]).unlink()
    assert make(output=template).stdout.splitlines() == [first[2]]
    assert make("--seed", 3, output=template).stdout.splitlines() != first


def test_another_seed_and_y_make_others(make, tmp_path):
    make("--seed", 1)
    other = make("--seed", 2)
    assert other.stdout.splitlines() == [f"out/{name}-2.mp4" for name in "abcd"]
    for seed in (1, 2):
        assert make("--seed", seed).stdout == ""
    before = files(tmp_path / "out")
    forced = make("--seed", 2, "-y")
    assert forced.stdout.splitlines() == [f"out/{name}.mp4" for name in "abcd"]
    after = files(tmp_path / "out")
    assert after["a.mp4"] == before["a-2.mp4"] != before["a.mp4"]


@pytest.mark.parametrize(
    "change", [["--steps", "2"], ["--quality", "40"], ["--negative", "fog"], ["--max-size", "20kB"], ["--smooth", "12"]]
)
def test_another_request_is_another_clip(make, change, photos):
    make("--seed", 1, source=photos / "a.png")
    made = make("--seed", 1, *change)
    assert made.stdout.splitlines() == ["out/a-2.mp4", "out/b.mp4", "out/c.mp4", "out/d.mp4"]


def test_another_photo_under_the_same_name_is_another_clip(make, photos):
    make("--seed", 1)
    shutil.copy(photos / "a.png", photos / "b.png")
    assert make("--seed", 1).stdout == "out/b-2.mp4\n"


def test_variations_are_told_apart(make, photos, tmp_path):
    one = {"source": photos / "a.png"}
    assert make("--variations", 3, **one).stdout.splitlines() == ["out/a.mp4", "out/a-2.mp4", "out/a-3.mp4"]
    seeds = [recipe_of(tmp_path / "out" / f"{name}.mp4").seed for name in ("a", "a-2", "a-3")]
    assert seeds == [seeds[0], seeds[0] + 1, seeds[0] + 2]
    (tmp_path / "out" / "a-2.mp4").unlink()
    assert make("--variations", 3, **one).stdout == "out/a-2.mp4\n"
    assert recipe_of(tmp_path / "out" / "a-2.mp4").seed == seeds[1]
    assert make("--variations", 4, **one).stdout == "out/a-4.mp4\n"


def test_a_single_clip_gets_the_next_free_number(make, photos):
    names = [make("--seed", seed, source=photos / "a.png").stdout for seed in (1, 2)]
    assert names == ["out/a.mp4\n", "out/a-2.mp4\n"]


def test_formats_that_lack_are_added_to_the_same_clip(make, photos, tmp_path):
    make()
    (tmp_path / "out" / "b.mp4").unlink()
    formats = ["-f", "mp4", "-f", "gif", "-f", "png"]
    made = make(*formats)
    assert made.stdout.splitlines() == ["out/a.gif", "out/a", "out/b.mp4", "out/b.gif", "out/b"] + [
        f"out/{name}" for name in ("c.gif", "c", "d.gif", "d")
    ]
    for name in "abcd":
        recipes = [recipe_of(tmp_path / "out" / f"{name}{suffix}") for suffix in ("", ".gif", ".mp4")]
        assert recipes[0] == recipes[1] == recipes[2]
    assert make(*formats).stdout == ""


@pytest.mark.parametrize("format", ["mp4", "gif", "webm", "webp", "mov", "png"])
def test_files_of_every_format_are_known_again(make, photos, tmp_path, format):
    shutil.rmtree(photos)
    photos.mkdir()
    Image.effect_noise((60, 40), 30).save(photos / "a.png")
    assert len(make("-f", format).stdout.splitlines()) == 1
    assert make("-f", format).stdout == ""


def test_files_without_metadata_are_known_until_they_are_changed(make, tmp_path):
    assert len(make("--no-metadata").stdout.splitlines()) == 4
    assert read_recipe(tmp_path / "out" / "a.mp4") is None
    with (tmp_path / "out" / "c.mp4").open("ab") as file:
        file.write(b"changed")
    assert make("--no-metadata").stdout == "out/c-2.mp4\n"


def test_files_of_others_are_left_alone(make, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("a.mp4", "b.mp4", "b-2.mp4", "D.MP4"):
        (tmp_path / "out" / name).write_bytes(b"mine")
    made = make("--seed", 1)
    assert made.stdout.splitlines() == ["out/a-2.mp4", "out/b-3.mp4", "out/c.mp4", "out/d-2.mp4"]
    assert make("--seed", 1).stdout == ""
    assert all((tmp_path / "out" / name).read_bytes() == b"mine" for name in ("a.mp4", "b.mp4", "b-2.mp4", "D.MP4"))


def test_clips_in_the_folder_of_the_photos_are_no_photos(make, photos):
    first = make("-f", "gif", "-f", "webp", output=f"{photos}/")
    assert len(first.stdout.splitlines()) == 8
    assert make("-f", "gif", "-f", "webp", output=f"{photos}/").stdout == ""


def test_the_end_lists_what_went_wrong(make, photos):
    (photos / "b.png").write_bytes((photos / "b.png").read_bytes()[:500])
    (photos / "c.png").write_text("<html>Not found</html>")
    (photos / "e.png").symlink_to(photos / "nowhere.png")
    (photos / "d.txt").write_bytes(b"caf\xe9")
    made = make()
    assert made.returncode == 1
    assert made.stdout == "out/a.mp4\n"
    lines = made.stderr.splitlines()
    begin = lines.index("1 made, 4 failed:")
    listed = [line.strip() for line in lines[begin + 1 :]]
    assert sorted(listed) == sorted(line.removeprefix("Error: ") for line in lines if line.startswith("Error: "))
    for name in ("b.png cannot", "c.png is no image", "d.txt: it is not UTF-8", "no image"):
        assert any(f"{photos}/" in line and name in line for line in listed), (name, listed)
    quiet = make("-q", "--seed", 3)
    assert [line.split()[0] for line in quiet.stderr.splitlines()] == ["Error:"] * 4


def test_a_dry_run_plans_what_is_not_made_yet(make, tmp_path):
    make("--seed", 1)
    (tmp_path / "out" / "b.mp4").unlink()
    planned = make("--seed", 1, "--dry-run", "--json")
    assert [json.loads(line)["outputs"] for line in planned.stdout.splitlines()] == [["out/b.mp4"]]
    assert planned.stderr.splitlines()[-1] == "1 to make, 3 made already."


def test_a_dry_run_warns_of_too_much_memory(make, photos):
    planned = make("--dry-run", "--size", "4096x4096", "--frames", "1024", "--attention", "math")
    assert "GB of memory, and cpu has" in planned.stderr
    assert "memory, and" not in make("--dry-run").stderr


def test_shards_make_everything_once_under_the_same_names(make, photos, tmp_path, boat):
    """Photos that would have the same name, a bad one, and files that exist on one machine only."""
    for folder in ("one", "two"):
        (photos / folder).mkdir()
        shutil.copy(boat, photos / folder / "boat.jpg")
    (photos / "bad.png").write_text("bad")
    sources = [photos, photos / "one", photos / "two"]
    whole = make_all(make, sources, "whole/{n}-{name}")
    parts = [make_all(make, sources, "parts/{n}-{name}", "--shard", f"{part}/3") for part in (3, 1, 2)]
    names = sorted(line for part in parts for line in part.stdout.splitlines())
    assert names == sorted(whole.stdout.replace("whole/", "parts/").splitlines())
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert sorted(part.returncode for part in parts) == [0, 0, 1]
    assert len(names) == 6


def make_all(make, sources, output, *arguments):
    first, second, *rest = sources
    return make(*rest, "waves", "--seed", 5, *arguments, source=first, prompt=second, output=output)


def test_photos_of_one_name_do_not_collide_over_shards(call, tiny_model, boat, tmp_path):
    for folder in "xyz":
        (tmp_path / folder).mkdir()
        shutil.copy(boat, tmp_path / folder / "boat.jpg")
    (tmp_path / "z" / "boat.jpg").write_bytes(boat.read_bytes() + b"!")
    command = ["animate", "x", "y", "z", "waves", "-o", "out/", "--model", tiny_model, *SMALL, "--seed", 5]
    made = [call(*command, "--shard", f"{part}/3").stdout for part in (2, 3, 1)]
    assert made == ["out/boat-2.mp4\n", "out/boat-3.mp4\n", "out/boat.mp4\n"]
    assert [call(*command, *shard).stdout for shard in ([], ["--shard", "1/2"])] == ["", ""]
    empty = call(*command, "--shard", "9/9")
    assert (empty.returncode, empty.stdout) == (0, "")


def test_names_of_photos_never_leave_the_folder(make, photos, tmp_path):
    shutil.rmtree(photos)
    photos.mkdir()
    picture = Image.effect_noise((60, 40), 30)
    names = ["a\nb.png", "\x1b[31m.png", "é" * 120 + ".png", "x" * 251 + ".png", "\\..\\x.png"]
    names += [unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD")] + ["CAFÉ.png"]
    for name in names:
        picture.save(photos / name)
    (photos / os.fsdecode(b"latin-\xe9.png")).write_bytes((photos / names[-1]).read_bytes())
    made = make("--seed", 1, "-f", "png", "-f", "mp4", output="out/{name}/{name}")
    assert made.returncode == 0, made.stderr
    paths = [Path(line) for line in made.stdout.splitlines()]
    assert len(paths) == len(set(map(str, paths))) == 2 * (len(names) + 1)
    assert all(path.parts[0] == "out" and len(path.parts) == 3 and (tmp_path / path).exists() for path in paths)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(("state", "cache"))) == [
        "out",
        "photos",
    ]
    assert all(text.isprintable() for text in made.stderr.splitlines())
    assert make("--seed", 1, "-f", "png", "-f", "mp4", output="out/{name}/{name}").stdout == ""


def test_a_clip_that_another_process_makes_is_waited_for(make, tmp_path, environment):
    """First everything else is made. What the other process has made then is left out; what it has not is made."""
    claims = Claims()
    make("--seed", 1)
    done = files(tmp_path / "out")
    for name in ("b.mp4", "c.mp4", "d.mp4"):
        (tmp_path / "out" / name).unlink()
    locks = [claims._lock(tmp_path / "out" / name).lock_file for name in "bc"]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "out" / "d.mp4"), str(tmp_path / "out" / "b.mp4"), *locks],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    holder.stdin.write(done["b.mp4"])
    holder.stdin.close()
    made = make("--seed", 1)
    assert holder.wait(60) == 0
    assert made.stdout.splitlines() == ["out/d.mp4", "out/c.mp4"]
    assert "Waiting for what another run is making: out/b.mp4, out/c.mp4." in made.stderr
    assert made.stderr.splitlines()[-1] == "2 made, 2 made already."
    assert files(tmp_path / "out") == done


HOLDER = """
import sys, time, os
from filelock import FileLock
awaited, made, *locks = sys.argv[1:]
held = [FileLock(lock) for lock in locks]
for lock in held:
    lock.acquire()
print("held", flush=True)
content = sys.stdin.buffer.read()
while not os.path.exists(awaited):
    time.sleep(0.01)
time.sleep(1)
with open(made, "wb") as file:
    file.write(content)
"""


def test_a_name_that_another_process_claims_is_taken(make, photos, tmp_path):
    lock = Claims()._lock(tmp_path / "out" / "a").lock_file
    command = [
        sys.executable,
        "-c",
        "import sys; from filelock import FileLock; l = FileLock(sys.argv[1]); l.acquire()",
    ]
    command[2] += "; print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([*command, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    assert make("--seed", 1, source=photos / "a.png").stdout == "out/a-2.mp4\n"
    holder.communicate(timeout=60)
    assert make("--seed", 2, source=photos / "a.png").stdout == "out/a.mp4\n"


def test_without_a_place_for_locks_it_says_so_once_and_goes_on(make, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CONSISTI2V_STATE", str(tmp_path / "file"))
    made = make("--seed", 1)
    assert made.returncode == 0
    assert len(made.stdout.splitlines()) == 4
    assert made.stderr.count("No lock can be made") == 1
    assert make("--seed", 1).stdout == ""


def test_processes_share_a_folder(environment, photos, tmp_path, call):
    """Nothing is made twice, everything is there, and as one process would have made it."""
    for number in range(12):
        Image.effect_noise((60, 40), 50 + number).save(photos / f"more{number}.png")
    arguments = ["pan", str(photos), "--layout-only", "--size", "64x48", "--frames", "5", "-f", "mp4", "-f", "gif"]
    alone = call(*arguments, "-o", "alone/")
    command = [sys.executable, "-m", "consisti2v_cli", *arguments, "-o", "out/"]
    settings = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    several = [subprocess.Popen(command, **settings) for _ in range(3)]
    shown = [process.communicate(timeout=120) for process in several]
    assert [process.returncode for process in several] == [0, 0, 0], shown
    made = sorted(line for out, _ in shown for line in out.splitlines())
    assert made == sorted(alone.stdout.replace("alone/", "out/").splitlines())
    assert len(made) == 32
    one, other = (files(tmp_path / name) for name in ("alone", "out"))
    assert one.keys() == other.keys()
    for name in one:
        recipes = [recipe_of(tmp_path / folder / name) for folder in ("alone", "out")]
        assert same_clip(*recipes, any_seed=True)


def test_processes_that_share_a_folder_share_the_seed(environment, photos, tmp_path):
    """Where none was asked for: each clip is made once, under whatever name it gets by its seed."""
    command = [sys.executable, "-m", "consisti2v_cli", "pan", str(photos), "--layout-only", "--size", "64x48"]
    command += ["--frames", "5", "-o", "out/{name}-{seed}"]
    settings = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    several = [subprocess.Popen(command, **settings) for _ in range(3)]
    shown = [process.communicate(timeout=120) for process in several]
    assert [process.returncode for process in several] == [0, 0, 0], shown
    names = sorted(path.stem for path in (tmp_path / "out").iterdir())
    assert len(names) == len({name.partition("-")[0] for name in names}) == len(list(photos.glob("*.png")))
    assert len({name.partition("-")[2] for name in names}) == 1


@pytest.mark.parametrize(("computes_bf16", "dtype"), [(False, "fp32"), (True, "bf16")])
def test_values_of_a_recipe(make, photos, tmp_path, monkeypatch, computes_bf16, dtype):
    """Those of --recipe, but for what is given; a device that this machine lacks is replaced, and that is said."""
    monkeypatch.setattr("consisti2v_cli.weights.devices.computes_bf16", lambda: computes_bf16)
    make("--seed", 9, "--negative", "fog", "--motion", "5", source=photos / "a.png")
    recipe = json.loads(read_recipe(tmp_path / "out" / "a.mp4")) | {"device": "cuda:63", "dtype": "fp16"}
    (tmp_path / "old.json").write_text(json.dumps(recipe | {"model": "sketch"}))
    made = make("--recipe", "old.json", "--motion", "3", "--json", source=photos / "b.png")
    assert made.returncode == 0, made.stderr
    new = json.loads(made.stdout)["recipe"]
    assert (new["seed"], new["negative"], new["motion"], new["device"], new["dtype"]) == (9, "fog", 3, "cpu", dtype)
    assert "cuda:63, which this machine lacks" in made.stderr
    asked = make("--recipe", "old.json", "--device", "cuda:63", source=photos / "b.png")
    assert asked.returncode == 2


def test_the_prompt_of_a_recipe(call, tiny_model, photos, tmp_path):
    (tmp_path / "old.json").write_text(json.dumps({"prompt": "old waves", "seed": 3, "model": "sketch"}))
    command = ["--recipe", "old.json", "--model", tiny_model, *SMALL, "--dry-run", "--json"]
    for images, expected in (([photos], "old waves"), ([photos / "a.png"], "old waves"), ([photos, "new"], "new")):
        plan = json.loads(call("animate", *images, *command).stdout.splitlines()[0])
        assert plan["recipe"]["prompt"] == expected
