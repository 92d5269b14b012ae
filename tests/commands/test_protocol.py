"""`consisti2v evaluate --protocol`, `--ablate`, `--rate`, `--ratings`, `--html`, `--labels`: over real folders."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from known_clips import KINDS, pan
from PIL import Image

from consisti2v_cli.evaluation import extractors, protocols
from consisti2v_cli.evaluation.page import shown as as_shown
from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.media.video import write_video


@pytest.fixture
def small(monkeypatch):
    """The protocols at a size that takes no time."""
    for key, protocol in protocols.PROTOCOLS.items():
        monkeypatch.setitem(protocols.PROTOCOLS, key, replace(protocol, size=32, frames=16))


@pytest.fixture
def data(tmp_path, boat):
    """A data set of two pictures with prompts beside them."""
    for number, name in enumerate(("Pet/boat", "Food/boat")):
        place = tmp_path / "data" / f"{name}.jpg"
        place.parent.mkdir(parents=True)
        Image.open(boat).rotate(180 * number).save(place)
        place.with_suffix(".txt").write_text("the boat left")
    return tmp_path / "data"


def table(stdout, title):
    """The cells of a table's rows below the heads, by their names."""
    lines = stdout.splitlines()
    assert lines[0].startswith(title)
    begin = next(number for number, line in enumerate(lines) if line.startswith("better"))
    rows = lines[begin + 1 : lines.index("What the paper leaves open, and how it is done here:")]
    return {line.split("  ")[0]: line.split()[-4:] for line in rows}


def test_a_protocol_makes_what_is_missing_and_prints_the_papers_table(call, small, data, tiny_model, tmp_path):
    asked = ("evaluate", "made", "--protocol", "i2v-bench", "--data", "data", "--model", tiny_model, "--steps", "1")
    shown = call(*asked, "--metrics", "flickering,motion_dis,colour_drift", "--json", "told.json")
    assert shown.returncode == 0, shown.stderr
    rows = table(shown.stdout, "Table 2: I2V-Bench")
    assert list(rows)[:-1] == ["AnimateAnything", "I2VGen-XL", "DynamiCrafter", "SEINE", "ConsistI2V"]
    ours = list(rows.values())[-1]
    assert ours[:2] == ["-", "-"]  # no stand-in is in a column of the paper
    assert all(float(cell) >= 0 for cell in ours[2:])
    assert "Measured on 2 clips; the paper's values are of 2951." in shown.stdout
    assert "run: consisti2v fetch-weights dino-b16" in shown.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["values"]["whole"]["subject_dino"]["value"] is None
    assert told["values"]["whole"]["flickering"]["value"] > 0.3
    assert json.loads(read_recipe(tmp_path / "made" / "Pet" / "boat.mp4"))["steps"] == 1
    (tmp_path / "made" / "Food" / "boat.mp4").unlink()
    kept = (tmp_path / "made" / "Pet" / "boat.mp4").stat().st_mtime_ns
    again = call(*asked, "--metrics", "flickering,motion_dis,colour_drift")
    assert again.stdout == shown.stdout.removesuffix("told.json\n")
    assert (tmp_path / "made" / "Pet" / "boat.mp4").stat().st_mtime_ns == kept
    other = call(*asked[:-1], "2")
    assert other.returncode == 2
    assert "was made otherwise" in other.stderr


def test_ablations_have_the_papers_order(call, small, data, tiny_model, tmp_path):
    asked = ("evaluate", "made", "--protocol", "i2v-bench", "--data", "data", "--model", tiny_model, "--steps", "1")
    shown = call(*asked, "--ablate", "--clips", "1", "--metrics", "flickering")
    assert shown.returncode == 0, shown.stderr
    rows = table(shown.stdout, "Ablations as in Table 3, by the protocol i2v-bench")
    names = ["ConsistI2V", "w/o FrameInit", "w/o FrameInit & T.Cond.", "w/o FrameInit & T.Cond. & S.Cond."]
    assert [name.partition(": ")[2] for name in rows] == names
    made = sorted(path.relative_to(tmp_path / "made").parts[0] for path in (tmp_path / "made").rglob("*.mp4"))
    assert len(made) == 4
    films = [path.read_bytes() for path in sorted((tmp_path / "made").rglob("*.mp4"))]
    assert len(set(films)) == 4
    assert shown.stderr.count("fetch-weights raft-things") == 1  # said once, not for each of the four


