"""What to train and how: frozen dataclasses, read from a TOML file. An unknown key is an error that names it."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from consisti2v_cli.errors import RequestError
from consisti2v_cli.text import read_text_file
from consisti2v_cli.weights import ModelSettings

T = TypeVar("T")


@dataclass(frozen=True)
class LoopSettings:
    """What the loop needs to know, whatever it trains."""

    steps: int = 10_000  # optimiser steps in all
    batch: int = 8  # pictures, captions or clips a step, in each process
    accumulate: int = 1  # batches whose gradients make one step
    learning_rate: float = 1e-4  # after the warm-up
    schedule: str = "constant"  # or "cosine": down to a hundredth at the last step
    warmup: int = 100  # steps of a rate that rises from 0
    weight_decay: float = 1e-2  # of matrices and convolutions; biases, norms and alphas are left alone
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.999  # decay of the averaged weights, which are the ones that are saved
    dtype: str = "fp32"  # or "bf16": autocast, with weights kept in float32
    compile: bool = False  # both passes: captured as graphs by one process on cuda, else compiled by torch
    seed: int = 0  # every draw of every step follows from it, on one kind of device
    log_every: int = 20  # steps between two lines of log.jsonl
    save_every: int = 500  # steps between two checkpoints
    sample_every: int = 500  # steps between two pictures of samples

    def __post_init__(self) -> None:
        _one_of("schedule", self.schedule, ("constant", "cosine"))
        _one_of("dtype", self.dtype, ("fp32", "bf16"))
        if self.compile and self.accumulate > 1:  # captured graphs overwrite what would be added up
            raise RequestError(f"compile = true: accumulate must be 1, not {self.accumulate}.")
        for name in ("steps", "batch", "accumulate", "log_every", "save_every", "sample_every"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} = {getattr(self, name)}: must be 1 or more.")


@dataclass(frozen=True)
class AutoencoderSettings(LoopSettings):
    """The autoencoder: `model` goes to diffusers' AutoencoderKL."""

    model: dict[str, Any] = field(default_factory=dict)
    components_photos: int = 0  # start from the principal components of so many photos; 0: from random weights
    encoder_from: float = 0.0  # share of the steps during which the encoder stays as it is
    tile: int | None = None  # cut crops into tiles of so many pixels ...
    tiled_until: float = 0.0  # ... for this share of the steps: cheaper steps, though whole crops must follow
    squared_from: float = 0.5  # share of the steps with the Charbonnier loss, before the squared error takes over
    latent_noise: float | None = None  # deviation of the noise on latents; none: as the encoder's variance says
    kl: float = 1e-6  # weight of the divergence from a standard normal, a mean over latent values
    balance: float = 0.0  # 0: latent channels of equal deviation; 1: in proportion to what they change in the picture
    statistics_photos: int = 256  # how many photos measure the latents' mean and deviation when saving

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.balance <= 1:
            raise RequestError(f"balance = {self.balance}: must be 0 to 1.")


@dataclass(frozen=True)
class TextSettings(LoopSettings):
    """Tokenizer and text encoder: `model` goes to transformers' CLIPTextConfig."""

    model: dict[str, Any] = field(default_factory=dict)
    vocabulary: int = 1024  # tokens of the byte-level BPE
    tokens: int = 24  # length of a tokenized caption


@dataclass(frozen=True)
class Stage:
    """A stretch of the network's training: which clips, and which noise levels."""

    steps: int  # how long it lasts; the last stage goes on to the end
    frames: int = 16  # frames of a clip, the first included
    batch: int | None = None  # instead of the network's own
    motions: tuple[str, ...] | None = None  # classes of motion to draw from; none given means all
    videos: float = 0.0  # share of the clips that come from real videos, --videos
    timestep_low: int = 0  # timesteps are drawn from here ...
    timestep_high: int = 1000  # ... to here, the end not included
    timestep_power: float = 1.0  # above 1 draws high noise more often: density grows as t^(power - 1)
    learning_rate: float | None = None  # instead of the network's own

    def __post_init__(self) -> None:
        if not 0 <= self.videos <= 1:
            raise RequestError(f"videos = {self.videos}: must be 0 to 1.")


