"""Clips from real video files, made with ffmpeg for the purpose."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from consisti2v_cli.errors import ConsistI2VError, RequestError
from consisti2v_cli.training.batch import Batch
from consisti2v_cli.training.data import MixedClips, open_clips
from consisti2v_cli.training.videos import KeptClips, VideoClips

FRAMES = 48


def write_video(path: Path, frames: int = FRAMES, width: int = 96, height: int = 64) -> Path:
    """A video whose frame n is a flat grey of brightness 20 + 4 n, so that a frame tells its number."""
    levels = 20 + 4 * np.arange(frames)
    raw = np.broadcast_to(levels[:, None, None, None], (frames, height, width, 3)).astype(np.uint8).tobytes()
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", "24", "-i", "-", "-c:v", "libx264", "-crf", "4", "-pix_fmt", "yuv420p"]
    subprocess.run([*command, str(path)], input=raw, check=True)
    return path


def numbers(clips: torch.Tensor) -> torch.Tensor:
    """Which frame each frame is, `b f`."""
    return ((clips.mean(dim=(2, 3, 4)) + 1) * 127.5 - 20) / 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good videos with captions, a broken one, one cut off in the middle, and one without a caption."""
    path = tmp_path_factory.mktemp("videos")
    write_video(path / "long.mp4")
    write_video(path / "short.mp4", frames=7, width=64, height=80)
    write_video(path / "silent.mp4", frames=5)
    (path / "broken.mp4").write_bytes(b"this is not a video" * 100)
    for name in ("long", "short", "broken"):
        (path / f"{name}.txt").write_text(f"the {name} video\n")
    return path


def test_a_window_at_a_stride_is_drawn(folder: Path) -> None:
    source = VideoClips(folder, size=32)
    batch = source.draw(40, 4, torch.Generator().manual_seed(0))
    assert batch.frames.shape == (40, 4, 3, 32, 32)
    assert batch.frames.dtype == torch.float32
    assert batch.frames.abs().max() <= 1
    assert set(batch.captions) == {"the long video", "the short video"}
    assert batch.motions == [""] * 40
    found = numbers(batch.frames)
    assert torch.allclose(found.diff(dim=1), batch.strides[:, None].float().expand(-1, 3), atol=0.4)
    assert set(batch.strides.tolist()) == {1, 2, 3, 4, 5}
    short = torch.tensor([caption == "the short video" for caption in batch.captions])
    assert batch.strides[short].max() == 2  # 7 frames allow no more
    starts = found[~short, 0].round()
    assert len(starts.unique()) > 8
    assert starts.max() > 20


def test_the_very_last_and_first_frames_can_be_drawn(tmp_path: Path) -> None:
    write_video(tmp_path / "one.mp4", frames=16)
    (tmp_path / "one.txt").write_text("all of it")
    batch = VideoClips(tmp_path, size=16).draw(6, 16, torch.Generator().manual_seed(0))
    assert batch.strides.tolist() == [1] * 6
    assert torch.allclose(numbers(batch.frames), torch.arange(16.0).expand(6, -1), atol=0.6)


def test_a_video_of_one_frame_will_do_for_clips_of_one(tmp_path: Path) -> None:
    write_video(tmp_path / "one.mp4", frames=1)
    (tmp_path / "one.txt").write_text("a picture")
    batch = VideoClips(tmp_path, size=16).draw(2, 1, torch.Generator().manual_seed(0))
    assert batch.strides.tolist() == [1, 1]
    assert torch.allclose(numbers(batch.frames), torch.zeros(2, 1), atol=0.6)


def test_a_name_may_look_like_an_address(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copyfile(folder / "long.mp4", tmp_path / "a:b.mp4")
    (tmp_path / "a:b.txt").write_text("a colon")
    monkeypatch.chdir(tmp_path)
    assert VideoClips(".", size=16).draw(1, 2, torch.Generator().manual_seed(0)).captions == ["a colon"]


def test_a_caption_in_quotes_may_have_two_lines(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f'file,caption\n{folder / "long.mp4"},"first\nsecond"\n')
    source = open_clips(str(tmp_path / "list.csv"), size=16)
    assert source.draw(1, 2, torch.Generator().manual_seed(0)).captions == ["first\nsecond"]


@pytest.mark.parametrize("name", ["captions.csv", "captions.jsonl", "one.txt"])
def test_text_that_is_not_utf_8_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "one.mp4").touch()
    (tmp_path / name).write_bytes("file,caption\none.mp4,café\n".encode("latin-1"))
    with pytest.raises(RequestError, match=f"{name} is not UTF-8"):
        VideoClips(tmp_path, size=16)


