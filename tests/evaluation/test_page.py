"""The HTML page of what was measured: what it says, that it says it safely, and how it behaves in a browser."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from headless import browser
from known_clips import COUNT, flicker, pan, still
from PIL import Image

from consisti2v_cli.commands import judged as terminal
from consisti2v_cli.errors import RequestError
from consisti2v_cli.evaluation import quick, report
from consisti2v_cli.evaluation.clips import Clip
from consisti2v_cli.evaluation.page import page_html, thumbnails_of
from consisti2v_cli.evaluation.quick import QUICK, Scores
from consisti2v_cli.evaluation.run import Judged
from consisti2v_cli.evaluation.sets import SPREADS, Spread
from consisti2v_cli.media.video import write_video

EVIL = """<img src=http://evil.example/x onerror="alert('1')">&amp;"'.mp4"""
VOID = {"meta", "link", "img", "input", "line", "circle", "polyline"}


def made(name: str, level: float, *, dynamic: bool = True, **changes: object) -> Judged:
    """A clip with values of all sizes, of which two are missing."""
    values = {measure.key: level / (number + 1) for number, measure in enumerate(QUICK)}
    values[quick.DYNAMIC.key] = dynamic
    for key in (quick.FIRST_PSNR.key, quick.SEAM.key):
        del values[key]
    reasons = {quick.FIRST_PSNR.key: "no recipe", quick.SEAM.key: EVIL}
    series = {"consistency": [0.9, level, 0.95], "motion": [2.0, 8.0, 4 * level], "change": [1.0]}
    clip = Judged(name, name, {"prompt": f"a {EVIL}", "seed": 7}, 4, 8.0, 256, 320, Scores(values, reasons, series))
    return replace(clip, **changes)


@pytest.fixture
def folders() -> dict[str, list[Judged]]:
    first = [made("b.mp4", 0.91), made("a10.mp4", 0.57, dynamic=False), made("a9.mp4", 0.68)]
    second = [made("b.webm", 0.95), made(EVIL, 0.5), Judged("broken.mp4", problem=f"no film: {EVIL}")]
    return {"be & fore": first, "af<ter>": second}


def told_of(folders: dict[str, list[Judged]]) -> dict:
    return report.as_json(folders, QUICK, {"metrics": "quick", "device": "cpu"})


@dataclass
class Node:
    """An element of a parsed page."""

    tag: str
    attributes: dict[str, str]
    children: list[Node | str] = field(default_factory=list)

    def all(self, tag: str, **wanted: str) -> list[Node]:
        """Those below, in order, that have a tag and classes or attributes."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                fits = all(value in child.attributes.get(name, "").split() for name, value in wanted.items())
                found += [child] if child.tag == tag and fits else []
                found += child.all(tag, **wanted)
        return found

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Tree(HTMLParser):
    """Parses a page strictly: what is opened is closed, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open = [Node("", {})]
        self.feed(page)
        assert len(self.open) == 1, f"not closed: {self.open[-1].tag}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parsed(page: str) -> Node:
    return Tree(page).open[0]


def rows_of(table: Node, part: str) -> list[list[Node]]:
    (body,) = table.all("tbody", **{"class": part})
    return [[cell for cell in row.children if isinstance(cell, Node)] for row in body.all("tr")]


def test_the_numbers_are_those_of_the_terminal(folders) -> None:
    page = parsed(page_html(told_of(folders), {}))
    tables = page.all("table", **{"class": "sorts"})
    for table, (name, judged) in zip(tables, folders.items(), strict=True):
        rows = rows_of(table, "clips")
        assert [row[0].all("span", **{"class": "name"})[0].text for row in rows] == [clip.name for clip in judged]
        *lines, last, _ = list(terminal.table(name, judged, QUICK))[-len(judged) - 2 :]
        for row, line, clip in zip(rows, lines, judged, strict=True):
            if not clip.problem:
                assert [cell.text for cell in row[2:]] == line.split()[-len(QUICK) :]
        ((head, _, *means),) = rows_of(table, "mean")
        assert [cell.children[0] for cell in (head, *means)] == [last[:9], *last.split()[-len(QUICK) :]]
        for cell, measure in zip(means, QUICK, strict=True):
            mean = report.summary(judged, measure)
            low, high = (
                (f"{bound * measure.scale:.{measure.digits}f}" for bound in (mean.low, mean.high)) if mean else "--"
            )
            assert [small.text for small in cell.all("small")] == ([f"{low} to {high}"] if mean else [])


def test_what_is_missing_has_its_reason(folders) -> None:
    table, other = parsed(page_html(told_of(folders), {})).all("table", **{"class": "sorts"})
    missing = [cell for cell in rows_of(table, "clips")[0] if cell.text == "-"]
    assert [cell.attributes["title"] for cell in missing] == ["no recipe", EVIL]
    assert all("data-value" not in cell.attributes for cell in missing)
    broken = rows_of(other, "clips")[-1]
    assert broken[1].text == f"Not measured: no film: {EVIL}"
    assert broken[1].attributes["colspan"] == str(len(QUICK) + 1)


