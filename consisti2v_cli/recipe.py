"""What to make: all that is needed to make a clip again, its checks, to and from JSON."""

from __future__ import annotations

import json
import math
import types
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cache
from typing import Any

from consisti2v_cli.errors import RequestError

SIZE_STEP = 8  # the autoencoder's factor: sides are multiples of it

RANGES: dict[str, tuple[float, float]] = {  # lowest and highest possible value, both included
    "seed": (0, 2**63 - 1),
    "width": (16, 4096),
    "height": (16, 4096),
    "frames": (2, 1024),
    "fps": (1, 120),
    "motion": (1, 5),
    "guidance": (0, 100),
    "image_guidance": (0, 100),
    "guidance_rescale": (0, 1),
    "guidance_begin": (0, 1),
    "guidance_end": (0, 1),
    "reuse": (1, 10),
    "steps": (1, 500),  # more would be one timestep apart: they begin too low or, at 1000, past the end
    "layout_strength": (0, 999),
    "layout_cutoff": (0, 2),
    "noise_correlation": (0, 100),
    "quality": (1, 100),
    "max_size": (1_000, 10**12),
    "smooth": (1, 240),
    "amount": (0, 5),
    "ratio": (1, 10),
    "center_x": (0, 1),
    "center_y": (0, 1),
    "chunks": (1, 10_000),
    "anchor": (0, 1),
}

CHOICES: dict[str, tuple[str, ...]] = {
    "command": ("animate", "extend", "pan", "zoom"),
    "fit": ("crop", "pad", "stretch"),
    "sampler": ("ddim", "dpm++", "unipc", "euler-a", "lcm"),
    "noise": ("mixed", "vanilla", "progressive"),
    "dtype": ("fp32", "bf16", "fp16"),
    "attention": ("sdpa", "math", "xformers"),
    "direction": ("left", "right", "up", "down", "up-left", "up-right", "down-left", "down-right"),
    "zoom": ("in", "out"),
    "ease": ("linear", "in", "out", "in-out"),
    "start": ("image", "latent", "frame"),
}

OWN: dict[str, tuple[str, ...]] = {  # the fields that mean something to some commands only
    "direction": ("pan",),
    "amount": ("pan",),
    "zoom": ("zoom",),
    "ratio": ("zoom",),
    "center_x": ("zoom",),
    "center_y": ("zoom",),
    "ease": ("pan", "zoom"),
    "layout_only": ("pan", "zoom"),
    "chunks": ("extend",),
    "prompt_at": ("extend",),
    "anchor": ("extend",),
    "start": ("extend",),
    "join": ("extend",),
    "audio": ("extend",),
}

OF_MODEL = frozenset(  # the fields that mean something to a model only: nothing to a clip of the layout alone
    {
        "negative",
        "model",
        "revision",
        "motion",
        "guidance",
        "image_guidance",
        "guidance_rescale",
        "guidance_begin",
        "guidance_end",
        "steps",
        "reuse",
        "sampler",
        "layout_strength",
        "layout_cutoff",
        "frameinit",
        "noise",
        "noise_correlation",
        "device",
        "dtype",
        "attention",
        "compile",
    }
)

CAMERA = ("pan", "zoom")  # the commands that move a camera over the photo
CAMERA_LAYOUT: dict[str, Any] = {"layout_strength": 750, "layout_cutoff": 0.5}  # theirs (paper, section 5.5)

FAST: dict[str, Any] = {"sampler": "dpm++", "steps": 20, "reuse": 2}  # what --fast stands for

