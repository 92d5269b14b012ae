"""Frames and how they were made, on their way into files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from consisti2v_cli.media.sound import Soundtrack
from consisti2v_cli.media.video import OnFinished, stream_video, write_video
from consisti2v_cli.recipe import Recipe, to_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OnNotice = Callable[[str], None]  # a sentence for a person


@dataclass(frozen=True)
class Film:
    """A film that need not be in memory as a whole, and how it was made."""

    frames: Iterable[NDArray[np.uint8]]  # each h w 3; can be gone through again and again
    recipe: Recipe  # with everything resolved

    def save(
        self,
        path: Path | str,
        *,
        overwrite: bool = False,
        format: str | None = None,
        metadata: bool = True,
        on_notice: OnNotice | None = None,
        on_finished: OnFinished | None = None,
    ) -> Path:
        """Write the film with its recipe inside: the recipe's frame rate, quality and largest size hold.

        Args:
            path: the file; for PNG the folder of the frames.
            overwrite: an existing file may be replaced.
            format: by default that of the path's suffix.
            metadata: the recipe goes into the file.
            on_notice: called with a sentence about what was lowered for the recipe's `max_size`.
            on_finished: see `write_video`.

        Returns:
            The path that was written.

        Raises:
            RequestError: unknown format, or one that cannot hold this film.
            TakenError: the file exists and `overwrite` is not set.
            ConsistI2VError: it could not be written, or not within `max_size`.
        """
        frames, rate = self._timed()
        return write_video(
            path,
            frames,
            rate,
            format=format,
            overwrite=overwrite,
            on_notice=on_notice,
            on_finished=on_finished,
            **self._encoding(metadata),
        )

    def stream(
        self, stream: IO[bytes], format: str, *, metadata: bool = True, on_notice: OnNotice | None = None
    ) -> None:
        """Write the bytes of the file that `save` would write; not for PNG, which is a folder."""
        frames, rate = self._timed()
        stream_video(stream, frames, rate, format, on_notice=on_notice, **self._encoding(metadata))

    @property
    def last_latent(self) -> NDArray[np.float32] | None:
        """The latent of the last frame, `c h w`, from which a longer film goes on exactly; None where there is none."""
        return None

    @property
    def soundtrack(self) -> Soundtrack | None:
        """What is heard; None: nothing."""
        return None

    def _timed(self) -> tuple[Iterable[NDArray[np.uint8]], float]:
        """The frames as they are played, and how many a second."""
        recipe = self.recipe
        if recipe.smooth is None:
            return self.frames, recipe.fps
        from consisti2v_cli.media.smooth import smoothed

        return smoothed(self.frames, recipe.fps, recipe.smooth), recipe.smooth

    def _encoding(self, metadata: bool) -> dict[str, Any]:
        return {
            "comment": to_json(self.recipe) if metadata else None,
            "quality": self.recipe.quality,
            "max_bytes": self.recipe.max_size,
            "sound": self.soundtrack,
        }


@dataclass(frozen=True)
class Clip(Film):
    """A finished clip, all of it in memory."""

    frames: NDArray[np.uint8]  # f h w 3
    latents: NDArray[np.float32] | None = field(default=None, repr=False)  # c f h w; None: it came from no model

    @property
    def last_latent(self) -> NDArray[np.float32] | None:
        """The latent of the last frame, `c h w`."""
        return None if self.latents is None else self.latents[:, -1]
