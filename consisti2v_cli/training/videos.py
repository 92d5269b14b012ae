"""Clips from videos with captions: a random window at a random stride of a random video, decoded then or before."""

from __future__ import annotations

import csv
import io
import json
import logging
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch
from torch import Generator, Tensor

from consisti2v_cli.errors import ConsistI2VError, RequestError
from consisti2v_cli.kinds import suffixes
from consisti2v_cli.text import read_text_file
from consisti2v_cli.training.batch import STRIDES, Batch

SUFFIXES = (*suffixes("video"), ".gif")
MANIFESTS = ("captions.csv", "captions.jsonl")  # looked for in a folder; without one, NAME.txt stands beside NAME.mp4
_PROBES = 4  # videos looked at side by side when a source is opened
_SPARE = 2  # frames left at the end: containers count a few that are never shown

_log = logging.getLogger(__name__)


class UnreadableVideo(ConsistI2VError):
    """A video that cannot be decoded, or is too short. Never leaves this module: its message is kept as the reason."""


@dataclass(frozen=True)
class Video:
    path: Path
    caption: str
    frames: int
    seconds: float


class VideoClips:
    """A `ClipSource` of real videos.

    Videos that cannot be read are left out and warned of once each, and stay named in `unreadable`, by path with the
    reason, whether that is found when the source is opened or later, in the middle of a file.

    Args:
        spec: a manifest, CSV with the columns `file` and `caption` or JSON lines with these keys, whose files are
            relative to it; or a folder with `captions.csv`, `captions.jsonl`, or a NAME.txt beside each video.
        size: side of the frames; the short side is scaled to it and the middle is cut out.

    Raises:
        RequestError: the manifest or a caption is wrong or not UTF-8, or no video can be read.
    """

    def __init__(self, spec: str | Path, *, size: int, device: torch.device | str = "cpu") -> None:
        self.size = size
        self.device = torch.device(device)
        self.unreadable: dict[Path, str] = {}
        self.videos: list[Video] = []
        listed = list(_listed(Path(spec)))
        with ThreadPoolExecutor(_PROBES) as pool:
            for (path, _), found in zip(listed, pool.map(lambda item: _probe(*item), listed), strict=True):
                if isinstance(found, Video):
                    self.videos.append(found)
                else:
                    self._leave_out(path, found)
        if not self.videos:
            first = next((f": {path}: {reason}" for path, reason in self.unreadable.items()), "")
            raise RequestError(f"no video of {spec} can be read{first}")
        if self.unreadable:
            _log.warning("%d of %d videos are left out", len(self.unreadable), len(listed))

    def draw(self, batch: int, frames: int, generator: Generator) -> Batch:
        """Draw clips; a stride that a short video does not allow is made smaller.

        Raises:
            ConsistI2VError: no video is left that can be read and has so many frames.
        """
        drawn = [self._draw_one(frames, generator) for _ in range(batch)]
        clips = torch.stack([clip for clip, _, _ in drawn]).to(self.device)
        clips = clips.permute(0, 1, 4, 2, 3).float().div_(127.5).sub_(1)  # b f h w 3 -> b f 3 h w
        strides = torch.tensor([stride for _, _, stride in drawn], device=self.device)
        return Batch(clips, [video.caption for _, video, _ in drawn], [""] * batch, strides)

    def _draw_one(self, frames: int, generator: Generator) -> tuple[Tensor, Video, int]:
        # A video known to be bad costs the same draws as one found out now, so that a resumed run draws the same.
        while any(video.path not in self.unreadable for video in self.videos):
            video = self.videos[int(torch.randint(len(self.videos), (1,), generator=generator))]
            stride = int(torch.randint(1, STRIDES + 1, (1,), generator=generator))
            position = float(torch.rand(1, generator=generator))
            if video.path in self.unreadable:
                continue
            try:
                stride = min(stride, _largest_stride(video, frames))
                return self._window(video, frames, stride, position), video, stride
            except UnreadableVideo as error:
                self._leave_out(video.path, str(error))
        raise ConsistI2VError(f"none of the {len(self.videos)} videos can be read and has {frames} frames")

    def _window(self, video: Video, frames: int, stride: int, position: float) -> Tensor:
        """`f h w 3` bytes: `frames` frames, `stride` apart; only this part of the file is decoded."""
        span = (frames - 1) * stride + 1
        start = int(position * (max(video.frames - span - _SPARE, 0) + 1))
        # half a frame early, so that rounding cannot skip the first one
        seek = max(start - 0.5, 0) * video.seconds / video.frames
        size = self.size
        picture = f"select='not(mod(n,{stride}))',{_square(size)}"
        raw = _decode(video.path, ["-ss", f"{seek:.6f}"], ["-vf", picture, "-frames:v", str(frames)])
        if len(raw) < frames * size * size * 3:
            raise UnreadableVideo(
                f"{len(raw) // (size * size * 3)} of {frames} frames could be decoded from frame {start}"
            )
        return _frames(raw, size)

    def _leave_out(self, path: Path, reason: str) -> None:
        self.unreadable[path] = reason
        _log.warning("left out: %s: %s", path, reason)