def test_measures_are_explained_and_stand_ins_named(folders) -> None:
    page = parsed(page_html(told_of(folders), {}))
    heads = {head.attributes["data-label"]: head for head in page.all("th", scope="col") if "title" in head.attributes}
    assert list(heads) == [measure.label for measure in QUICK]
    about = heads[quick.COLOUR.label].attributes["title"]
    assert quick.COLOUR.about[1:] in about
    assert "Lower is better." in about
    values = [clip.scores.values[quick.COLOUR.key] for group in folders.values() for clip in group if not clip.problem]
    assert f"Here from {min(values):.1f} to {max(values):.1f}." in about
    assert "Neither more nor less is better." in heads[quick.MOTION.label].attributes["title"]
    assert {entry.text for entry in page.all("dt")} >= set(heads)
    (banner,) = page.all("p", **{"class": "stand-ins"})
    for measure in QUICK:
        assert (measure.label in banner.text) == ("(" in measure.label)
    own = [quick.FLICKERING, replace(quick.CONSISTENCY, label="subject (DINO B/16)", stands_in=False)]  # as the paper's
    assert parsed(page_html(report.as_json(folders, own, {}), {})).all("p", **{"class": "stand-ins"}) == []


def test_what_a_folder_has_as_a_whole_is_told(folders) -> None:
    fvd, *_, score = SPREADS
    found = {fvd.key: Spread(None, 3, "too <few>"), score.key: Spread(12.5, 30, "", 0.25, ["few clips"])}
    told = report.as_json(folders, QUICK, {}, {"af<ter>": found})
    first, second = parsed(page_html(told, {})).all("section")[1:3]
    assert first.all("p") == []
    assert [line.text for line in second.all("p")] == [
        f"Not measured: {fvd.label}: too <few>",
        f"{score.label}: 12.50 +- 0.25 over parts, of 30 clips; few clips",
    ]


def test_clips_that_do_not_move_are_marked(folders) -> None:
    page = parsed(page_html(told_of(folders), {}))
    marked = [row for table in page.all("table", **{"class": "sorts"}) for row in rows_of(table, "clips")]
    names = [
        row[0].all("span", **{"class": "name"})[0].text for row in marked if row[0].all("span", **{"class": "mark"})
    ]
    assert names == ["a10.mp4"]
    assert page.all("p", **{"class": "still"})[0].text.startswith("1 of 6 clips is not dynamic")


def test_curves_are_drawn_at_one_scale(folders) -> None:
    table = parsed(page_html(told_of(folders), {})).all("table", **{"class": "sorts"})[0]
    similarity, motion = rows_of(table, "clips")[0][1].all("svg")
    heights = [float(point.split(",")[1]) for point in motion.all("polyline")[0].attributes["points"].split()]
    assert heights[1] == min(heights) == 2.0  # 8 pixels are the most in any clip
    assert heights[0] == pytest.approx(32 - 30 * 2 / 8, abs=0.05)
    bound = float(motion.all("line", **{"class": "bound"})[0].attributes["y1"])
    assert bound == pytest.approx(32 - 30 * 6 / 8, abs=0.05)  # the threshold of 256 pixels is 6
    assert "90.0 to 95.0 over 3 pairs" in similarity.attributes["aria-label"]
    scores = Scores({"flickering": 0.5}, {}, {"change": [1.0]})
    plain = report.as_json({"x": [made("b.mp4", 0.5, scores=scores)]}, [quick.FLICKERING], {})
    assert parsed(page_html(plain, {})).all("svg") == []


def test_two_folders_are_compared(folders) -> None:
    told = told_of(folders)
    page = parsed(page_html(told, {}))
    (region,) = page.all("div", **{"class": "differences"})
    rows = [row for row in region.all("tr") if row.all("td")]
    said: list[str] = []
    lines = list(terminal.comparison(folders, QUICK, SimpleNamespace(notice=said.append)))
    assert told["comparison"]["pairs"] == [["b.mp4", "b.webm"]]
    for row, line in zip(rows, lines[-len(QUICK) :], strict=True):
        shown = [row.all("th")[0].text, *(cell.text for cell in row.all("td") if cell.text)]
        assert " ".join(shown).split() == line.split()
    assert said[0] in page.all("section")[0].text
    assert {row.attributes.get("class", "") for row in rows} == {""}  # one pair makes nothing sure
    many = {name: [made(f"{n}.mp4", level + n / 99) for n in range(5)] for name, level in (("a", 0.5), ("b", 0.6))}
    (region,) = parsed(page_html(told_of(many), {})).all("div", **{"class": "differences"})
    rows = [row for row in region.all("tr") if row.all("td")]
    assert rows[0].attributes["class"] == "gain"
    assert rows[[measure.key for measure in QUICK].index("colour_drift")].attributes["class"] == "loss"
    assert page_html(told_of({"one": folders["be & fore"]}), {}).count("Without a partner") == 0