@dataclass(frozen=True)
class NetworkSettings(LoopSettings):
    """The video U-Net: `model` is its unet/config.json."""

    model: dict[str, Any] = field(default_factory=dict)
    prediction_type: str = "epsilon"  # or "v_prediction"
    correlation: float = 1.0  # of the mixed noise
    alpha: float = 1.0  # at the start; 1 leaves an image model untouched, 0.5 suits training from nothing
    drop_text: float = 0.1  # share of the captions replaced by ""
    drop_image: float = 0.1  # share of the first frames replaced by their noisy version
    snr_limit: float | None = None  # min-SNR weighting (Hang et al. 2023), 5 is usual; none means no weighting
    reuse: int = 1  # steps that share one batch of clips, with noise and timesteps of their own
    joint_text: bool = True  # whether the text encoder is trained too
    text_rate: float = 1.0  # its learning rate, as a multiple of the network's
    checkpointing: bool = False  # compute activations twice instead of keeping them
    samples: tuple[str, ...] = ("the picture moves left", "the camera zooms in")  # prompts of the sample pictures
    sample_steps: int = 25  # DDIM steps of the sample pictures
    sample_guidance: float = 3.0  # text guidance of the sample pictures
    stage: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("prediction_type", self.prediction_type, ("epsilon", "v_prediction"))

    def stages(self) -> tuple[Stage, ...]:
        """The stages in order; a single one that lasts throughout where the file names none."""
        return self.stage or (Stage(steps=self.steps),)


@dataclass(frozen=True)
class TrainingFile:
    """A whole configuration file: a table a part, and what the finished model says of itself."""

    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    text: TextSettings = field(default_factory=TextSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    settings: dict[str, Any] = field(default_factory=dict)  # of `ModelSettings`; written to consisti2v.json

    def __post_init__(self) -> None:
        build(ModelSettings, self.settings, "settings.")


def read_file(name: str) -> TrainingFile:
    """Read a TOML file, or the preset of that name that comes with the package.

    Raises RequestError when there is no such file, or when it holds a key or a value that means nothing here.
    """
    path = Path(name)
    if not path.is_file() and not path.suffix:  # a folder may well be called like a preset
        path = Path(__file__).with_name("presets") / f"{name}.toml"
    try:
        table = tomllib.loads(read_text_file(path))
    except OSError as error:
        raise RequestError(f"Cannot read the training configuration {name}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{name} is not TOML: {error}.") from error
    return build(TrainingFile, table, "")


def build(kind: type[T], table: dict[str, Any], where: str) -> T:
    """Make a settings dataclass out of a table, strictly: unknown keys and values of a wrong type are errors."""
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if key not in hints:
            raise RequestError(f"{where}{key} is no training setting. There are: {', '.join(hints)}.")
        values[key] = _convert(value, hints[key], f"{where}{key}")
    try:
        return kind(**values)
    except TypeError as error:
        raise RequestError(f"{where.rstrip('.')}: {error}.") from error


def _convert(value: Any, kind: Any, where: str) -> Any:
    """`value` as the annotated type `kind`; tables become dataclasses, lists tuples, whole numbers floats."""
    choices = [choice for choice in typing.get_args(kind) if choice is not type(None)]
    if type(None) in typing.get_args(kind):
        return _convert(value, choices[0], where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and isinstance(value, dict):
        return build(kind, value, f"{where}.")
    origin = typing.get_origin(kind) or kind
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(item, choices[0], f"{where}[{index}]") for index, item in enumerate(value))
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, origin) or (origin is int and isinstance(value, bool)):
        raise RequestError(f"{where} = {value!r}: must be {getattr(origin, '__name__', origin)}.")
    return value


def _one_of(name: str, value: str, possible: tuple[str, ...]) -> None:
    if value not in possible:
        raise RequestError(f"{name} = {value!r}: must be one of {', '.join(possible)}.")
