"""From a request to a training: reads the configuration, opens the data, makes the part, and runs the loop."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from consisti2v_cli.errors import RequestError
from consisti2v_cli.training.loop import Outcome, Part, train
from consisti2v_cli.training.records import Records
from consisti2v_cli.training.settings import (
    AutoencoderSettings,
    LoopSettings,
    NetworkSettings,
    TextSettings,
    TrainingFile,
    read_file,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

    from consisti2v_cli.training.batch import ClipSource

SYNTHETIC = "synthetic:"
OVERRIDES = ("steps", "batch", "learning_rate", "seed", "dtype")


def run(
    part: str,
    config: str,
    output: Path,
    *,
    data: str | None = None,
    videos: str | None = None,
    validation: Path | None = None,
    init: Path | None = None,
    minutes: float | None = None,
    device: str = "auto",
    restart: bool = False,
    on_log: Callable[[dict[str, Any]], None] = lambda line: None,
    on_notice: Callable[[str], None] | None = None,
    **overrides: Any,
) -> Outcome:
    """Train a part into the model folder `output`; see `consisti2v train --help`.

    Args:
        part: `autoencoder`, `text` or `network`.
        config: TOML file or name of a preset.
        videos: of which the network's stages draw a part of their clips, as their `videos` say; kept in memory.
        restart: forget what an earlier training of this part has left, once nothing about the request is wrong.
        on_notice: gets what would else be logged as a warning, such as that a photo cannot be read.
        overrides: of `OVERRIDES`; None leaves what the configuration says.

    Raises:
        RequestError: something about the request, the configuration or the data is wrong.
        WeightsError: a part that this one builds on is missing.
    """
    file = read_file(config)
    settings = _override(getattr(file, part), overrides)
    accelerator = _accelerator(device, resting=getattr(settings, "encoder_from", 0) > 0)
    folder = output / "training" / part
    with _warnings_to(on_notice), _alone(folder, accelerator):
        made = _make(settings, file, output, accelerator.device, data, videos, validation, init)
        if restart and accelerator.is_main_process:
            Records(folder).forget_all()
        accelerator.wait_for_everyone()
        return train(made, settings, folder, accelerator, minutes=minutes, on_log=on_log)


class _Telling(logging.Handler):
    """Hands warnings to a function."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self.tell(record.getMessage())


@contextmanager
def _warnings_to(tell: Callable[[str], None] | None) -> Iterator[None]:
    """Warnings of the training modules go to `tell`; without it they are logged as ever."""
    if tell is None:
        yield
        return
    logger, handler = logging.getLogger("consisti2v_cli.training"), _Telling(tell)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def _alone(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Nobody else trains this part in this folder inside the block; RequestError where somebody does already."""
    if not accelerator.is_main_process:
        yield
        return
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise RequestError(f"Another training is at work in {folder}; stop it first, or choose another -o.") from None


def _override(settings: LoopSettings, overrides: dict[str, Any]) -> LoopSettings:
    given = {name: value for name, value in overrides.items() if value is not None}
    if unknown := sorted(given.keys() - set(OVERRIDES)):
        raise RequestError(f"{unknown[0]} is no training setting. There are: {', '.join(OVERRIDES)}.")
    if isinstance(settings, NetworkSettings) and "batch" in given:  # each stage would keep its own otherwise
        given["stage"] = tuple(dataclasses.replace(stage, batch=None) for stage in settings.stage)
    return dataclasses.replace(settings, **given)


def _accelerator(device: str, *, resting: bool) -> Accelerator:
    """The device and the processes; `resting` says that some weights may have no gradient at some steps."""
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs
    except ImportError as error:
        raise RequestError("Training needs accelerate: pip install 'consisti2v-cli[train]'") from error
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=resting)]
    # "no", lest an accelerate configuration adds an autocast of its own to that of `dtype`
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no", kwargs_handlers=handlers)
    if device not in ("auto", accelerator.device.type):
        raise RequestError(f"device {device} is not there; training would run on {accelerator.device.type}.")
    return accelerator


def _make(
    settings: LoopSettings,
    file: TrainingFile,
    output: Path,
    device: torch.device,
    data: str | None,
    videos: str | None,
    validation: Path | None,
    init: Path | None,
) -> Part:
    """The part that these settings are of, with its data."""
    size = int(file.settings.get("native_size", 256))
    if videos is not None and not isinstance(settings, NetworkSettings):
        raise RequestError("--videos is for the network only.")
    if isinstance(settings, TextSettings):
        from consisti2v_cli.training.text import TextPart

        return TextPart(settings, output, device)
    if data is None:
        raise RequestError("--data is missing: a folder of videos, a manifest, or synthetic:DIR with photos in DIR.")
    held_out = None if validation is None else _read_photos(validation, size)
    if isinstance(settings, AutoencoderSettings):
        from consisti2v_cli.training.autoencoder import AutoencoderPart
        from consisti2v_cli.training.photos import PhotoSource

        photos = PhotoSource(data.removeprefix(SYNTHETIC), size, device)
        return AutoencoderPart(settings, photos, output, device, held_out, init)
    if not isinstance(settings, NetworkSettings):
        raise TypeError(settings)
    from consisti2v_cli.training.network import NetworkPart

    sources = _open_sources(settings, data, videos, size, device)
    return NetworkPart(settings, sources, output, device, about=file.settings, validation=held_out, start=init)


def _open_sources(
    settings: NetworkSettings, data: str, videos: str | None, size: int, device: torch.device
) -> list[ClipSource]:
    """A source of clips for each stage."""
    from consisti2v_cli.training.data import MixedClips, open_clips
    from consisti2v_cli.training.videos import KeptClips

    stages = settings.stages()
    wanted = any(stage.videos for stage in stages)
    if wanted and videos is None:
        raise RequestError("A stage draws clips from real videos: name them by --videos, or configure videos = 0.")
    if videos is not None and not wanted:
        raise RequestError("--videos names videos, of which no stage draws any: configure a stage's videos = 0.1.")
    real = KeptClips(videos, size=size, device=device) if wanted and videos is not None else None
    chosen = dict.fromkeys(stage.motions for stage in stages)
    opened = {motions: open_clips(data, size=size, device=device, motions=motions) for motions in chosen}
    return [
        MixedClips(opened[stage.motions], real, stage.videos) if real and stage.videos else opened[stage.motions]
        for stage in stages
    ]


def _read_photos(folder: Path, size: int) -> Tensor:
    """The square middles of a folder's photos in the order of their names, `n 3 size size` in [-1, 1]."""
    from consisti2v_cli.kinds import suffixes
    from consisti2v_cli.media.image import fit_image, read_image

    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes("picture"))
    squares = [fit_image(read_image(path, name=str(path)), size, size) for path in paths]
    photos = [torch.from_numpy(square).permute(2, 0, 1) for square in squares]
    if not photos:
        raise RequestError(f"There are no photos in {folder}.")
    return torch.stack(photos).float() / 127.5 - 1