DEVICES = ("cpu", "cuda", "mps")  # cuda may carry an index: cuda:1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One clip. Width and height are None until the image and the model have settled them."""

    prompt: str  # what happens
    seed: int  # of all noise, drawn on the CPU
    command: str = "animate"  # the command that makes it
    negative: str = ""  # what should not happen
    model: str = "sketch"  # name, hub repository or folder, as given
    revision: str | None = None  # which version of the model, where that is known
    input_name: str = ""  # the image's file name, without folders
    input_sha256: str = ""  # of the image's bytes
    width: int | None = None  # pixels, a multiple of 8
    height: int | None = None  # pixels, a multiple of 8
    frames: int = 16  # the first one, the image itself, included
    fps: float = 8  # frames a second in the file
    fit: str = "crop"  # how the image meets the size: crop, pad or stretch
    background: str = "white"  # behind transparent images, and beside padded ones
    motion: int = 3  # frame stride: how much happens between two frames
    guidance: float = 7.5  # weight of the prompt; 1 or less: no guidance
    image_guidance: float = 1.0  # weight of the first frame; above 1 costs a third branch
    guidance_rescale: float = 0.0  # share of the rescaling of the guided prediction (Lin et al.)
    guidance_begin: float = 0.0  # the share of the steps after which guidance begins ...
    guidance_end: float = 1.0  # ... and after which it ends
    steps: int = 50  # denoising steps
    reuse: int = 1  # neighbouring steps that share one computation of the network's deep layers
    sampler: str = "ddim"  # ddim, dpm++, unipc, euler-a or lcm
    layout_strength: int = 850  # FrameInit's tau: the timestep to which the layout is noised
    layout_cutoff: float = 0.25  # FrameInit's D0, spatial and temporal
    frameinit: bool = True  # begin from the layout's low frequencies
    noise: str = "mixed"  # mixed, vanilla or progressive
    noise_correlation: float = 1.0  # alpha: how much noise the frames share
    device: str = "cpu"  # cpu, cuda, cuda:1, mps
    dtype: str = "fp32"  # fp32, bf16 or fp16
    attention: str = "sdpa"  # sdpa, math or xformers
    compile: bool = False  # the network is compiled by torch
    direction: str = "left"  # pan: where the camera goes
    amount: float = 0.3  # pan: the share of the frame that it travels
    zoom: str = "in"  # zoom: in or out
    ratio: float = 1.5  # zoom: how many times as large things become, or how many times smaller
    center_x: float = 0.5  # zoom: the point that it closes in on, as a share of the picture's width ...
    center_y: float = 0.5  # ... and of its height
    ease: str = "linear"  # pan and zoom: how the camera sets off and stops: linear, in, out or in-out
    layout_only: bool = False  # pan and zoom: the moving crop itself, without a model
    chunks: int = 4  # extend: how many clips are joined
    prompt_at: dict[str, str] = field(default_factory=dict)  # extend: prompts from a chunk on, counted from 1
    anchor: float = 0.0  # extend: how far each chunk's colours are pulled back to the first frame's
    start: str = "image"  # extend: from an image, a clip's exact last latent, or its last frame, encoded again
    join: bool = False  # extend: the source film's own frames stand in front
    audio: bool = True  # extend: with them their sound
    quality: int = 85  # of the encoder, 1 to 100
    max_size: int | None = None  # bytes that a gif, webp or mp4 may take; quality is lowered for it
    smooth: float | None = None  # frames a second that are made by interpolation in between; None: none
    versions: dict[str, str] = field(default_factory=dict)  # of consisti2v, torch, diffusers, ...


