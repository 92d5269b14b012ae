"""Long video (paper, section 5.5): clips joined in latents, each beginning with the last frame of the one before."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from consisti2v_cli.clip import Film
from consisti2v_cli.errors import RequestError
from consisti2v_cli.latents import decode_frames, encode_picture
from consisti2v_cli.layout import first_picture
from consisti2v_cli.media.sound import Soundtrack
from consisti2v_cli.recipe import Recipe
from consisti2v_cli.render import (
    DECODING,
    OnEvent,
    OnPreview,
    as_loaded,
    denoise,
    encode_prompts,
    load_for,
    painter,
    running,
)
from consisti2v_cli.sources import Beginning, SourceFrames, begin, prompt_of, settle
from consisti2v_cli.weights import require
from consisti2v_cli.weights.load import Model
from consisti2v_cli.weights.offload import OnNotice
from consisti2v_cli.work import Work, packed_frame, read_frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNKS = "chunks"  # the stage that counts them; between two of its events come those of one chunk


def render_film(
    recipe: Recipe,
    source: Beginning | Path | str | bytes,
    *,
    model: Model | None = None,
    vram: float | None = None,
    work: Work | None = None,
    on_event: OnEvent | None = None,
    on_notice: OnNotice | None = None,
    on_preview: OnPreview | None = None,
) -> LongFilm:
    """A film of several chunks, `chunks (frames - 1) + 1` frames long: neighbours share a frame.

    Nothing is rendered here, but when the film's frames are gone through for the first time: chunk by chunk, so that
    an encoder works meanwhile, and memory does not grow with their number. With the same recipe, machine and device the
    frames are the same bit for bit, in one go or in many: each chunk has a seed of its own. The first chunk is the
    clip that `render` makes of the same image and seed.

    Args:
        recipe: of the command `extend`; what is open is settled.
        source: an image or a film, or what `begin` made of it.
        model: by default the recipe's own is loaded.
        work: where finished chunks are kept and looked for; by default a folder that goes away with the film.
        on_event: called with `CHUNKS`, how many are done and how many there are, and as in `render` for each chunk;
            what it raises ends the run.
        vram, on_notice, on_preview: as in `render`.

    Raises:
        RequestError: a value that cannot be rendered, an unreadable source.
        WeightsError: weights missing or damaged.
        ConsistI2VError: while the frames are gone through: out of memory, a result that is not finite, or chunks that
            cannot be kept.
    """
    if recipe.command != "extend":
        raise RequestError(
            f"A recipe of {recipe.command} makes a clip, not a film: render it with consisti2v_cli.render."
        )
    event, notice = on_event or _ignore, on_notice or _ignore
    folder = model.folder if model else require(recipe.model, recipe.revision)
    beginning = source if isinstance(source, Beginning) else begin(source)
    if not recipe.input_sha256:
        recipe, beginning = settle(recipe, beginning, folder)
    if model is None:
        height, width, _ = beginning.picture.shape
        model = load_for(recipe, folder, (width, height), vram=vram, on_part=event)
    recipe = as_loaded(recipe, model)
    studio = _Studio(recipe, beginning, model, event, notice, on_preview)
    made = ChunkFrames(studio, work)
    front = beginning.front(recipe) if recipe.join else None
    return LongFilm(Joined(front, made) if front else made, recipe, made, front)


@dataclass(frozen=True)
class LongFilm(Film):
    """A film of chunks."""

    made: ChunkFrames  # its frames without those of a source that stand in front
    front: SourceFrames | None = None  # those, where there are any

    @property
    def last_latent(self) -> NDArray[np.float32] | None:
        """The exact latent of the last frame, `c h w`; None before the frames were gone through."""
        return self.made.last_latent

    @property
    def soundtrack(self) -> Soundtrack | None:
        """The sound of what stands in front."""
        return self.front.soundtrack if self.front and self.recipe.audio else None

    @property
    def drift(self) -> Drift | None:
        """How the film changed on its way; None before the frames were gone through."""
        return self.made.drift


@dataclass(frozen=True)
class Drift:
    """How far the last of a film's frames has come from the first."""

    frames: int
    colour: float  # largest change of a channel's mean, of 255
    sharpness: float  # change of the fine detail, as a share of the first frame's

    @classmethod
    def between(cls, first: NDArray[np.uint8], last: NDArray[np.uint8], frames: int) -> Drift:
        """Measure two frames `h w 3` that are the ends of so many."""
        colour = np.abs(last.mean((0, 1)) - first.mean((0, 1))).max()
        before, after = _sharpness(first), _sharpness(last)
        return cls(frames, float(colour), (after - before) / before if before else 0.0)

    def __str__(self) -> str:
        return (
            f"Drift over {self.frames} frames: colour {self.colour:.1f} of 255, sharpness {100 * self.sharpness:+.0f} %"
        )