def test_fvd_of_a_protocol_is_measured_beside_the_real_clips(call, small, tiny_model, tmp_path, monkeypatch):
    """MSR-VTT in miniature, and networks that tell mean colours."""
    folder = tmp_path / "data"
    folder.mkdir()
    videos, sentences = [], []
    for number in range(16):
        name = f"video{7010 + number}"
        write_video(folder / f"{name}.mp4", np.roll(pan()[:18], 7 * number, axis=3), 25)
        videos.append({"video_id": name, "split": "test", "category": 1})
        sentences.append({"video_id": name, "caption": "the boat left"})
    (folder / "test_videodatainfo.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))

    def colours(frames):
        return frames.reshape(-1, 3).mean(axis=0, keepdims=True).astype(np.float32)

    known = type("Files", (), {"identity": "made up", "revision": None, "sha256": {}})()
    monkeypatch.setattr(extractors, "find_judge", lambda key, folder=None: known)
    monkeypatch.setitem(extractors._BUILDERS, "i3d-k400", lambda *_: colours)
    monkeypatch.setitem(extractors._BUILDERS, "clip-b32", lambda *_: WordsAndFrames())
    asked = ("evaluate", "made", "--protocol", "msrvtt", "--data", "data", "--model", tiny_model, "--steps", "1")
    shown = call(*asked, "--metrics", "flickering,sharpness")
    assert shown.returncode == 0, shown.stderr
    fvd, clipsim, _, _ = list(table(shown.stdout, "Table 1: MSR-VTT").values())[-1]
    assert float(fvd) > 0
    assert float(clipsim) == pytest.approx(0.6)
    assert "fewer than 2048" in shown.stderr


class WordsAndFrames:
    """Stands for CLIP: all frames alike, and a sentence of which they are 0.6."""

    def beside_words(self, frames):
        return np.tile(np.array([[1.0, 0.0]], np.float32), (len(frames), 1))

    def words(self, text):
        return np.array([0.6, 0.8], np.float32)


def test_a_clip_that_cannot_be_made_is_reported(call, small, data, tiny_model, monkeypatch):
    (data / "Pet" / "boat.jpg").write_bytes(b"no picture")
    asked = ("evaluate", "made", "--protocol", "i2v-bench", "--data", "data", "--model", tiny_model, "--steps", "1")
    shown = call(*asked, "--metrics", "flickering,motion_dis")
    assert shown.returncode == 1
    assert "Pet/boat: " in shown.stderr
    assert "Table 2" in shown.stdout


def test_real_clips_add_measures_of_the_folder(call, tmp_path, monkeypatch):
    for name, roll in (("ours", 3), ("real", 11)):
        (tmp_path / name).mkdir()
        for number in range(16):
            write_video(tmp_path / name / f"{number:02}.mp4", np.roll(pan()[:16], roll * number, axis=3), 8)
    known = type("Files", (), {"identity": "made up", "revision": None, "sha256": {}})()
    monkeypatch.setattr(extractors, "find_judge", lambda key, folder=None: known)
    for key in ("i3d-k400", "inception-2015"):
        monkeypatch.setitem(
            extractors._BUILDERS, key, lambda *_: lambda frames: frames.mean(axis=(1, 2)).astype(np.float32)[:1]
        )
    monkeypatch.setitem(
        extractors._BUILDERS, "c3d-ucf101", lambda *_: lambda frames: np.full((1, 101), 1 / 101, np.float32)
    )
    shown = call("evaluate", "ours", "--metrics", "flickering", "--reference", "real", "--json", "told.json")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[-4].startswith("FVD (I3D): ")
    assert lines[-3].startswith("FID (Inception-v3): ")
    assert lines[-2] == "IS (C3D, UCF-101): 1.00 +- 0.00 over parts, of 16 clips"
    told = json.loads((tmp_path / "told.json").read_text())["folders"]["ours"]["spreads"]
    assert told["fvd_i3d"]["value"] == pytest.approx(float(lines[-4].split()[2].rstrip(",")), abs=0.01)
    few = call("evaluate", "ours/00.mp4", "--metrics", "flickering", "--reference", "real")
    assert "clips: 1, where at least 16 are needed" in few.stderr


def test_the_page_has_the_tables_numbers(call, tmp_path):
    (tmp_path / "clips").mkdir()
    for name in ("pan", "still"):
        write_video(tmp_path / "clips" / f"{name}.mp4", KINDS[name](), 8)
    shown = call(
        "evaluate", "clips", "--metrics", "flickering,dynamic_dis", "--html", "page.html", "--json", "told.json"
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[-2:] == ["told.json", "page.html"]
    page = (tmp_path / "page.html").read_text()
    told = json.loads((tmp_path / "told.json").read_text())
    by_key = {measure["key"]: measure for measure in told["measures"]}
    for clip in told["folders"]["clips"]["clips"]:
        for key, value in clip["values"].items():
            number = as_shown(value, by_key[key])
            assert number in page
            assert number in shown.stdout
    assert page.count("data:image/jpeg;base64,") >= 4
    assert call("evaluate", "clips", "--metrics", "flickering", "--html", "page.html").stdout.endswith("page-2.html\n")


def test_a_rating_from_page_to_table(call, tmp_path):
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        for clip in ("a", "b"):
            write_video(tmp_path / name / f"{clip}.mp4", pan()[:4], 8)
    write_video(tmp_path / "ours" / "alone.mp4", pan()[:4], 8)
    shown = call("evaluate", "ours", "theirs", "--rate", "page")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines() == ["page", "page-key.json"]
    assert "Without a partner: ours/alone.mp4" in shown.stderr
    assert (tmp_path / "page" / "index.html").is_file()
    assert "All play 4 frames of 128x128 at 8 a second" in shown.stderr
    again = call("evaluate", "ours", "theirs", "--rate", "page")
    assert again.stdout.splitlines() == ["page-2", "page-2-key.json"]
    (tmp_path / "bad.json").write_text("{}")
    refused = call("evaluate", "--ratings", "bad.json", "--key", "page-key.json")
    assert refused.returncode == 2
    assert "bad.json" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "0 folders are given"),
        (("a", "b", "c"), "3 folders are given"),
        (("a", "--steps", "3"), "--steps needs --protocol."),
        (("a", "--rate", "page", "--metrics", "quick"), "--metrics does not go with --rate"),
        (("a", "--ablate"), "--ablate needs --protocol"),
        (("a", "--protocol", "ucf101"), "--data DIR"),
        (("a", "--protocol", "ucf101", "--data", "nowhere"), "There is no folder nowhere"),
        (("--ratings", "r.json"), "--ratings needs --key"),
        (("a", "--labels", "nowhere.json"), "--labels nowhere.json cannot be read"),
        (("a", "a/"), "a is given twice"),
        (("",), "FOLDER is empty"),
        (("a", "--weights", "nowhere"), "--weights nowhere is no folder"),
        (("a", "--html", "-"), "--html names a file"),
        (("a", "--html", "same.x", "--json", "same.x"), "--json and --html both name same.x"),
        (("a", "--rate", "."), "--rate . is no name"),
        (("a", "--clips", "3"), "--clips needs --protocol."),
        (("a", "--html", "a/x.mp4/p.html"), "is no folder"),
    ],
)
def test_what_does_not_go_together_is_said_in_a_line(call, tmp_path, arguments, said):
    for name in "abc":
        (tmp_path / name).mkdir()
        write_video(tmp_path / name / "x.mp4", pan()[:4], 8)
    shown = call("evaluate", *arguments)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert said in shown.stderr
    assert len(shown.stderr.splitlines()) <= 2


