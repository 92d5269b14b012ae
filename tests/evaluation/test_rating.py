"""The page on which people rate clips: that it tells nobody whose they are, how it behaves, and what is counted."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headless import browser, keys
from known_clips import flicker, pan, photo, still
from PIL import Image

from consisti2v_cli.errors import ConsistI2VError, RequestError, TakenError
from consisti2v_cli.evaluation import rating, tally
from consisti2v_cli.evaluation.metrics import bootstrap_interval, psnr
from consisti2v_cli.evaluation.rating import write_rating
from consisti2v_cli.evaluation.tally import krippendorff_alpha, read_tally, tally_lines
from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.media.video import read_video, write_video
from consisti2v_cli.recipe import Recipe, to_json
from consisti2v_cli.state import content_sha256

METHODS = ("consisti2v-alphamethod", "betamethod")  # no word of the page
PROMPT = 'a cup of </script><b>coffee</b> & "milk"'


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSISTI2V_STATE", str(tmp_path / "state"))


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two methods' clips: three in common, one of which only its recipe pairs; sizes, rates and lengths differ."""
    picture = tmp_path / METHODS[0] / "betamethod-photo.png"
    picture.parent.mkdir()
    Image.fromarray(photo()).save(picture)
    recipe = to_json(
        Recipe(
            prompt=PROMPT, seed=1, input_name=picture.name, input_sha256=content_sha256(picture), width=128, height=128
        )
    )
    for method, fps, make in ((METHODS[0], 8, pan), (METHODS[1], 16, still)):
        folder = tmp_path / method
        folder.mkdir(exist_ok=True)
        write_video(folder / f"{method}-coffee.mp4", make(), fps, comment=recipe, quality=95)
        write_video(folder / "b.mp4", make()[:, :, :96], fps, quality=95)
        write_video(folder / "c.webp", flicker(), fps)
    write_video(tmp_path / METHODS[1] / "lonely.mp4", still(), 8)
    return [tmp_path / method for method in METHODS]