class ChunkFrames:
    """The frames of all chunks, shared ones once: made when they are first gone through, later read where they are
    kept.
    """

    def __init__(self, studio: _Studio, work: Work | None) -> None:
        self._studio = studio
        self._temporary = None if work else tempfile.TemporaryDirectory(prefix="consisti2v-")
        self._work = work or Work(Path(self._temporary.name if self._temporary else ""))
        self._latest: tuple[int, Tensor] | None = None  # a chunk, and its latents 1 c f h w on the CPU
        self.last_latent: NDArray[np.float32] | None = None
        self.drift: Drift | None = None

    def __len__(self) -> int:
        recipe = self._studio.recipe
        return recipe.chunks * (recipe.frames - 1) + 1

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        chunks = self._studio.recipe.chunks
        first = last = None
        for chunk in range(1, chunks + 1):
            self._studio.event(CHUNKS, chunk - 1, chunks)
            for frame in self._chunk(chunk):
                first = frame if first is None else first
                last = frame
                yield frame
        if first is not None and last is not None:
            self.drift = Drift.between(first, last, len(self))
        self.last_latent = self._latents(chunks)[0, :, -1].numpy()
        self._studio.event(CHUNKS, chunks, chunks)

    def _chunk(self, chunk: int) -> Iterator[NDArray[np.uint8]]:
        """The frames of a chunk but for the first one, which the chunk before has; the first chunk's are all there."""
        shared = 0 if chunk == 1 else 1
        kept = self._work.frames(chunk)
        if kept is not None and len(kept) == self._studio.recipe.frames - shared:
            yield from map(read_frame, kept)
            return
        packed = []
        for frame in self._studio.decode(self._latents(chunk)[:, :, shared:]):
            packed.append(packed_frame(frame))
            yield frame
        self._work.keep_frames(chunk, packed)

    def _latents(self, chunk: int) -> Tensor:
        """The latents of a chunk, `1 c f h w`; it and those before it are made as far as they are not there."""
        number = next((n for n in range(chunk, 0, -1) if self._known(n)), 0)
        while number < chunk or self._latest is None:
            number += 1
            latents = self._studio.make(number, self._latest[1][:, :, -1:] if self._latest and number > 1 else None)
            self._work.keep_latents(number, latents[0].numpy())
            self._latest = number, latents
        return self._latest[1]

    def _known(self, chunk: int) -> bool:
        """Whether the latents of a chunk are at hand or kept; then they become the latest."""
        if self._latest and self._latest[0] == chunk:
            return True
        kept = self._work.latents(chunk)
        if kept is None or kept.ndim != 4 or kept.shape[1] != self._studio.recipe.frames:
            return False
        self._latest = chunk, torch.from_numpy(kept)[None]
        return True