def test_nothing_is_measured_for_lack_of_weights(call, tmp_path):
    write_video(tmp_path / "x.mp4", pan()[:4], 8)
    (tmp_path / "empty").mkdir()
    shown = call("evaluate", "x.mp4", "--metrics", "subject_dino", "--weights", "empty")
    assert "run: consisti2v fetch-weights dino-b16" in shown.stderr
    assert shown.returncode == 3
    near = call("evaluate", "x.mp4", "--metrics", "flikering")
    assert near.returncode == 2
    assert "'flikering'; perhaps flickering" in near.stderr
    assert call("evaluate", "x.mp4", "--metrics", "FLICKERING").returncode == 0


def test_json_alone_is_on_standard_output(call, tmp_path):
    write_video(tmp_path / "x.mp4", pan()[:4], 8)
    shown = call("evaluate", "x.mp4", "--metrics", "flickering", "--json", "-", "--html", "page.html")
    (line,) = shown.stdout.splitlines()
    told = json.loads(line)
    assert told["settings"]["networks"]["opencv-python-headless"]["version"]
    assert "page.html" in shown.stderr
    assert (tmp_path / "page.html").is_file()


def test_two_clips_are_a_pair_whatever_they_are_called(call, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, pan()[:4], 8)
    shown = call("evaluate", "a.mp4", "b.mp4", "--metrics", "flickering")
    assert "1 pair: a.mp4, b.mp4" in shown.stdout
    assert shown.stdout.splitlines()[-1].split()[4] == "-"  # one pair has no interval


def test_ratings_are_counted_whatever_the_shell_makes_of_a_star(call, tmp_path):
    (tmp_path / "a.json").write_text("{}")
    shown = call("evaluate", "--ratings", "a.json", "b.json", "--key", "key.json")
    assert shown.returncode == 2
    assert "b.json" in shown.stderr or "a.json" in shown.stderr
    assert "FOLDER" not in shown.stderr


@pytest.mark.parametrize("told", ["[]", '{"a.mp4": "dog"}', '{"a.mp4": {"animal": "dog"}}', "nothing"])
def test_labels_that_tell_nothing(call, tmp_path, told):
    (tmp_path / "a").mkdir()
    write_video(tmp_path / "a" / "x.mp4", pan()[:4], 8)
    (tmp_path / "labels.json").write_text(told)
    shown = call("evaluate", "a", "--labels", "labels.json")
    assert shown.returncode == 2
    assert "labels.json" in shown.stderr
    shutil.rmtree(tmp_path / "a")