@pytest.fixture
def page(folders: list[Path], tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """The page's folder, and the key."""
    write_rating(folders, tmp_path / "page", tmp_path / "key.json", secret="secret")
    return tmp_path / "page", json.loads((tmp_path / "key.json").read_text())


def data_of(folder: Path) -> dict[str, Any]:
    text = (folder / "index.html").read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(found)


def test_what_all_folders_have_is_shown(folders: list[Path], tmp_path: Path) -> None:
    heard = []
    written = write_rating(
        folders, tmp_path / "page", tmp_path / "key.json", on_sample=lambda done, count: heard.append((done, count))
    )
    assert heard == [(1, 3), (2, 3), (3, 3)]
    assert written.samples == 3
    assert written.shape == rating.Shape(96, 128, 8, 8.0)  # the narrowest; the slowest; one second, as the shortest
    assert written.alone == (f"{folders[1]}/lonely.mp4",)
    assert written.left_out == ()
    assert set(written.without_picture) == {f"{folders[0]}/b.mp4", f"{folders[0]}/c.webp"}
    key, data = json.loads((tmp_path / "key.json").read_text()), data_of(tmp_path / "page")
    assert key["folders"] == [str(folder) for folder in folders]
    assert [sample["name"] for sample in data["samples"]] == sorted(key["samples"])
    pairs = {tuple(clip["clip"] for clip in sample["clips"].values()) for sample in key["samples"].values()}
    assert pairs == {tuple(f"{method}-coffee.mp4" for method in METHODS), ("b.mp4", "b.mp4"), ("c.webp", "c.webp")}
    assert sorted(sample["prompt"] for sample in data["samples"]) == ["", "", PROMPT]
    for sample in data["samples"]:
        assert sample["clips"] == sorted(key["samples"][sample["name"]]["clips"])


def test_clips_are_encoded_again_alike(page, folders: list[Path]) -> None:
    folder, key = page
    for sample in key["samples"].values():
        for name, source in sample["clips"].items():
            frames, fps = read_video(folder / f"{name}.mp4")
            assert (frames.shape, fps) == ((8, 128, 96, 3), 8.0)
            original, rate = read_video(Path(source["folder"]) / source["clip"])
            step = round(rate / 8)
            left = (original.shape[2] - 96) // 2
            wanted = original[::step][:8, :, left : left + 96]
            assert min(map(psnr, frames, wanted)) > 33
    (picture,) = folder.glob("*.jpg")
    assert psnr(np.asarray(Image.open(picture)), photo()[:, 16:112]) > 33


def test_nothing_in_the_folder_tells_whose_clips_they_are(page, folders: list[Path]) -> None:
    folder, key = page
    files = sorted(folder.iterdir())
    assert [path.suffix for path in files].count(".mp4") == 6
    told = [*METHODS, "consisti2v", "coffee.mp4", "lonely", "c.webp", "b.mp4", folders[0].parent.name, key["secret"]]
    for path in files:
        content = path.read_bytes()
        for word in told:
            assert word.encode() not in content.lower(), f"{word} in {path.name}"
            assert word not in path.name
        assert path.name == "index.html" or re.fullmatch(r"[0-9a-f]{16}\.(mp4|jpg)", path.name)
        if path.suffix == ".mp4":
            assert not read_recipe(path)
    assert len({path.stat().st_mtime for path in files}) == 1
    with Image.open(next(folder.glob("*.jpg"))) as image:
        assert not image.getexif()
        assert "comment" not in image.info
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch\(|XMLHttp", text)


def test_the_secret_makes_the_names(page, folders: list[Path], tmp_path: Path) -> None:
    folder, _ = page
    write_rating(folders, tmp_path / "again", tmp_path / "again.json", secret="secret")
    write_rating(folders, tmp_path / "other", tmp_path / "other.json")
    names = [
        {path.name: path.read_bytes() for path in tmp_path.glob(f"{name}/*")} for name in ("page", "again", "other")
    ]
    assert names[0] == names[1]
    assert set(names[0]) & set(names[2]) == {"index.html"}
    assert json.loads((tmp_path / "other.json").read_text())["study"] != data_of(folder)["study"]


def test_size_length_and_rate_may_be_chosen(folders: list[Path], tmp_path: Path) -> None:
    chosen = {"size": (64, 64), "frames": 12, "fps": 8.0}
    written = write_rating(folders[:1], tmp_path / "page", tmp_path / "key.json", **chosen)
    assert written.samples == 3
    for path in (tmp_path / "page").glob("*.mp4"):
        frames, fps = read_video(path)
        assert (frames.shape, fps) == ((12, 64, 64, 3), 8.0)
    with pytest.raises(RequestError, match="shorter than 12 frames at 8 fps"):
        write_rating(folders, tmp_path / "short", tmp_path / "short.json", frames=12)
    assert not (tmp_path / "short").exists()


def test_what_cannot_be_read_is_left_out(folders: list[Path], tmp_path: Path) -> None:
    (folders[0] / "b.mp4").write_bytes(b"no film" * 100)
    Image.fromarray(photo()).save(folders[1] / "c.webp")  # which does not move
    written = write_rating(folders, tmp_path / "page", tmp_path / "key.json")
    assert written.samples == 1
    assert [problem.split(":")[0] for problem in written.left_out] == [f"{folders[0]}/b.mp4"]
    assert set(written.alone) == {f"{folders[0]}/c.webp", f"{folders[1]}/lonely.mp4"}


@pytest.mark.parametrize(
    ("place", "key", "said"),
    [
        ("page", "page/key.json", "where raters could read it"),
        ("page", "page/below/key.json", "where raters could read it"),
        ("page", "link/key.json", "where raters could read it"),
        (f"{METHODS[0]}/page", "key.json", "among its clips"),
    ],
)
def test_impossible_places_are_refused(folders: list[Path], tmp_path: Path, place: str, key: str, said: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "page")
    with pytest.raises(RequestError, match=said):
        write_rating(folders, tmp_path / place, tmp_path / key)
    assert not (tmp_path / "page").exists()


def test_impossible_requests_are_refused(folders: list[Path], tmp_path: Path) -> None:
    page, key = tmp_path / "page", tmp_path / "key.json"
    with pytest.raises(RequestError, match="is given twice"):
        write_rating([folders[0], folders[0] / ".." / METHODS[0]], page, key)
    with pytest.raises(RequestError, match="A rating needs a folder"):
        write_rating([], page, key)
    for wish, said in (({"size": (65, 64)}, "must be even"), ({"fps": 0.5}, "1 to 60"), ({"frames": 1}, "2 frames")):
        with pytest.raises(RequestError, match=said):
            write_rating(folders, page, key, **wish)
    (tmp_path / "strange").mkdir()
    write_video(tmp_path / "strange" / "z.mp4", still(), 8)
    with pytest.raises(RequestError, match="the folders share no clip"):
        write_rating([folders[0], tmp_path / "strange"], page, key)
    for taken in (page, key):
        taken.write_text("taken")
        with pytest.raises(TakenError):
            write_rating(folders, page, key)
        taken.unlink()


def test_nothing_half_written_is_left(folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(tmp_path.iterdir())
    made = []

    def fail(path: Path, *rest: Any, **options: Any) -> None:
        made.append(path)
        if len(made) == 4:
            raise ConsistI2VError("The film could not be encoded.")
        write_video(path, *rest, **options)

    monkeypatch.setattr(rating, "write_video", fail)
    with pytest.raises(ConsistI2VError, match="could not be encoded"):
        write_rating(folders, tmp_path / "page", tmp_path / "key.json")
    assert sorted(tmp_path.iterdir()) == before


def made_key(samples: int, *methods: str) -> dict[str, Any]:
    """Sample `s0` has the clips `s0-x`, `s0-y`, ... of methods x, y, ..."""
    return {
        "kind": rating.KEY,
        "schema": 1,
        "study": "study",
        "secret": "secret",
        "folders": list(methods),
        "samples": {
            f"s{number}": {"prompt": "", "clips": {f"s{number}-{m}": {"folder": m, "clip": "c"} for m in methods}}
            for number in range(samples)
        },
    }


def made_ratings(rater: str, answers: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Of `{"s0": ("x y", "none")}`: the methods ticked for appearance and motion; nothing where it is not answered."""
    told = {
        sample: {
            question: [tick if tick == "none" else f"{sample}-{tick}" for tick in ticks.split()]
            for question, ticks in zip(rating.QUESTIONS, given, strict=True)
            if ticks
        }
        for sample, given in answers.items()
    }
    return {"kind": rating.RATINGS, "schema": 1, "study": "study", "rater": rater, "answers": told}


def test_ticks_are_counted() -> None:
    ratings = [
        made_ratings("anna", {"s0": ("x", "x y"), "s1": ("x y", "none"), "s2": ("none", "y")}),
        made_ratings("ben", {"s0": ("x", "x"), "s1": ("y", "")}),
        made_ratings("nobody", {}),
    ]
    found = tally.tally(ratings, made_key(4, "x", "y"))
    assert (found.raters, found.samples) == (2, 3)
    appearance, motion = found.questions["appearance"], found.questions["motion"]
    assert {name: (share.ticks, share.shown) for name, share in appearance.methods.items()} == {
        "x": (3, 5),
        "y": (2, 5),
    }
    assert (appearance.none.ticks, appearance.none.shown) == (1, 5)
    assert {name: (share.ticks, share.shown) for name, share in motion.methods.items()} == {"x": (2, 4), "y": (2, 4)}
    assert motion.none.share == 0.25
    assert appearance.agreement is not None
    assert appearance.agreement.observed == pytest.approx(3 / 4)  # on x of the second sample they differ
    lines = tally_lines(found)
    assert lines[0] == "2 raters, 3 samples"
    assert [line.split()[:4] for line in lines[1:5]] == [
        ["appearance", "ticked", "shown", "%"],
        ["x", "3", "5", "60.00"],
        ["y", "2", "5", "40.00"],
        ["none", "of", "them", "1"],
    ]
    assert "75.00 %" in lines[5]


def test_the_interval_is_over_samples() -> None:
    ticked = [1, 0, 1, 1, 0, 1, 1, 0]
    answers = {f"s{number}": ("x" if tick else "none", "none") for number, tick in enumerate(ticked)}
    key = made_key(8, "x", "y")
    one = tally.tally([made_ratings("a", answers)], key).questions["appearance"]
    assert (one.methods["x"].low, one.methods["x"].high) == pytest.approx(bootstrap_interval(ticked))
    assert one.agreement is None
    twice = tally.tally([made_ratings("a", answers), made_ratings("b", answers)], key).questions["appearance"]
    assert twice.methods["x"].low == one.methods["x"].low  # more raters of the same samples make them no surer
    assert (twice.methods["x"].ticks, twice.agreement) == (10, tally.Agreement(1.0, 1.0))


def test_agreement_is_that_of_the_literature() -> None:
    meg, owen = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]  # Krippendorff 2011, section B
    found = krippendorff_alpha(list(zip(meg, owen, strict=True)))
    assert found is not None
    assert found.alpha == pytest.approx(0.095, abs=5e-4)
    assert found.observed == pytest.approx(0.6)
    assert krippendorff_alpha([[1], [0], []]) is None
    assert krippendorff_alpha([[1, 1], [1, 1]]) == tally.Agreement(1.0, None)
    with_strangers = krippendorff_alpha([*zip(meg, owen, strict=True), [1], [0]])
    assert with_strangers == found


def test_one_folder_is_yes_or_no() -> None:
    ratings = [made_ratings("a", {"s0": ("x", "none"), "s1": ("x", "x")})]
    found = tally.tally(ratings, made_key(2, "x"))
    assert found.questions["appearance"].methods["x"].share == 1
    assert found.questions["motion"].none.share == 0.5
    assert [line.split()[:2] for line in tally_lines(found)[6:8]] == [["x", "1"], ["no", "1"]]


GOOD = made_ratings("anna", {"s0": ("x", "x y")})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"study": "other"}, "is of another page than the key"),
        ({"kind": "scores"}, "holds no ratings"),
        ({"schema": 2}, "holds no ratings"),
        ({"rater": 5}, "does not say whose it is"),
        ({"rater": "../x"}, "does not say whose it is"),
        ({"answers": []}, "has no answers"),
        ({"answers": {"s9": {}}}, "there is no sample 's9'"),
        ({"answers": {"s0": []}}, "has no answers"),
        ({"answers": {"s0": {"beauty": []}}}, "there is no question 'beauty'"),
        ({"answers": {"s0": {"motion": "s0-x"}}}, "is no list"),
        ({"answers": {"s0": {"motion": [["s0-x"]]}}}, "is no list"),
        ({"answers": {"s0": {"motion": ["s1-x"]}}}, "has no video 's1-x'"),
        ({"answers": {"s0": {"motion": ["s0-x", "none"]}}}, "contradicts itself"),
        ({"answers": {"s0": {"motion": ["s0-x", "s0-x"]}}}, "contradicts itself"),
        ({"answers": {"s0": {"motion": []}}}, "hold no answer"),
    ],
)
def test_bad_ratings_are_said_in_a_sentence(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    key = made_key(2, "x", "y")
    assert tally.tally([GOOD], key).raters == 1
    with pytest.raises(RequestError, match=said):
        tally.tally([{**GOOD, **change}], key)
    (tmp_path / "key.json").write_text(json.dumps(key))
    (tmp_path / "bad.json").write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(RequestError, match=said):
        read_tally([tmp_path / "bad.json"], tmp_path / "key.json")


def test_bad_files_are_said_in_a_sentence(tmp_path: Path) -> None:
    key = made_key(2, "x", "y")
    with pytest.raises(RequestError, match="Two files are of rater anna"):
        tally.tally([GOOD, GOOD], key)
    for bad in ({}, GOOD, {**key, "schema": 0}):
        with pytest.raises(RequestError, match="is no key"):
            tally.tally([GOOD], bad)
    for bad in (
        {**key, "samples": {"s0": {}}},
        {**key, "folders": ["x"]},
        {**key, "samples": {"s0": {"clips": {"a": {"folder": "x"}, "b": {"folder": "x"}}}}},
        {**key, "folders": None},
        {**key, "study": ""},
    ):
        with pytest.raises(RequestError, match="does not say whose each clip is"):
            tally.tally([GOOD], bad)
    (tmp_path / "key.json").write_text(json.dumps(key))
    for name, text, said in (("a", "[1]", "neither"), ("b", "{", "no JSON"), ("c", "{}", r"c holds no ratings")):
        (tmp_path / name).write_text(text)
        with pytest.raises(RequestError, match=said):
            read_tally([tmp_path / name], tmp_path / "key.json")
    with pytest.raises(RequestError, match="cannot be read"):
        read_tally([tmp_path / "nowhere"], tmp_path / "key.json")


def until(true: Callable[[], Any]) -> Any:
    """What becomes true within seconds."""
    end = time.monotonic() + 15
    while not (found := true()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


class Rater:
    """Someone at the page."""

    def __init__(self, chrome: Any, folder: Path) -> None:
        self.chrome, self.address = chrome, (folder / "index.html").as_uri()

    def at(self, name: str) -> Any:
        return self.chrome.find_element("id", name)

    def begin(self, code: str) -> None:
        self.chrome.get(self.address)
        if self.at("rate").is_displayed():
            self.chrome.execute_script("document.getElementById('leave').click()")
        self.at("code").send_keys(code)
        self.chrome.find_element("css selector", "#begin button").click()

    def shown(self) -> tuple[str, ...]:
        """The names of the videos, in order."""
        videos = self.chrome.find_elements("css selector", "video")
        return tuple(Path(video.get_attribute("src")).stem for video in videos)

    def walk(self) -> list[tuple[str, ...]]:
        """All samples from the first to the last."""
        found = []
        while not self.at("end").is_displayed():
            found.append(self.shown())
            self.at("next").click()
        return found

    def box(self, question: str, number: int) -> Any:
        return self.chrome.find_elements("css selector", f'input[name="{question}"]')[number]

    def ticked(self, question: str) -> list[int]:
        boxes = self.chrome.find_elements("css selector", f'input[name="{question}"]')
        return [number for number, box in enumerate(boxes) if box.is_selected()]

    def saved(self, folder: Path, code: str) -> dict[str, Any]:
        next(button for button in self.chrome.find_elements("css selector", ".save") if button.is_displayed()).click()
        return json.loads(until(lambda: _text(folder / f"ratings-{code}.json")))


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def test_a_rater_ticks_saves_and_is_counted(page, tmp_path: Path) -> None:
    folder, key = page
    with browser(tmp_path) as chrome:
        rater = Rater(chrome, folder)
        rater.begin("r-1")
        assert rater.at("index").text == "Index 1 / 3"
        first = rater.shown()
        until(
            lambda: chrome.execute_script(
                "return [...document.querySelectorAll('video')].every((v) => v.currentTime > 0)"
            )
        )
        times = chrome.execute_script(
            "return [...document.querySelectorAll('video')].map((v) => [v.currentTime, v.error])"
        )
        assert [error for _, error in times] == [None, None]
        assert math.isclose(times[0][0], times[1][0], abs_tol=0.06)
        rater.box("appearance", 0).click()
        rater.box("appearance", 1).click()
        assert rater.ticked("appearance") == [0, 1]
        rater.box("appearance", 2).click()
        assert rater.ticked("appearance") == [2]  # none of the above
        rater.box("appearance", 1).click()
        assert rater.ticked("appearance") == [1]
        keys(chrome, "1")
        assert rater.ticked("appearance") == [0, 1]
        press_shifted(chrome, "Digit0")
        assert rater.ticked("motion") == [2]
        assert rater.at("answered").text == "1 answered"
        rater.at("next").click()
        assert rater.at("index").text == "Index 2 / 3"
        assert rater.ticked("appearance") == []
        second = rater.shown()
        rater.box("motion", 0).click()
        chrome.refresh()
        assert rater.at("index").text == "Index 2 / 3"
        assert (rater.shown(), rater.ticked("motion"), rater.ticked("appearance")) == (second, [0], [])
        keys(chrome, "\ue012")  # to the left
        assert (rater.shown(), rater.ticked("appearance"), rater.ticked("motion")) == (first, [0, 1], [2])
        saved = rater.saved(tmp_path, "r-1")
        assert rater.walk()[:2] == [first, second]
        assert "2 of 3 are still open" in rater.at("end-text").text
    assert saved.keys() == {"schema", "kind", "study", "rater", "answers"}
    whose = {clip: one["folder"] for sample in key["samples"].values() for clip, one in sample["clips"].items()}
    found = read_tally([tmp_path / "ratings-r-1.json"], tmp_path / "key.json")
    appearance = found.questions["appearance"]
    assert [appearance.methods[name].ticks for name in key["folders"]] == [1, 1]
    motion = found.questions["motion"]
    assert {name for name, share in motion.methods.items() if share.ticks} == {whose[second[0]]}
    assert (motion.none.ticks, motion.none.shown, found.samples) == (1, 2, 2)


def press_shifted(chrome: Any, code: str) -> None:
    """A key by its place, as on any keyboard's layout, with Shift."""
    event = f"new KeyboardEvent('keydown', {{ code: '{code}', key: '=', shiftKey: true, bubbles: true }})"
    chrome.execute_script(f"document.activeElement.dispatchEvent({event})")


def test_each_code_has_an_order_of_its_own(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "xyz"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        for sample in range(4):
            write_video(folder / f"{sample}.mp4", np.full((3, 32, 32, 3), 60 * sample + 9 * number, np.uint8), 8)
    write_rating(folders, tmp_path / "page", tmp_path / "key.json", secret="secret")
    orders = []
    with browser(tmp_path) as chrome:
        rater = Rater(chrome, tmp_path / "page")
        for code in ("anna", "ben", "anna"):
            rater.begin(code)
            chrome.execute_script("go(0)")
            orders.append(rater.walk())
            rater.at("leave").click()
    assert orders[0] == orders[2]
    assert [set(clips) for clips in orders[0]] != [set(clips) for clips in orders[1]]  # of samples
    assert {frozenset(clips) for clips in orders[0]} == {frozenset(clips) for clips in orders[1]}
    anna, ben = ({frozenset(clips): clips for clips in order} for order in orders[:2])
    assert [name for name in anna if anna[name] != ben[name]]  # of videos in a sample
    assert [clips for clips in orders[0] if list(clips) != sorted(clips)]


def test_videos_begin_again_together(page, tmp_path: Path) -> None:
    with browser(tmp_path) as chrome:
        rater = Rater(chrome, page[0])
        rater.begin("r")
        chrome.execute_script(
            "window.begun = []; for (const v of document.querySelectorAll('video'))"
            " v.addEventListener('seeking', () => begun.push(performance.now()))"
        )
        begun = until(lambda: [time for time in [chrome.execute_script("return begun")] if len(time) >= 4])[0]
        assert begun[-1] - begun[-2] < 100 or begun[-2] - begun[-3] < 100
        keys(chrome, " ")
        assert rater.at("play").text == "Play"
        paused = "return [...document.querySelectorAll('video')].every((v) => v.paused)"
        assert chrome.execute_script(paused)
        rater.at("play").click()
        until(lambda: not chrome.execute_script(paused))


def test_one_folder_asks_yes_or_no(folders: list[Path], tmp_path: Path) -> None:
    write_rating(folders[:1], tmp_path / "page", tmp_path / "key.json")
    with browser(tmp_path) as chrome:
        rater = Rater(chrome, tmp_path / "page")
        rater.begin("solo")
        labels = [label.text for label in chrome.find_elements("css selector", ".choices label")]
        assert labels == ["Yes", "No"] * 2
        keys(chrome, "1")
        assert rater.ticked("appearance") == [0]
        keys(chrome, "0")
        assert rater.ticked("appearance") == [1]
        rater.box("motion", 0).click()
        rater.saved(tmp_path, "solo")
    found = read_tally([tmp_path / "ratings-solo.json"], tmp_path / "key.json")
    assert found.questions["appearance"].none.share == 1
    assert found.questions["motion"].methods[str(folders[0])].share == 1