class _Studio:
    """What makes one chunk of the one before."""

    def __init__(
        self,
        recipe: Recipe,
        beginning: Beginning,
        model: Model,
        event: OnEvent,
        notice: OnNotice,
        on_preview: OnPreview | None,
    ) -> None:
        self.recipe = recipe
        self.event = event
        self._beginning = beginning
        self._model = model
        self._notice = notice
        self._on_preview = on_preview
        self._texts: tuple[str, tuple[Tensor, Tensor]] | None = None  # the prompt that they are the conditions of

    def make(self, chunk: int, z1: Tensor | None) -> Tensor:
        """The latents of a chunk, `1 c f h w` on the CPU; it begins with `z1`, the first one with the source."""
        recipe, generator = self.recipe, torch.Generator().manual_seed(chunk_seed(self.recipe.seed, chunk))
        with running(recipe):
            z1 = self._first_latent(generator) if z1 is None else z1
            texts = self._encoded(prompt_of(recipe, chunk))
            latents = denoise(
                recipe,
                self._model,
                z1,
                texts,
                generator,
                on_event=self.event,
                on_notice=self._notice,
                on_estimate=self._estimate,
            ).cpu()
            return anchored(latents, self._reference, recipe.anchor) if recipe.anchor else latents

    def decode(self, latents: Tensor) -> Iterator[NDArray[np.uint8]]:
        """Latents `1 c f h w` -> frames `h w 3`; hears of `DECODING`."""
        total, frames = latents.shape[2], decode_frames(self._model, latents, self._notice)
        self.event(DECODING, 0, total)
        for done in range(1, total + 1):
            with running(self.recipe):  # for one frame at a time: what goes on between two is not ours
                frame = next(frames)
            self.event(DECODING, done, total)
            yield frame

    def _first_latent(self, generator: torch.Generator) -> Tensor:
        """The film's `z1`, `1 c 1 h w`. As in `render`, the autoencoder draws before the noise is drawn."""
        if self._beginning.latent is not None:
            return torch.from_numpy(self._beginning.latent)[None, :, None]
        return encode_picture(self._model, self._picture, generator, self._notice)

    def _encoded(self, prompt: str) -> tuple[Tensor, Tensor]:
        if self._texts is None or self._texts[0] != prompt:
            self._texts = prompt, encode_prompts(self.recipe, self._model, self._notice, prompt)
        return self._texts[1]

    @cached_property
    def _picture(self) -> NDArray[np.uint8]:
        return first_picture(self.recipe, self._beginning.picture)

    @cached_property
    def _reference(self) -> Tensor:
        return self._first_latent(torch.Generator().manual_seed(self.recipe.seed))

    @cached_property
    def _estimate(self) -> Callable[[Tensor], None] | None:
        return painter(self._reference, self._picture, self._on_preview) if self._on_preview else None


def chunk_seed(seed: int, chunk: int) -> int:
    """The seed of a chunk's noise, so that a film can go on from any chunk: the film's own for the first one."""
    if chunk == 1:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{chunk}".encode()).digest()[:8], "big") >> 1


def anchored(latents: Tensor, reference: Tensor, anchor: float) -> Tensor:
    """Pull a chunk's colours back to those of the film's first frame; not in the paper.

    Each channel's mean and standard deviation over a frame are moved towards the reference's: not at all in the chunk's
    first frame, which it shares with the chunk before, then more from frame to frame, up to `anchor` in the last one,
    which is handed on. So there are no seams, and the next chunk begins where this one ended.

    Args:
        latents: of the chunk, `1 c f h w`.
        reference: of the film's first frame, `1 c 1 h w`.
        anchor: 0..1, the share of the difference that is taken away.

    Returns:
        `1 c f h w`.
    """
    share = anchor * torch.linspace(0, 1, latents.shape[2])[:, None, None]  # f 1 1
    deviation, mean = torch.std_mean(latents, (3, 4), keepdim=True)
    wanted_deviation, wanted_mean = torch.std_mean(reference, (3, 4), keepdim=True)
    matched = (latents - mean) * (wanted_deviation / deviation.clamp_min(1e-6)) + wanted_mean
    return latents + share * (matched - latents)


class Joined:
    """Frames behind the frames of a source film."""

    def __init__(self, front: SourceFrames, rest: ChunkFrames) -> None:
        self._front = front
        self._rest = rest

    def __len__(self) -> int:
        return len(self._front) + len(self._rest)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return chain(self._front, self._rest)


def _sharpness(frame: NDArray[np.uint8]) -> float:
    """How much neighbours differ beyond a smooth slope: the mean size of the brightness's second differences."""
    grey = frame.mean(2)
    return float(np.abs(np.diff(grey, 2, 0)).mean() + np.abs(np.diff(grey, 2, 1)).mean())


def _ignore(*_: object) -> None:
    pass
