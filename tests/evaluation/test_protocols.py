"""The paper's protocols on made-up data sets: what is drawn, what is missing, and the tables against the paper's."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference_numbers import FOLDER

from consisti2v_cli.errors import RequestError
from consisti2v_cli.evaluation.datasets import UCF101_PROMPTS, Sample, class_shares, first_frame, real_clip, square
from consisti2v_cli.evaluation.metrics import weighted_mean
from consisti2v_cli.evaluation.protocols import (
    I2V_BENCH,
    I2V_BENCH_COUNTS,
    MSRVTT,
    PROTOCOLS,
    UCF101,
    read_samples,
    shortfalls,
    table_lines,
)
from consisti2v_cli.evaluation.quick import DYNAMIC, SMOOTHNESS
from consisti2v_cli.evaluation.tables import cut
from consisti2v_cli.media.video import write_video

SHADE, COUNT = 6, 40  # grey levels from frame to frame, frames of a video
NAMES = [f"Class{number:03d}" for number in range(101)]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video, 40x24, whose frames tell their number by their shade."""
    frames = np.stack([np.full((24, 40, 3), SHADE * number, np.uint8) for number in range(COUNT)])
    return write_video(tmp_path_factory.mktemp("video") / "shades.mp4", frames, 25, quality=100)


def number_of(frame: np.ndarray) -> int:
    return round(float(frame.mean()) / SHADE)