def test_more_consistent_but_more_static_is_said(folders) -> None:
    less = {"x": [made("b.mp4", 0.9)], "y": [made("b.mp4", 0.95, dynamic=False)]}
    assert "more static too" in page_html(told_of(less), {})
    assert "more static too" not in page_html(told_of(folders), {})


def test_whatever_clips_are_called_the_page_is_safe(folders) -> None:
    text = page_html(told_of({EVIL: [made("half \udc80.mp4", 0.5)], **folders}), {})
    text.encode("utf-8")
    page = parsed(text)
    assert page.all("h1")[0].text == ", ".join([EVIL, *folders])
    assert page.all("img") == []
    assert len(page.all("script")) == 1
    every = [node for tag in {"a", "td", "th", "span", "small", "div", "svg", "p"} for node in page.all(tag)]
    assert not [name for node in every for name in node.attributes if name.startswith("on") or name == "style"]


def test_nothing_is_fetched_from_anywhere(folders) -> None:
    told = told_of(folders)
    thumbnails = {("be & fore", "b.mp4"): [b"\xff\xd8one", b"\xff\xd8two", b"\xff\xd8three"]}
    text = page_html(told, thumbnails)
    page = parsed(text.replace("http://evil.example", ""))
    assert [image.attributes["alt"] for image in page.all("img")] == ["first frame", "middle frame", "last frame"]
    addresses = [node.attributes.get(name) for node in page.all("img") + page.all("link") for name in ("src", "href")]
    assert all(address is None or address.startswith("data:") for address in addresses)
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp|src=[\"']?//", text.replace("http://evil.example", ""))
    (policy,) = [node for node in page.all("meta") if node.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"].startswith("default-src 'none'; img-src data:")


def test_thumbnails_are_the_first_middle_and_last_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", pan(), 8)
    found = [Image.open(io.BytesIO(data)) for data in thumbnails_of(Clip(path, path.name))]
    assert [image.format for image in found] == ["JPEG"] * 3
    for image, number in zip(found, (0, COUNT // 2, COUNT - 1), strict=True):
        errors = [np.abs(np.asarray(image.resize((128, 128))).astype(int) - frame).mean() for frame in pan()]
        assert np.argmin(errors) == number
    large = write_video(tmp_path / "large.webp", np.uint8([[[[0]]], [[[200]]]]) * np.ones((100, 1000, 3), np.uint8), 8)
    assert [Image.open(io.BytesIO(data)).size for data in thumbnails_of(Clip(large, "x"))] == [(176, 18)] * 2
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    with pytest.raises(RequestError, match=r"broken\.mp4"):
        thumbnails_of(Clip(tmp_path / "broken.mp4", "x"))


def test_it_sorts_and_explains_in_a_browser(folders, tmp_path: Path) -> None:
    clips = {name: make() for name, make in (("b.mp4", still), ("a9.mp4", flicker), ("a10.mp4", pan))}
    thumbnails = {}
    for name, frames in clips.items():
        write_video(tmp_path / name, frames, 8)
        thumbnails["be & fore", name] = thumbnails_of(Clip(tmp_path / name, name))
    many = [made(f"clip {number}.mp4", 0.5 + (number * 37 % 200) / 500) for number in range(200)]
    page = page_html(told_of({"be & fore": folders["be & fore"], "many": many}), thumbnails)
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    with browser(tmp_path) as chrome:
        chrome.get((tmp_path / "page.html").as_uri())
        table, long = chrome.find_elements("css selector", "table.sorts")
        heads = {head.get_attribute("data-label"): head for head in table.find_elements("css selector", "thead th")}

        def names(table=table) -> list[str]:
            return [name.text for name in table.find_elements("css selector", "tbody.clips .name")]

        def press(label: str) -> str:
            heads[label].find_element("css selector", "button").click()
            return heads[label].get_attribute("aria-sort")

        assert names() == ["b.mp4", "a10.mp4", "a9.mp4"]
        assert press("flickering") == "descending"
        assert names() == ["b.mp4", "a9.mp4", "a10.mp4"]
        assert press("flickering") == "ascending"
        assert names() == ["a10.mp4", "a9.mp4", "b.mp4"]
        assert press("colour drift") == "ascending"
        assert heads["flickering"].get_attribute("aria-sort") is None
        assert press("clip") == "ascending"
        assert names() == ["a9.mp4", "a10.mp4", "b.mp4"]
        chrome.execute_script("arguments[0].focus()", heads["seam"].find_element("css selector", "button"))
        tip = chrome.find_element("id", "tip")
        assert tip.is_displayed()
        assert "about 1 in a perfect loop" in tip.text
        broken = chrome.execute_script("return [...document.images].filter((image) => !image.naturalWidth).length")
        assert (broken, len(chrome.find_elements("css selector", ".strip img"))) == (0, 9)
        long.find_elements("css selector", "thead button")[1].click()
        values = [
            float(cell.get_attribute("data-value"))
            for cell in long.find_elements("css selector", "tbody.clips td:nth-child(3)")
        ]
        assert values == sorted(values, reverse=True)
        assert len(values) == 200
