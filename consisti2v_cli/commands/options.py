"""The options that several commands share, as decorators; their ranges and defaults are the recipe's."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from consisti2v_cli.errors import RequestError
from consisti2v_cli.recipe import CHOICES, RANGES, Recipe, spelled

FORMATS = ("mp4", "gif")
DEFAULTS = {entry.name: entry.default for entry in fields(Recipe)}

Decorated = Callable[..., Any]
Decorator = Callable[[Decorated], Decorated]


def size(text: str) -> tuple[int, int]:
    """'256x192' -> (256, 192); click.BadParameter on anything else."""
    found = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text.strip())
    if not found:
        raise click.BadParameter(f"{text!r} is no size; write width and height in pixels, such as 256x256.")
    return int(found[1]), int(found[2])


class Option(click.Option):
    """An option whose `--no-...` form, where it has one, can be set in the environment too: `..._NO_FRAMEINIT=1`."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The value in the environment, `--no-...` turned round; None where nothing is set."""
        value = super().resolve_envvar_value(ctx)
        if value is not None or not self.secondary_opts or not self.name:
            return value
        negated = os.environ.get(f"{ctx.auto_envvar_prefix}_NO_{self.name.upper()}")
        return str(not click.BOOL.convert(negated, self, ctx)) if negated else None


def option(*names: str, **settings: Any) -> Decorator:
    """A click option that always shows its default; `default_text` is what --help says where None stands for it."""
    text = settings.pop("default_text", True)
    return click.option(*names, cls=Option, show_default=text, **settings)


def number(name: str, help: str) -> Decorator:
    """An option for a number of the recipe of which each model has a default of its own."""
    low, high = RANGES[name]
    whole = Recipe.__annotations__[name].startswith("int")
    kind = click.IntRange(int(low), int(high)) if whole else click.FloatRange(low, high)
    return option("--" + spelled(name), type=kind, default=None, default_text=_of_model(name), help=help)


def choice(name: str, help: str, *, of_model: bool = False) -> Decorator:
    """An option for a field of the recipe that takes one of a few words."""
    default = {"default": None, "default_text": _of_model(name)} if of_model else {"default": DEFAULTS[name]}
    return option("--" + name, type=click.Choice(CHOICES[name]), help=help, **default)


def _of_model(name: str) -> str:
    return f"the model's own; consisti2v: {DEFAULTS[name]}"


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
        metavar="PATH",
        default="{name}",
        help="File, folder, or template with {name} {seed} {prompt} {command} {n}; - for standard output.",
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
        "--metadata/--no-metadata", default=True, help="Keep the recipe in the file: all that is needed to redo it."
    ),
)

model_options = together(
    option(
        "--model",
        metavar="NAME",
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
    number("fps", "Frames a second."),
    choice("fit", "How the image meets the size."),
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
    number("steps", "Denoising steps."),
    choice("sampler", "How the noise is taken away.", of_model=True),
    number("layout_strength", "FrameInit's tau: how noisy the layout is that the clip begins from."),
    number("layout_cutoff", "FrameInit's D0: which frequencies are taken from the layout."),
    option("--frameinit/--no-frameinit", default=True, help="Begin from the image's low frequencies."),
    number("noise_correlation", "How much of the noise the frames share (alpha of the mixed noise)."),
)

seed_options = together(
    option(
        "--seed",
        type=click.IntRange(int(RANGES["seed"][0]), int(RANGES["seed"][1])),
        default=None,
        default_text="random, and reported",
        help="Of the noise: the same seed gives the same clip.",
    ),
    option(
        "--variations",
        type=click.IntRange(1, 10_000),
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
        help="Precision of the network; auto: fp16 on cuda and mps, fp32 on a CPU.",
    ),
    choice("attention", "How attention is computed."),
)

result_options = together(
    option("--dry-run", is_flag=True, default_text="off", help="Print the plan and the memory it takes; load nothing."),
    option("--json", is_flag=True, default_text="off", help="Print a JSON object a line instead of paths."),
)

config_options = together(
    option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
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
    result_options,
    config_options,
    talk_options,
)


def prompt_text(prompt: str) -> str:
    """The prompt itself, or what stands in FILE where it is written @FILE."""
    if not prompt.startswith("@"):
        return prompt
    try:
        return " ".join(Path(prompt[1:]).read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RequestError(f"The prompt cannot be read from {prompt[1:]}: {reason}.") from None