def test_the_same_generator_draws_the_same(folder: Path) -> None:
    first, again = (VideoClips(folder, size=16).draw(6, 3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.frames, again.frames)
    assert first.captions == again.captions
    assert torch.equal(first.strides, again.strides)


def test_what_cannot_be_read_is_named_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        source = VideoClips(folder, size=16)
        source.draw(20, 2, torch.Generator().manual_seed(0))
    assert set(source.unreadable) == {folder / "broken.mp4", folder / "silent.mp4"}
    assert "silent.txt" in source.unreadable[folder / "silent.mp4"]
    assert sum("broken.mp4" in record.getMessage() for record in caplog.records) == 1
    assert "2 of 4 videos" in caplog.text


def test_too_short_a_video_is_left_out_when_that_is_found(folder: Path) -> None:
    source = VideoClips(folder, size=16)
    assert set(source.draw(12, 10, torch.Generator().manual_seed(0)).captions) == {"the long video"}
    assert "7 frames" in source.unreadable[folder / "short.mp4"]
    # a run that starts again draws the same, though it knows by now
    known = source.draw(12, 10, torch.Generator().manual_seed(0))
    fresh = VideoClips(folder, size=16).draw(12, 10, torch.Generator().manual_seed(0))
    assert torch.equal(known.frames, fresh.frames)
    with pytest.raises(ConsistI2VError, match="100 frames"):
        source.draw(1, 100, torch.Generator().manual_seed(0))


def test_a_file_that_breaks_off_is_found_when_drawn(tmp_path: Path) -> None:
    write_video(tmp_path / "good.mp4", frames=20)
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), dtype=np.uint8).tobytes()
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x64"]
    cut = tmp_path / "cut.mp4"
    command += ["-r", "24", "-i", "-", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(cut)]
    subprocess.run(command, input=noise, check=True)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 3])
    (tmp_path / "captions.csv").write_text("file,caption\ngood.mp4,good\ncut.mp4,cut\n")
    source = VideoClips(tmp_path, size=16)
    captions = source.draw(30, 16, torch.Generator().manual_seed(0)).captions
    assert set(captions) == {"good"}
    assert list(source.unreadable) == [cut]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_manifest_names_files_and_captions(folder: Path, tmp_path: Path, kind: str) -> None:
    manifest = tmp_path / f"list.{kind}"
    rows = [(folder / "long.mp4", 'it gets "bright", slowly'), (tmp_path / "gone.mp4", "missing")]
    if kind == "csv":
        text = "file,caption\n" + "".join('{},"{}"\n'.format(file, words.replace('"', '""')) for file, words in rows)
    else:
        text = "".join(json.dumps({"file": str(file), "caption": words}) + "\n\n" for file, words in rows)
    manifest.write_text(text)
    source = open_clips(str(manifest), size=16)
    assert source.draw(2, 2, torch.Generator().manual_seed(0)).captions == ['it gets "bright", slowly'] * 2
    assert isinstance(source, VideoClips)
    assert source.unreadable == {tmp_path / "gone.mp4": "there is no such file"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "name,words\nx.mp4,y\n", "entry 1"),
        ("a.jsonl", '{"file": "x.mp4", "caption": "y"}\n{"file"\n', "line 2"),
        ("a.jsonl", '["x.mp4"]\n', "line 1"),
        ("a.csv", "file,caption\n", "no video"),
        ("a.csv", "file,caption\nx.mp4,y\n", "x.mp4: there is no such file"),
    ],
)
def test_wrong_manifests_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RequestError, match=message):
        open_clips(str(tmp_path / name), size=16)


def test_missing_places_and_motions_for_videos_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="neither"):
        open_clips(str(tmp_path / "nowhere"), size=16)
    with pytest.raises(RequestError, match="no video"):
        open_clips(str(tmp_path), size=16)
    with pytest.raises(RequestError, match="synthetic"):
        open_clips(str(folder), size=16, motions=["left"])


def test_kept_videos_are_decoded_once_and_windows_lie_within_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = KeptClips(folder, size=32)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("decoded again"))
    batch = source.draw(60, 4, torch.Generator().manual_seed(0))
    assert batch.frames.shape == (60, 4, 3, 32, 32)
    assert set(batch.captions) == {"the long video", "the short video"}
    found = numbers(batch.frames)
    assert torch.allclose(found.diff(dim=1), batch.strides[:, None].float().expand(-1, 3), atol=0.4)
    long = torch.tensor([caption == "the long video" for caption in batch.captions])
    assert found[long].min() < 4
    assert found[long].max() > FRAMES - 5
    again = source.draw(60, 4, torch.Generator().manual_seed(0))
    assert torch.equal(again.frames, batch.frames)


def test_a_kept_video_that_breaks_off_gives_what_there_is(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4")
    (tmp_path / "whole.txt").write_text("whole")
    cut = tmp_path / "cut.avi"
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(whole), "-c:v", "mjpeg", "-q:v", "2", str(cut)],
        check=True,
    )
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 4])
    (tmp_path / "cut.txt").write_text("cut")
    source = KeptClips(tmp_path, size=16)
    batch = source.draw(40, 2, torch.Generator().manual_seed(0))
    assert set(batch.captions) <= {"whole", "cut"}
    assert numbers(batch.frames).diff(dim=1).min() > 0.5
    assert source.draw(8, 40, torch.Generator().manual_seed(0)).captions == ["whole"] * 8


class Always:
    """A source of clips that all say the same."""

    def __init__(self, word: str, level: float) -> None:
        self.word, self.level = word, level

    def draw(self, batch: int, frames: int, generator: torch.Generator) -> Batch:
        clips = torch.full((batch, frames, 3, 4, 4), self.level)
        return Batch(clips, [self.word] * batch, [""] * batch, torch.full((batch,), int(self.level * 4)))


def test_two_sources_are_mixed_by_their_share() -> None:
    mixed = MixedClips(Always("made", 0.25), Always("real", 0.5), 0.25)
    batches = [mixed.draw(8, 2, torch.Generator().manual_seed(seed)) for seed in range(50)]
    for batch in batches:
        assert batch.frames.shape == (8, 2, 3, 4, 4)
        for caption, clip, stride in zip(batch.captions, batch.frames, batch.strides, strict=True):
            assert clip.mean() == (0.5 if caption == "real" else 0.25)
            assert stride == (2 if caption == "real" else 1)
    real = sum(caption == "real" for batch in batches for caption in batch.captions)
    assert 70 < real < 130
