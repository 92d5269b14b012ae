"""The networks that judge clips: fetched from a hub on loopback, found, checked, removed; and their files read."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from loopback_hub import COMMIT, Hub, Trouble, client_environment
from safetensors.torch import save_file

from consisti2v_cli.errors import RequestError, WeightsError
from consisti2v_cli.evaluation import judges
from consisti2v_cli.evaluation.judges import FOLDER_VARIABLE, JUDGES, Judge, JudgeFiles, find_judge
from consisti2v_cli.evaluation.networks.files import read_tensors
from consisti2v_cli.weights.cache import write_reference

WEIGHTS, SMALL = "model.safetensors", "config.json"  # with the hub's sha256, and with git's hash
KEY = "made-up"

RUN = """
import json, sys
from consisti2v_cli.evaluation import judges
from consisti2v_cli.weights import download
download.WAITS = (0.01,) * 4
registry, arguments = json.loads(sys.argv[1])
made = [judges.Judge(**{name: tuple(v) if isinstance(v, list) else v for name, v in e.items()}) for e in registry]
judges.JUDGES.update({judge.key: judge for judge in made})
from consisti2v_cli.commands import main
main(arguments)
"""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path):
    """A hub with a judge: its weights, a small file, and one that nobody asks for."""
    files = tmp_path / "published"
    files.mkdir()
    save_file({"module.weight": torch.arange(100_000.0)}, files / WEIGHTS)
    (files / SMALL).write_text("{}")
    (files / "README.md").write_text("not needed")
    hub = Hub(files, "somebody/judge")
    yield hub
    hub.close()


@pytest.fixture
def made_up(hub) -> Callable[..., Judge]:
    """Makes an entry of the registry for what the hub has."""

    def make(**changes) -> Judge:
        known = (sha256(hub.files / WEIGHTS), sha256(hub.files / SMALL))
        entry = {"key": KEY, "about": "a network", "repo": hub.repo, "revision": COMMIT, "files": (WEIGHTS, SMALL)}
        entry |= {"sha256": known, "bytes": 400_000, "licence": "MIT", **changes}
        return Judge(**entry)

    return make


@pytest.fixture
def run(hub, tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs the command in a process whose registry has one more entry: run(judge, "--check", KEY, env={...})."""

    def run(judge: Judge, *arguments: str, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", RUN, json.dumps([[vars(judge)], ["fetch-weights", *arguments]])],
            env=client_environment(hub.address, tmp_path / "home", CONSISTI2V_STATE=str(tmp_path / "state"), **env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


@pytest.fixture
def place(tmp_path) -> Path:
    """The snapshot's folder in the cache of `run`."""
    return tmp_path / "home" / "hub" / "models--somebody--judge" / "snapshots" / COMMIT


@pytest.fixture
def here(monkeypatch, tmp_path) -> Callable[[Judge], None]:
    """Makes an entry known in this process, which looks into the cache of `run`, and nowhere else."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    return lambda judge: monkeypatch.setitem(JUDGES, judge.key, judge)


def test_the_registry_is_sound():
    assert {key: judge.key for key, judge in JUDGES.items()} == {key: key for key in JUDGES}
    for judge in JUDGES.values():
        assert len(judge.files) == len(judge.sha256) == len(set(judge.files))
        assert all(len(known) in (0, 64) or "..." in known for known in judge.sha256)
        assert judge.files[0].endswith((".safetensors", ".bin", ".pth", ".pt", ".npz"))
        assert bool(judge.repo) == bool(re.fullmatch("[0-9a-f]{40}", judge.revision)) != bool(judge.release)
        assert not judge.repo or judge.sha256[0]
        assert judge.licence in judge.told


@pytest.mark.parametrize("key", JUDGES)
def test_what_is_missing_says_what_it_is_and_how_to_get_it(here, key):
    here(JUDGES[key])
    with pytest.raises(WeightsError) as raised:
        find_judge(key)
    said = str(raised.value)
    assert said.startswith(f"The weights of {key} ({JUDGES[key].about}, ")
    assert JUDGES[key].licence in said
    if JUDGES[key].repo:
        assert said.endswith(f" are not on this machine; run: consisti2v fetch-weights {key}")
    else:
        assert all(name in said for name in (*JUDGES[key].files, JUDGES[key].release, FOLDER_VARIABLE))


def test_a_key_that_there_is_not(here):
    with pytest.raises(RequestError, match="no judge 'nope'; there are: dino-b16"):
        find_judge("nope")


def test_looking_around_imports_no_torch(tmp_path):
    code = (
        "import sys; from consisti2v_cli.evaluation import judges; judges.list_judges()\n"
        "try: judges.find_judge('dino-b16')\n"
        "except Exception: pass\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    environment = {"HF_HUB_CACHE": str(tmp_path)}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


def test_a_judge_is_fetched_and_found_without_a_network(hub, run, made_up, here, place):
    judge = made_up()
    shown = run(judge, KEY)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == f"{place}\n"
    assert "a network, 0.4 MB, MIT" in shown.stderr
    assert f"{KEY} is here: 0.4 MB" in shown.stderr
    assert sorted(file.name for file in place.iterdir()) == sorted(judge.files)
    asked = len(hub.requests)
    assert run(judge, KEY, "-q", HF_HUB_OFFLINE="1").stdout == f"{place}\n"
    assert len(hub.requests) == asked
    here(judge)
    found = find_judge(KEY)
    assert found == JudgeFiles(KEY, place, {n: place / n for n in judge.files}, COMMIT, judge.hashes)
    assert found.weights == place / WEIGHTS
    assert read_tensors(found.weights)["module.weight"].tolist()[:3] == [0, 1, 2]


def test_a_file_of_which_the_ends_of_the_hash_are_known(hub, run, made_up, here, place):
    whole = sha256(hub.files / WEIGHTS)
    judge = made_up(sha256=(f"{whole[:8]}...{whole[-5:]}", ""))
    assert run(judge, KEY).returncode == 0
    here(judge)
    assert find_judge(KEY).sha256[WEIGHTS] == whole
    assert run(judge, "--check", KEY).returncode == 0
    other = made_up(sha256=(f"{whole[:8]}...00000", ""))
    refused = run(other, KEY)
    assert refused.returncode == 3
    assert "is not the file that is known" in refused.stderr
    assert not (place / WEIGHTS).exists()


def test_a_branch_is_followed(run, made_up, here, place):
    judge = made_up(revision="main", sha256=("", ""))
    assert run(judge, KEY).returncode == 0
    here(judge)
    found = find_judge(KEY)
    assert (found.revision, found.folder) == (COMMIT, place)
    assert found.sha256 == made_up().hashes


def test_a_proposed_change_is_a_branch_too(hub, run, made_up, here, place):
    """Its name has slashes, here and in what the hub is asked."""
    judge = made_up(revision="refs/pr/7")
    assert "has no revision 'refs/pr/7'" in run(judge, KEY).stderr
    assert hub.requests[-1].path.endswith("/revision/refs%2Fpr%2F7")
    run(made_up(), KEY)
    here(judge)
    write_reference(hub.repo, "refs/pr/7", COMMIT)
    assert find_judge(KEY).folder == place


def test_one_in_a_folder_of_a_space(hub, run, made_up, here, tmp_path):
    """The hub has other addresses for spaces, the cache another place; a person's folder has the bare file."""
    hub.repo = "spaces/somebody/judge"
    judge = made_up(inside="deep/down", files=(WEIGHTS,), sha256=(sha256(hub.files / WEIGHTS),))
    (hub.files / "deep" / "down").mkdir(parents=True)
    whole = (hub.files / WEIGHTS).rename(hub.files / "deep" / "down" / WEIGHTS)
    shown = run(judge, KEY)
    assert shown.returncode == 0, shown.stderr
    place = tmp_path / "home" / "hub" / "spaces--somebody--judge" / "snapshots" / COMMIT
    here(judge)
    found = find_judge(KEY)
    assert (found.weights, found.revision) == (place / "deep" / "down" / WEIGHTS, COMMIT)
    assert shown.stdout == f"{found.folder}\n" == f"{place / 'deep' / 'down'}\n"
    assert run(judge, "--list").stdout.splitlines()[1].split()[:6] == [KEY, "0.4", "MB", "-", COMMIT[:12], "-"]
    assert run(judge, KEY, "--check").stdout == f"{WEIGHTS}: right (known hash)\n"
    found.weights.rename(found.weights.with_name(f".{WEIGHTS}.forgotten"))  # as a process leaves it that was killed
    assert run(judge, KEY).returncode == 0
    assert [file.name for file in found.folder.iterdir()] == [WEIGHTS]
    (tmp_path / "own" / KEY).mkdir(parents=True)
    (tmp_path / "own" / KEY / WEIGHTS).write_bytes(whole.read_bytes())
    assert find_judge(KEY, tmp_path / "own").weights == tmp_path / "own" / KEY / WEIGHTS
    assert run(judge, KEY, "--remove").returncode == 0
    assert not place.parents[1].exists()


def test_without_a_network_the_command_says_so(run, made_up):
    shown = run(made_up(), KEY, HF_HUB_OFFLINE="1")
    assert shown.returncode == 3
    assert "HF_HUB_OFFLINE is set" in shown.stderr
    assert f"run: consisti2v fetch-weights {KEY}" in shown.stderr
    assert shown.stdout == ""


def test_a_cut_download_goes_on(hub, run, made_up, place):
    hub.trouble[WEIGHTS].append(Trouble(cut_after=150_000))
    assert run(made_up(), KEY).returncode == 0
    assert [asked.range for asked in hub.gets(WEIGHTS)] == [None, "bytes=150000-"]
    assert sha256(place / WEIGHTS) == sha256(hub.files / WEIGHTS)


def test_a_killed_download_goes_on_where_it_stopped(hub, run, made_up, place):
    part = place.parents[1] / "blobs" / f"{sha256(hub.files / WEIGHTS)}.consisti2v.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes((hub.files / WEIGHTS).read_bytes()[:120_000])
    assert run(made_up(), KEY).returncode == 0
    assert [asked.range for asked in hub.gets(WEIGHTS)] == ["bytes=120000-"]


@pytest.mark.parametrize("name", [WEIGHTS, SMALL])
def test_what_is_not_the_file_that_is_known_is_refused_and_does_not_stay(hub, run, made_up, here, place, name):
    """The hub gives what it promises, but that is not what is known: of large files it is told before they come."""
    judge = made_up(sha256=tuple("a" * 64 if name == file else "" for file in (WEIGHTS, SMALL)))
    shown = run(judge, KEY)
    assert shown.returncode == 3
    assert f"{name} of somebody/judge is not the file that is known (sha256 {'a' * 64})" in shown.stderr
    assert not (place / name).exists()
    assert name == SMALL or not hub.gets(WEIGHTS)
    here(judge)
    with pytest.raises(WeightsError, match="fetch-weights"):
        find_judge(KEY)


def test_a_file_of_the_cache_that_is_not_the_known_one_is_not_used(run, made_up, here, place):
    """Another program, or an older registry, fetched it."""
    assert run(made_up(sha256=("", "")), KEY).returncode == 0
    stranger = made_up(sha256=("a" * 64, ""))
    here(stranger)
    with pytest.raises(WeightsError, match=f"not the file that is known.*consisti2v fetch-weights {KEY}"):
        find_judge(KEY)
    assert run(stranger, KEY, "--check").returncode == 3
    assert run(stranger, KEY).returncode == 3
    assert not (place / WEIGHTS).exists()
    assert not list((place.parents[1] / "blobs").glob("?" * 64))


def test_a_file_that_the_hub_lacks(run, made_up):
    shown = run(made_up(files=(WEIGHTS, "gone.json")), KEY)
    assert shown.returncode == 3
    assert f"somebody/judge has no gone.json at {COMMIT}" in shown.stderr


def test_list_check_and_remove(hub, run, made_up, place):
    judge = made_up(sha256=(made_up().sha256[0], ""))
    assert [line.split()[0] for line in run(judge, "--list").stdout.splitlines()] == ["sketch"]
    run(judge, KEY)
    listed = run(judge, "--list", HF_HUB_OFFLINE="1").stdout.splitlines()
    assert listed[1].split() == [KEY, "0.4", "MB", "-", COMMIT[:12], "-", "complete"]
    told = json.loads(run(judge, "--list", "--json").stdout.splitlines()[1])
    assert (told["model"], told["complete"], told["repository"]) == (KEY, True, "somebody/judge")

    checked = run(judge, KEY, "--check", HF_HUB_OFFLINE="1")
    assert checked.stdout.splitlines() == [f"{WEIGHTS}: right (known hash)", f"{SMALL}: right (hub hash)"]
    for name in (WEIGHTS, SMALL):
        content = (place / name).read_bytes()
        (place / name).resolve().write_bytes(content[:-1] + b"?")
    (place / SMALL).unlink()
    checked = run(judge, KEY, "--check", "--json")
    assert checked.returncode == 3
    assert [json.loads(line)["problem"] for line in checked.stdout.splitlines()] == [
        "it is not the file that is known",
        "it is missing",
    ]
    assert f"fetch them again: consisti2v fetch-weights {KEY}" in checked.stderr
    assert f"lacks {SMALL}" in run(judge, "--list").stdout
    assert run(judge, KEY).returncode == 0
    assert run(judge, KEY, "--check").returncode == 0

    removed = run(judge, KEY, "--remove", HF_HUB_OFFLINE="1")
    assert removed.returncode == 0, removed.stderr
    assert "0.4 MB freed" in removed.stderr
    assert not place.parents[1].exists()
    assert run(judge, KEY, "--remove").returncode == 3
    assert run(judge, KEY, "--check").returncode == 3


def test_what_other_programs_fetched_of_the_repository_stays(hub, run, made_up, place):
    judge = made_up(files=(WEIGHTS,), sha256=made_up().sha256[:1])
    run(made_up(), KEY)  # with the small file, that this judge does not need
    removed = run(judge, KEY, "--remove")
    assert removed.stdout == f"{place}\n"
    assert "0.4 MB freed" in removed.stderr
    assert [file.name for file in place.iterdir()] == [SMALL]
    assert len(list((place.parents[1] / "blobs").iterdir())) == 1
    assert run(judge, KEY, "--remove").returncode == 3
    assert (place / SMALL).read_text() == "{}"


def test_other_revisions_of_the_repository_stay(hub, run, made_up, place):
    run(made_up(), KEY)
    hub.commit = "f" * 40
    save_file({"weight": torch.ones(50_000)}, hub.files / WEIGHTS)
    run(made_up(revision="main", sha256=("", "")), KEY)
    assert run(made_up(), KEY, "--remove").returncode == 0
    assert not place.exists()
    assert sha256(place.with_name("f" * 40) / WEIGHTS) == sha256(hub.files / WEIGHTS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dtype", "fp16"], "--dtype does not go with dino-b16"),
        (["--revision", "main"], "--revision does not go with dino-b16"),
        (["--drop-originals"], "--drop-originals does not go with dino-b16"),
        (["--revision", "main", "--check"], "--revision does not go with dino-b16"),
        (["--check", "--remove"], "exclude each other"),
    ],
)
def test_what_makes_no_sense_for_a_judge(run, made_up, arguments, words):
    shown = run(made_up(), "dino-b16", *arguments)
    assert shown.returncode == 2
    assert words in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


def test_one_without_a_repository_comes_from_a_folder_alone(run, made_up, tmp_path):
    key = "c3d-ucf101"
    shown = run(made_up(), key)
    assert shown.returncode == 3
    assert f"put {' and '.join(JUDGES[key].files)} of release v1.0" in shown.stderr
    assert run(made_up(), key, "--remove").returncode == 2
    place = tmp_path / "own" / key
    place.mkdir(parents=True)
    (place / JUDGES[key].files[0]).write_bytes(b"a")
    shown = run(made_up(), key, CONSISTI2V_JUDGES=str(place.parent))
    assert f"not all on this machine ({place} lacks mean2.npz)" in shown.stderr
    (place / "mean2.npz").write_bytes(b"b")
    assert run(made_up(), key, CONSISTI2V_JUDGES=str(place.parent)).stdout == f"{place}\n"
    checked = run(made_up(), key, "--check", CONSISTI2V_JUDGES=str(place.parent))
    assert checked.stdout.splitlines() == [f"{name}: right (read)" for name in JUDGES[key].files]


def own_folder(place: Path, judge: Judge, published: Path) -> Path:
    (place / judge.key).mkdir(parents=True)
    for name in judge.files:
        (place / judge.key / name).write_bytes((published / name).read_bytes())
    return place


def test_folders_of_a_persons_own_are_looked_in_first(hub, run, made_up, here, tmp_path, monkeypatch, place):
    judge = made_up()
    run(judge, KEY)
    here(judge)
    named = own_folder(tmp_path / "named", judge, hub.files)
    given = own_folder(tmp_path / "given", judge, hub.files)
    assert find_judge(KEY).folder == place
    monkeypatch.setenv(FOLDER_VARIABLE, str(named))
    assert find_judge(KEY).folder == named / KEY
    found = find_judge(KEY, given)
    assert (found.folder, found.revision, found.sha256) == (given / KEY, None, judge.hashes)
    assert find_judge(KEY, tmp_path / "nowhere").folder == named / KEY
    (given / KEY / SMALL).unlink()
    assert find_judge(KEY, given).folder == named / KEY  # what is whole wins
    assert [entry.path for entry in judges.list_judges() if entry.model == KEY] == [named / KEY]
    asked = len(hub.requests)
    assert run(judge, KEY, CONSISTI2V_JUDGES=str(named)).stdout == f"{named / KEY}\n"
    assert len(hub.requests) == asked


def test_a_persons_own_file_that_is_not_the_known_one_is_named_and_stays(hub, run, made_up, here, tmp_path):
    judge = made_up()
    here(judge)
    own = own_folder(tmp_path / "own", judge, hub.files)
    before = find_judge(KEY, own)
    file = own / KEY / WEIGHTS
    save_file({"weight": torch.zeros(100_000)}, file)
    with pytest.raises(WeightsError, match=f"{WEIGHTS} is not the file that is known"):
        find_judge(KEY, own)
    assert file.exists()
    here(made_up(sha256=("", "")))
    after = find_judge(KEY, own)
    assert after.sha256[WEIGHTS] == sha256(file)
    assert after.identity != before.identity


def test_the_help_and_the_tab_key_know_every_judge(made_up, run):
    told = run(made_up(), "--help").stdout
    assert [key for key in JUDGES if key not in told] == []
    line = "consisti2v fetch-weights "
    for written, expected in (("i", {"i3d-k400", "inception-2015"}), ("s", {"sketch"}), ("dino", {"dino-b16"})):
        variables = {"_CONSISTI2V_COMPLETE": "bash_complete", "COMP_WORDS": line + written, "COMP_CWORD": "2"}
        shown = subprocess.run(
            [sys.executable, "-m", "consisti2v_cli"],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        assert {entry.partition(",")[2] for entry in shown.stdout.splitlines()} == expected


# Files of others