@pytest.fixture(scope="module")
def ucf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 101 classes of 25 videos each, but 150 in the first; names alone matter."""
    folder = tmp_path_factory.mktemp("ucf")
    for index, name in enumerate(NAMES):
        (folder / "UCF-101" / name).mkdir(parents=True)
        for number in range(25 if index else 150):
            (folder / "UCF-101" / name / f"v_{name}_c{number:03d}.avi").touch()
    return folder


def write_msrvtt(folder: Path) -> Path:
    """Three test clips with 20 captions each, and one for training."""
    names = ["video7010", "video7011", "video7012", "video3"]
    splits = dict(zip(names, ["test"] * 3 + ["train"], strict=True))
    told = {
        "videos": [{"video_id": name, "split": split, "category": 9} for name, split in splits.items()],
        "sentences": [{"video_id": name, "caption": f"{name} does {n}"} for name in names for n in range(20)],
    }
    (folder / "TestVideo").mkdir(parents=True)
    for name in names[:3]:
        (folder / "TestVideo" / f"{name}.mp4").touch()
    (folder / "test_videodatainfo.json").write_text(json.dumps(told))
    return folder


def test_the_prompts_are_the_papers() -> None:
    prompts = UCF101_PROMPTS.read_text(encoding="utf-8").splitlines()
    assert len(prompts) == len(set(prompts)) == 101
    assert (prompts[0], prompts[34], prompts[-1]) == (
        "applying eye makeup",
        "a person hammering a nail",
        "a kid playing Yo-Yo",
    )
    assert all(prompt == prompt.strip() != "" for prompt in prompts)


def test_classes_come_as_often_as_they_are(ucf: Path) -> None:
    samples = read_samples(UCF101, ucf, seed=3)
    found = Counter(sample.category for sample in samples)
    assert len(samples) == len({sample.name for sample in samples}) == 2048
    whole = 150 + 100 * 25
    assert found["Class000"] == round(2048 * 150 / whole)
    assert {found[name] for name in NAMES[1:]} == {19, 20}
    prompts = UCF101_PROMPTS.read_text(encoding="utf-8").splitlines()
    assert {sample.prompt for sample in samples if sample.category == "Class100"} == {prompts[100]}


def test_shares_are_rounded_by_largest_remainders() -> None:
    assert class_shares({"a": 5, "b": 3, "c": 2}, 4) == {"a": 2, "b": 1, "c": 1}  # 2.0, 1.2, 0.8
    assert class_shares({"a": 1, "b": 1, "c": 1}, 2) == {"a": 1, "b": 1, "c": 0}
    assert class_shares({"a": 7, "b": 2}, 9) == {"a": 7, "b": 2}


def test_what_is_drawn_depends_on_the_seed_alone(ucf: Path) -> None:
    one = read_samples(UCF101, ucf, seed=3)
    assert read_samples(UCF101, ucf / "UCF-101", seed=3) == [
        replace(sample, source=ucf / "UCF-101" / sample.category / sample.source.name) for sample in one
    ]
    assert read_samples(UCF101, ucf, seed=3, clips=64) == one[:64]
    other = read_samples(UCF101, ucf, seed=4)
    assert {sample.name for sample in one} != {sample.name for sample in other}
    draws = [sample.draw for sample in one]
    assert 0 <= min(draws) < 0.01 < 0.99 < max(draws) < 1
    assert np.mean(draws) == pytest.approx(0.5, abs=0.03)
    assert len({sample.seed for sample in one}) == 2048


def test_the_published_order_of_classes_ignores_case(tmp_path: Path) -> None:
    """Hammering stands before HammerThrow, as its prompt does."""
    for name in [*NAMES[:33], "HammerThrow", "Hammering", *(f"Z{number:02d}" for number in range(66))]:
        (tmp_path / name).mkdir()
        for number in range(21):
            (tmp_path / name / f"v_{name}_{number}.avi").touch()
    prompts = {sample.category: sample.prompt for sample in read_samples(UCF101, tmp_path)}
    listed = UCF101_PROMPTS.read_text(encoding="utf-8").splitlines()
    assert (prompts["Hammering"], prompts["HammerThrow"]) == (listed[33], listed[34])


def test_an_incomplete_ucf101_is_refused(ucf: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="There is no folder"):
        read_samples(UCF101, tmp_path / "nowhere")
    (tmp_path / "UCF-101" / "Archery").mkdir(parents=True)
    (tmp_path / "UCF-101" / "Archery" / "a.avi").touch()
    (tmp_path / "UCF-101" / "Biking").mkdir()
    with pytest.raises(RequestError, match=r"has 1 folders with \.avi files; UCF-101 has 101"):
        read_samples(UCF101, tmp_path)
    for name in NAMES[1:]:
        (tmp_path / "UCF-101" / name).mkdir()
        (tmp_path / "UCF-101" / name / "v.avi").touch()
    with pytest.raises(RequestError, match="has 101 videos; 2048 are drawn"):
        read_samples(UCF101, tmp_path)
    with pytest.raises(RequestError, match="possible: 1 to 2048"):
        read_samples(UCF101, ucf, clips=2049)


def test_listed_videos_must_be_there(ucf: Path) -> None:
    lists = ucf / "ucfTrainTestlist"
    lists.mkdir()
    try:
        (lists / "trainlist01.txt").write_text("Class001/v_Class001_c000.avi 2\nClass001/v_Class001_c099.avi 2\n")
        (lists / "classInd.txt").write_text("1 Class000\n")
        with pytest.raises(RequestError, match=r"1 of 2 listed videos .* such as Class001/v_Class001_c099.avi"):
            read_samples(UCF101, ucf)
        (lists / "trainlist01.txt").write_text("Class001/v_Class001_c000.avi 2\n")
        assert len(read_samples(UCF101, ucf)) == 2048
    finally:
        shutil.rmtree(lists)


def test_msrvtt_draws_one_caption_of_each_test_clip(tmp_path: Path) -> None:
    folder = write_msrvtt(tmp_path / "msrvtt")
    samples = read_samples(MSRVTT, folder, seed=1)
    assert {sample.name for sample in samples} == {"video7010", "video7011", "video7012"}
    assert all(sample.prompt.startswith(f"{sample.name} does ") for sample in samples)
    assert read_samples(MSRVTT, folder, seed=1) == samples
    drawn = {read_samples(MSRVTT, folder, seed=seed)[0].prompt.split()[-1] for seed in range(40)}
    assert len(drawn) > 10


def test_an_incomplete_msrvtt_is_refused(tmp_path: Path) -> None:
    folder = write_msrvtt(tmp_path / "msrvtt")
    (folder / "TestVideo" / "video7011.mp4").unlink()
    with pytest.raises(RequestError, match=r"lists 3 test clips; 1 of them have no video .* such as video7011"):
        read_samples(MSRVTT, folder)
    (folder / "test_videodatainfo.json").write_text('{"videos": [{"video_id": "video7010", "split": "test"}]}')
    with pytest.raises(RequestError, match="is not MSR-VTT's"):
        read_samples(MSRVTT, folder)
    (folder / "test_videodatainfo.json").write_text('{"videos": [], "sentences": []}')
    with pytest.raises(RequestError, match="lists no clip of the split"):
        read_samples(MSRVTT, folder)
    (folder / "test_videodatainfo.json").unlink()
    with pytest.raises(RequestError, match=r"no MSRVTT_data\.json and no test_videodatainfo\.json"):
        read_samples(MSRVTT, folder)


def test_i2v_bench_takes_prompts_from_texts_and_lists(tmp_path: Path) -> None:
    for name in ("Pet/a.mp4", "Pet/b.png", "Animal/c.mp4", "Animal/b.mp4", "top.webm", ".hidden/x.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "Pet" / "a.txt").write_text("a cat yawns\n")
    (tmp_path / "more.csv").write_text("video,caption,category\nPet/b.png,a dog sits,Dog\n")
    (tmp_path / "captions.json").write_text(json.dumps({"c.mp4": "a fox runs", "Animal/b": {"prompt": "a bird"}}))
    (tmp_path / "rest.jsonl").write_text('{"file": "top.webm", "text": "rain"}\n\n')
    (tmp_path / "scores.json").write_text("[1, 2]")
    samples = {sample.name: sample for sample in read_samples(I2V_BENCH, tmp_path)}
    assert {name: (sample.prompt, sample.category) for name, sample in samples.items()} == {
        "Pet/a": ("a cat yawns", "Pet"),
        "Pet/b": ("a dog sits", "Dog"),
        "Animal/c": ("a fox runs", "Animal"),
        "Animal/b": ("a bird", "Animal"),
        "top": ("rain", ""),
    }
    assert {sample.draw for sample in samples.values()} == {0}


def test_an_incomplete_i2v_bench_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has no clips; expected of I2V-Bench: videos or pictures"):
        read_samples(I2V_BENCH, tmp_path)
    for place in ("Pet", "Food"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "1.mp4").touch()
    (tmp_path / "Pet" / "1.txt").write_text("a cat")
    with pytest.raises(RequestError, match=r"1 of 2 clips .* have no prompt, such as Food/1"):
        read_samples(I2V_BENCH, tmp_path)
    (tmp_path / "all.json").write_text('{"1.mp4": "which of both"}')
    with pytest.raises(RequestError, match=r"1 listed clips are not, or not once, .* such as all.json: 1.mp4"):
        read_samples(I2V_BENCH, tmp_path)
    (tmp_path / "all.json").write_text("{")
    with pytest.raises(RequestError, match=r"all\.json cannot be read"):
        read_samples(I2V_BENCH, tmp_path)


@pytest.mark.parametrize(("draw", "frame", "start"), [(0.0, 0, 0), (0.35, 14, 14), (0.62, 24, 24), (0.99, 39, 24)])
def test_real_clips_begin_at_the_drawn_frame_or_end_with_the_video(video: Path, draw, frame, start) -> None:
    sample = Sample("x", video, draw, "p", "", 0)
    assert number_of(first_frame(sample, 16)) == frame
    clip = real_clip(sample, 16, 16)
    assert clip.shape == (16, 16, 16, 3)
    assert [number_of(shown) for shown in clip] == list(range(start, start + 16))


def test_short_videos_and_pictures(video: Path, tmp_path: Path) -> None:
    clip = real_clip(Sample("x", video, 0.5, "p", "", 0), 8, COUNT + 2)
    assert [number_of(shown) for shown in clip] == [*range(COUNT), COUNT - 1, COUNT - 1]
    Image.new("RGB", (30, 20), (200, 100, 0)).save(tmp_path / "photo.png")
    picture = Sample("x", tmp_path / "photo.png", 0.0, "p", "", 0)
    assert first_frame(picture, 8)[3, 3].tolist() == [200, 100, 0]
    with pytest.raises(RequestError, match="a real clip is needed"):
        real_clip(picture, 8, 16)
    (tmp_path / "broken.avi").write_bytes(b"no film")
    with pytest.raises(RequestError, match=r"broken\.avi"):
        first_frame(Sample("x", tmp_path / "broken.avi", 0.5, "p", "", 0), 8)


def test_frames_lose_their_sides_and_pixels_are_means_of_areas() -> None:
    frame = np.zeros((4, 8, 3), np.uint8)
    frame[:, :2] = 255  # cut off
    frame[0, 2] = 100
    assert square(frame, 2)[:, :, 0].tolist() == [[25, 0], [0, 0]]
    wide = np.array([[0, 90], [0, 90]], np.uint8)[:, :, None].repeat(3, axis=2)
    assert square(wide, 3)[0, :, 0].tolist() == [0, 45, 90]  # the middle one has half of both
    assert (square(frame[:, 2:6], 4) == frame[:, 2:6]).all()


@pytest.mark.parametrize(
    ("key", "row"),
    [
        ("ucf101", "ConsistI2V 177.66 56.22 15.74"),
        ("ucf101", "AnimateAnything 642.64 63.87 10.00"),
        ("msrvtt", "SEINE 152.63 0.2774"),
        ("msrvtt", "ConsistI2V 104.58 0.2674"),
        ("i2v-bench", "ConsistI2V 96.65 97.77 37.48 94.69 90.85 32.06 24.81 19.50"),
        ("i2v-bench", "AnimateAnything 99.08 99.23 3.69 98.50 97.90 32.56 27.18 18.74"),
    ],
)
def test_tables_have_the_papers_rows(key: str, row: str) -> None:
    lines = table_lines(PROTOCOLS[key], {})
    assert row in [" ".join(line.split()) for line in lines]
    assert len([line for line in lines if line.split()[0] in PROTOCOLS[key].reference]) == 5


def test_the_papers_rows_agree_with_its_appendix() -> None:
    block = json.loads((FOLDER / "evaluation_cases.json").read_text())["paper_aggregation"]
    assert list(I2V_BENCH_COUNTS.values()) == list(block["counts"].values())
    by_category = dict(zip(I2V_BENCH_COUNTS, block["consisti2v_dynamic_degree_by_category"], strict=True))
    printed = I2V_BENCH.reference["ConsistI2V"][I2V_BENCH.metrics.index("dynamic_raft")]
    assert weighted_mean(by_category, I2V_BENCH_COUNTS) == pytest.approx(printed, abs=0.01)
    assert sum(I2V_BENCH_COUNTS.values()) == I2V_BENCH.clips


def test_values_are_cut_and_not_rounded() -> None:
    assert cut(0.354375, 2, 100) == "35.43"
    assert cut(0.321875, 2, 100) == "32.18"
    assert cut(0.29, 2, 100) == "29.00"  # 28.999999999999996 as a product
    assert cut(0.26749, 4) == "0.2674"
    assert cut(177.669) == "177.66"
    assert cut(-0.001) == "0.00"
    assert cut(None) == cut(float("nan")) == cut(float("inf")) == "-"


def test_our_row_stands_beneath_and_what_has_no_value_is_a_dash() -> None:
    lines = table_lines(I2V_BENCH, {"flickering": 0.966599, "scene_tag2text": None}, name="sketch", notes=["a note"])
    row = next(line for line in lines if line.startswith("sketch"))
    assert row.split() == ["sketch", "96.65", *["-"] * 7]
    assert lines.index(row) == lines.index(next(line for line in lines if line.startswith("ConsistI2V"))) + 1
    assert len({len(line) for line in lines[1 : lines.index(row) + 1] if line.endswith("0")}) == 1  # aligned
    below = lines[lines.index(row) + 1 :]
    assert [f"- {text}" for text in ("a note", *I2V_BENCH.assumptions)] == below[1:]


def test_stand_ins_have_columns_of_their_own() -> None:
    ours = {"dynamic_dis": 0.5, "smoothness_dis": 0.97339}
    lines = table_lines(I2V_BENCH, ours, name="sketch", stand_ins=[DYNAMIC, SMOOTHNESS])
    row = next(line for line in lines if line.startswith("sketch")).split()
    assert row == ["sketch", *["-"] * 8, "50.00", "97.34"]
    assert next(line for line in lines if line.startswith("SEINE")).split()[-2:] == ["-", "-"]
    assert "(DIS flow)" in lines[2]
    with pytest.raises(ValueError, match="no column is called dynamic_dis"):
        table_lines(I2V_BENCH, ours, stand_ins=[SMOOTHNESS])
    with pytest.raises(ValueError, match="cannot stand in"):
        table_lines(I2V_BENCH, {}, stand_ins=[replace(SMOOTHNESS, key="smoothness_amt")])


def test_fewer_clips_than_the_papers_are_said(ucf: Path, tmp_path: Path) -> None:
    assert shortfalls(UCF101, read_samples(UCF101, ucf)) == []
    (few,) = shortfalls(UCF101, read_samples(UCF101, ucf, clips=20))
    assert few.startswith("Measured on 20 clips; the paper's values are of 2048. Frechet")
    (tmp_path / "Pet").mkdir()
    (tmp_path / "Pet" / "a.mp4").touch()
    (tmp_path / "Pet" / "a.txt").write_text("a cat")
    said = shortfalls(I2V_BENCH, read_samples(I2V_BENCH, tmp_path))
    assert "Pet 1 of 393" in said[1]