class KeptClips(VideoClips):
    """The same, but each video is decoded once, when the source is opened, and waits on the device as bytes.

    For short films and small frames: `3 size^2` bytes a frame.
    """

    def __init__(self, spec: str | Path, *, size: int, device: torch.device | str = "cpu") -> None:
        super().__init__(spec, size=size, device=device)
        self._kept: dict[Path, Tensor] = {}
        with ThreadPoolExecutor(_PROBES) as pool:
            for video, found in zip(self.videos, pool.map(self._decode_all, self.videos), strict=True):
                if isinstance(found, str):
                    self._leave_out(video.path, found)
                else:
                    self._kept[video.path] = found.to(self.device)
        # With the numbers of frames that there are: headers may say another
        self.videos = [replace(v, frames=len(self._kept[v.path])) for v in self.videos if v.path in self._kept]
        if not self.videos:
            raise RequestError(f"no video of {spec} can be decoded: {next(iter(self.unreadable.values()))}")

    def _decode_all(self, video: Video) -> Tensor | str:
        """All frames, `f h w 3`, or why there are none."""
        try:
            found = _frames(_decode(video.path, [], ["-vf", _square(self.size)]), self.size)
            return found if len(found) else "no frame could be decoded"
        except UnreadableVideo as error:
            return str(error)

    def _window(self, video: Video, frames: int, stride: int, position: float) -> Tensor:
        span = (frames - 1) * stride + 1
        there = self._kept[video.path]
        start = int(position * (len(there) - span + 1))
        return there[start : start + span : stride]


def _square(size: int) -> str:
    """What makes squares of frames, for ffmpeg: the short side is scaled, the middle cut out."""
    return f"scale={size}:{size}:force_original_aspect_ratio=increase:flags=area,crop={size}:{size}"


def _frames(raw: bytes, size: int) -> Tensor:
    """Raw bytes -> `f h w 3`."""
    return torch.from_numpy(np.frombuffer(raw, np.uint8).reshape(-1, size, size, 3).copy())


def _largest_stride(video: Video, frames: int) -> int:
    if video.frames < frames:
        raise UnreadableVideo(f"it has {video.frames} frames, and clips of {frames} are wanted")
    return max(1, (video.frames - 1) // max(frames - 1, 1))


def _listed(source: Path) -> Iterator[tuple[Path, str | None]]:
    """Videos and their captions; None where a video of a folder has none."""
    if source.is_file():
        yield from _read_manifest(source)
        return
    if not source.is_dir():
        raise RequestError(f"{source} is neither a folder of videos nor a manifest")
    manifest = next((source / name for name in MANIFESTS if (source / name).is_file()), None)
    if manifest is not None:
        yield from _read_manifest(manifest)
        return
    for path in sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES):
        words = path.with_suffix(".txt")
        yield path, _read_text(words).strip() if words.is_file() else None


def _read_manifest(manifest: Path) -> Iterator[tuple[Path, str]]:
    text = _read_text(manifest)
    lines = io.StringIO(text, newline="")  # a quoted caption may have several
    rows = csv.DictReader(lines) if manifest.suffix.lower() == ".csv" else _json_lines(manifest, text)
    for number, row in enumerate(rows, start=1):
        file, caption = row.get("file"), row.get("caption")
        if not isinstance(file, str) or not isinstance(caption, str):
            raise RequestError(f"{manifest}, entry {number}: needs a `file` and a `caption`")
        yield manifest.parent / file, caption.strip()


def _read_text(path: Path) -> str:
    try:
        return read_text_file(path)
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8: {error}") from error


def _json_lines(manifest: Path, text: str) -> Iterator[dict[str, object]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise RequestError(f"{manifest}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise RequestError(f"{manifest}, line {number}: needs an object with `file` and `caption`")
        yield row


def _probe(path: Path, caption: str | None) -> Video | str:
    """The video, or why it cannot be used: counts its frames and decodes the first."""
    if not path.is_file():
        return "there is no such file"
    if caption is None:
        return f"no caption: {path.with_suffix('.txt').name} is missing"
    try:
        frames, seconds = imageio_ffmpeg.count_frames_and_secs(_url(path))
        if frames < 1 or seconds <= 0 or not _decode(path, [], ["-frames:v", "1"]):
            return "it holds no frames"
    except (RuntimeError, UnreadableVideo) as error:
        return _last_line(str(error))
    return Video(path, caption, frames, seconds)


def _decode(path: Path, before: list[str], after: list[str]) -> bytes:
    """Raw rgb24 bytes of what ffmpeg makes of the file."""
    start = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-threads", "1", *before, "-i", _url(path)]
    end = [*after, "-an", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run([*start, *end], capture_output=True, check=False)
    if done.returncode != 0:
        raise UnreadableVideo(_last_line(done.stderr.decode(errors="replace")))
    return done.stdout


def _url(path: Path) -> str:
    """The file for ffmpeg, which would take a name such as `a:b.mp4` for an address."""
    return f"file:{path}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "ffmpeg cannot read it"