def check(recipe: Recipe) -> None:
    """Raise RequestError, saying what is possible, unless every value of the recipe can be rendered."""
    for name, kind in _kinds().items():
        value = getattr(recipe, name)
        ranged = isinstance(value, float) and (
            kind is float or math.isnan(value)
        )  # refused below, with what is possible
        if not _fits(value, kind) and not ranged:
            raise RequestError(f"{spelled(name)} is {value!r}, which is of the wrong kind.")
    if not recipe.prompt.strip() and not recipe.layout_only:
        raise RequestError("The prompt is empty; say in a few words what happens in the clip.")
    for name, (low, high) in RANGES.items():
        value = getattr(recipe, name)
        if value is not None and not low <= value <= high:  # not a number is in no range
            raise RequestError(f"{spelled(name)} is {value}; possible: {low} to {high}.")
    for name, choices in CHOICES.items():
        if getattr(recipe, name) not in choices:
            raise RequestError(f"{spelled(name)} is {getattr(recipe, name)!r}; possible: {', '.join(choices)}.")
    for name in ("width", "height"):
        _check_side(name, getattr(recipe, name))
    if recipe.guidance_begin > recipe.guidance_end:
        raise RequestError(f"guidance-interval is {recipe.guidance_begin},{recipe.guidance_end}, which ends too early.")
    _check_prompts(recipe)
    kind, _, index = recipe.device.partition(":")
    if kind not in DEVICES or (":" in recipe.device and not (kind == "cuda" and index.isdecimal())):
        raise RequestError(f"device is {recipe.device!r}; possible: {', '.join(DEVICES)}, or one of several as cuda:1.")


def _check_side(name: str, side: int | None) -> None:
    if side is not None and side % SIZE_STEP:
        below = side - side % SIZE_STEP
        raise RequestError(
            f"{name} is {side}; possible: multiples of {SIZE_STEP}, the nearest are {below} and {below + SIZE_STEP}."
        )


def _check_prompts(recipe: Recipe) -> None:
    for chunk, text in recipe.prompt_at.items():
        if not chunk.isdecimal() or not 1 <= int(chunk) <= recipe.chunks:
            raise RequestError(f"prompt-at names chunk {chunk!r}; possible: 1 to {recipe.chunks}.")
        if not text.strip():
            raise RequestError(f"The prompt at chunk {chunk} is empty.")


def own_fields(command: str) -> frozenset[str]:
    """The names of the fields that mean something to a command."""
    return frozenset(entry.name for entry in fields(Recipe) if command in OWN.get(entry.name, (command,)))


def same_clip(one: Recipe, other: Recipe, *, any_seed: bool = False) -> bool:
    """Whether two recipes make the same clip: all but the libraries' versions is equal, and the seed if that counts."""
    one, other = (replace(recipe, versions={}, seed=0 if any_seed else recipe.seed) for recipe in (one, other))
    return to_json(one) == to_json(other)


def spelled(name: str) -> str:
    """A field's name as the command line spells it: layout_strength -> layout-strength."""
    return name.replace("_", "-")


def to_json(recipe: Recipe) -> str:
    """The recipe as one line of JSON, fields in their order, without those that mean nothing to its clip."""
    return json.dumps(to_dict(recipe), ensure_ascii=False)


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe that mean something to its clip, in their order."""
    own = own_fields(recipe.command) - (OF_MODEL if recipe.layout_only else frozenset())
    return {name: value for name, value in asdict(recipe).items() if name in own}


def from_json(text: str, **otherwise: Any) -> Recipe:
    """The recipe that `to_json` wrote; `otherwise` has values for keys that it may lack.

    Raises:
        RequestError: anything else: unknown or missing keys, wrong types.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise RequestError(f"This is no recipe: not valid JSON ({error}).") from None
    if not isinstance(values, dict):
        raise RequestError("This is no recipe: a JSON object is expected.")
    values = otherwise | values
    known = {entry.name: entry for entry in fields(Recipe)}
    if unknown := sorted(set(values) - set(known)):
        raise RequestError(f"The recipe has unknown keys: {', '.join(unknown)}.")
    required = [n for n, entry in known.items() if entry.default is MISSING and entry.default_factory is MISSING]
    if missing := [name for name in required if name not in values]:
        raise RequestError(f"The recipe lacks: {', '.join(missing)}.")
    kinds = _kinds()
    for name, value in values.items():
        if not _fits(value, kinds[name]):
            raise RequestError(f"The recipe's {name} is {value!r}, which is of the wrong kind.")
    return Recipe(**values)


@cache
def _kinds() -> dict[str, Any]:
    """The types of the recipe's fields."""
    return typing.get_type_hints(Recipe)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON has the type of a field."""
    if isinstance(kind, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(kind))
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind
