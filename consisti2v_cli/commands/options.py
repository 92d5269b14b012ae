"""The options that several commands share, as decorators; their ranges and defaults are the recipe's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from consisti2v_cli.commands.parsing import (
    PATH,
    Option,
    Share,
    UserPath,
    Whole,
    byte_count,
    complete_models,
    interval,
    point,
    seed_or_step,
    size,
)
from consisti2v_cli.recipe import CAMERA_LAYOUT, CHOICES, FAST, RANGES, Recipe, spelled

FORMATS = ("mp4", "gif", "webm", "webp", "mov", "png")
BOUNDED = ("gif", "webp", "mp4")  # the formats whose files --max-size can bound
DEFAULTS = {entry.name: entry.default for entry in fields(Recipe)}
FAST_HELP = f"Fewer and cheaper steps: {', '.join(f'{name} {value}' for name, value in FAST.items())}, where not given."

Decorated = Callable[..., Any]
Decorator = Callable[[Decorated], Decorated]


def option(*names: str, **settings: Any) -> Decorator:
    """A click option that always shows its default; `default_text` is what --help says where None stands for it."""
    text = settings.pop("default_text", True)
    return click.option(*names, cls=Option, show_default=text, **settings)


def number(name: str, help: str) -> Decorator:
    """An option for a number of the recipe of which each model has a default of its own."""
    low, high = RANGES[name]
    integral = Recipe.__annotations__[name].startswith("int")
    kind = whole(name) if integral else Share(low, high)
    return option("--" + spelled(name), type=kind, default=None, default_text=_of_model(name), help=help)


def whole(name: str) -> Whole:
    """The whole numbers that a field of the recipe can be."""
    low, high = RANGES[name]
    return Whole(int(low), int(high))


def choice(name: str, help: str, *, of_model: bool = False) -> Decorator:
    """An option for a field of the recipe that takes one of a few words."""
    default = {"default": None, "default_text": _of_model(name)} if of_model else {"default": DEFAULTS[name]}
    return option("--" + spelled(name), type=click.Choice(CHOICES[name]), help=help, **default)


def _of_model(name: str) -> str:
    camera = f"; pan, zoom: {CAMERA_LAYOUT[name]}" if name in CAMERA_LAYOUT else ""
    return f"the model's own; consisti2v: {DEFAULTS[name]}{camera}"


def together(*decorators: Decorator) -> Decorator:
    """Several decorators as one; --help lists them in this order."""

    def decorate(function: Decorated) -> Decorated:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def _read_config(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    from consisti2v_cli.commands.config import read_defaults

    ctx.default_map = {**(ctx.default_map or {}), **read_defaults(value, ctx)}


def _note_verbosity(ctx: click.Context, param: click.Parameter, value: int) -> int:
    if ctx.obj is not None:
        ctx.obj.verbosity = value
    return value


output_options = together(
    option(
        "-o",
        "--output",
        type=PATH,
        metavar="PATH",
        default="{name}",
        help="File, folder with / at its end, or template with {name} {seed} {prompt} {command} {n}; "
        "- for standard output.",
    ),
    option(
        "-f",
        "--format",
        multiple=True,
        type=click.Choice(FORMATS, case_sensitive=False),
        default_text="by the suffix of -o, else mp4",
        help="Kind of file; may be given several times.",
    ),
    option(
        "-y",
        "--overwrite",
        is_flag=True,
        default_text="off: the next free number is added",
        help="Overwrite existing files.",
    ),
    option(
        "--quality",
        type=whole("quality"),
        default=DEFAULTS["quality"],
        help="Of the encoder: higher looks better and takes more room.",
    ),
    option(
        "--max-size",
        type=byte_count,
        metavar="SIZE",
        default=None,
        default_text="no limit",
        help="Largest file for gif, webp and mp4, such as 8MB: kept by fewer colours (gif, down to 64) or less "
        "quality; where that is not enough, by a smaller picture.",
    ),
    option(
        "--metadata/--no-metadata",
        default=True,
        help="Keep the recipe in the file: all that is needed to redo it. Without, this machine alone remembers it.",
    ),
)

model_options = together(
    option(
        "--model",
        metavar="NAME",
        shell_complete=complete_models,
        default=None,
        default_text="consisti2v if its weights are here, else sketch",
        help="consisti2v (the released model), sketch (the small bundled one), a hub repository, or a folder.",
    ),
)

picture_options = together(
    option(
        "--size",
        type=size,
        metavar="WxH",
        default=None,
        default_text="the model's area in the image's aspect, sides rounded to 32; 16 for small models",
        help="Width and height in pixels, multiples of 8.",
    ),
    number("frames", "Frames of the clip, the image included."),
    number("fps", "Frames a second; another number than the model's makes the clip faster or slower."),
    option(
        "--smooth",
        type=Share(*RANGES["smooth"]),
        metavar="FPS",
        default=None,
        default_text="off",
        help="Frames a second after interpolation; the clip lasts as long as before.",
    ),
    choice("fit", "How the image meets the size; pan and zoom always crop."),
    option(
        "--background",
        metavar="COLOUR",
        default=DEFAULTS["background"],
        help="Behind transparent images and beside padded ones: a name or #rrggbb.",
    ),
)

sampling_options = together(
    number("motion", "How much happens between two frames (the frame stride)."),
    option("--negative", metavar="TEXT", default="", default_text="empty", help="What should not happen."),
    number("guidance", "Weight of the prompt; 1 or less: none."),
    number("image_guidance", "Weight of the image; above 1 a step takes half as long again."),
    number("guidance_rescale", "Share by which the guided prediction is rescaled."),
    option(
        "--guidance-interval",
        type=interval,
        metavar="FROM,TO",
        default="0,1",
        help="Shares of the steps between which there is guidance; the others take half as long.",
    ),
    number("steps", "Denoising steps."),
    choice("sampler", "How the noise is taken away; lcm needs weights made for it.", of_model=True),
    option(
        "--reuse",
        type=whole("reuse"),
        default=None,
        default_text=str(DEFAULTS["reuse"]),
        help="Neighbouring steps that share one computation of the network's deep layers; 1: none do.",
    ),
    option("--fast/--no-fast", default=False, help=FAST_HELP),
    number("layout_strength", "FrameInit's tau: how noisy the layout is that the clip begins from."),
    number("layout_cutoff", "FrameInit's D0: which frequencies are taken from the layout."),
    option("--frameinit/--no-frameinit", default=True, help="Begin from the image's low frequencies."),
    number("noise_correlation", "How much of the noise the frames share (alpha of the mixed noise)."),
)

seed_options = together(
    option(
        "--seed",
        type=seed_or_step,
        metavar="N",
        default=None,
        default_text="random, and reported",
        help="Of the noise: the same seed gives the same clip. With a recipe, +N and -N count from its seed.",
    ),
    option(
        "--variations",
        type=Whole(1, 10_000),
        metavar="N",
        default=1,
        help="Clips for each image, with seeds seed, seed + 1, ...",
    ),
)

machine_options = together(
    option("--device", metavar="NAME", default="auto", help="auto, cuda (or cuda:1), mps, cpu."),
    option(
        "--dtype",
        type=click.Choice(("auto", *CHOICES["dtype"])),
        default="auto",
        help="Precision of the network; auto: fp16 on cuda and mps; on a CPU bf16 where it computes with that "
        "(AVX512-BF16, AMX), else fp32.",
    ),
    choice("attention", "How attention is computed."),
    option(
        "--compile/--no-compile",
        default=False,
        help="Compile the network with torch: takes minutes once for a model and size; steps are faster then.",
    ),
    option(
        "--vram",
        type=Share(0.1, 1024),
        metavar="GIB",
        default=None,
        default_text="most of what a cuda device has; no limit on a CPU",
        help="A memory budget to keep to: where it asks for that, parts take turns, and weights come piece by piece.",
    ),
)

recipe_options = together(
    option(
        "--recipe",
        type=PATH,
        metavar="FILE",
        default=None,
        default_text="none",
        help="Take what is not given here from the recipe in a clip, or from a JSON file.",
    ),
)

many_options = together(
    option(
        "--manifest",
        type=PATH,
        metavar="FILE",
        default=None,
        default_text="none",
        help="CSV or JSON lines with a column input, and perhaps prompt, output and any option.",
    ),
    option(
        "--shard",
        metavar="I/N",
        default=None,
        default_text="all of it",
        help="Make the I-th of N parts of the run, 1/N to N/N, one on each machine.",
    ),
)

camera_options = together(
    choice("ease", "How the camera sets off and stops."),
    option("--layout-only/--no-layout-only", default=False, help="Write the moving crop itself, without a model."),
)

pan_options = together(
    choice("direction", "Where the camera goes."),
    option(
        "--amount",
        type=Share(*RANGES["amount"]),
        default=DEFAULTS["amount"],
        help="The share of the frame that it travels.",
    ),
)

zoom_options = together(
    option("--in/--out", "zoom_in", default=True, help="Towards things, or away from them."),
    option(
        "--ratio",
        type=Share(*RANGES["ratio"]),
        default=DEFAULTS["ratio"],
        help="How many times as large things become, or how many times smaller.",
    ),
    option(
        "--center",
        type=point,
        metavar="X,Y",
        default="0.5,0.5",
        help="The point that it closes in on, in shares of the picture's width and height.",
    ),
)

extend_options = together(
    option(
        "--chunks",
        type=whole("chunks"),
        default=DEFAULTS["chunks"],
        help="How many clips are joined into the long one.",
    ),
    option(
        "--prompt-at",
        type=(whole("chunks"), str),
        multiple=True,
        metavar="CHUNK TEXT",
        default_text="the same prompt all along",
        help="Another prompt from a chunk on, counted from 1; may be given several times.",
    ),
    option(
        "--anchor",
        type=Share(*RANGES["anchor"]),
        default=DEFAULTS["anchor"],
        help="How far each chunk's colours are pulled back to the first frame's; 0 is the paper's way.",
    ),
    option("--join/--no-join", default=False, help="Put the frames of a SOURCE film in front."),
    option("--audio/--no-audio", default=True, help="With --join: keep the sound of the SOURCE film under its frames."),
)

result_options = together(
    option(
        "--preview",
        is_flag=True,
        default_text="off",
        help="Show small frames in the terminal while they are made (needs the extra [preview]).",
    ),
    option("--dry-run", is_flag=True, default_text="off", help="Print the plan and the memory it takes; load nothing."),
    option("--json", is_flag=True, default_text="off", help="Print a JSON object a line instead of paths."),
)

config_options = together(
    option(
        "--config",
        metavar="FILE",
        type=UserPath(path_type=Path, readable=False),
        callback=_read_config,
        is_eager=True,
        expose_value=False,
        default_text="config.toml in the user's configuration folder",
        help="TOML file with defaults of options, in a table for each command.",
    ),
)

talk_options = together(
    option("-q", "--quiet", is_flag=True, default_text="off", help="Say nothing but errors."),
    option(
        "-v",
        "--verbose",
        count=True,
        callback=_note_verbosity,
        is_eager=True,
        default_text="off",
        help="Say more; -vv: with the traceback of an error.",
    ),
)

making_options = together(
    output_options,
    model_options,
    seed_options,
    picture_options,
    sampling_options,
    machine_options,
    recipe_options,
    result_options,
    config_options,
    talk_options,
)
