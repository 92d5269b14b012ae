"""How the text of an option becomes a value, and what the shell completes for it."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable
from typing import Any

import click
from click.core import ParameterSource

from consisti2v_cli.errors import RequestError
from consisti2v_cli.recipe import RANGES
from consisti2v_cli.text import read_text_file

_WHERE = {ParameterSource.ENVIRONMENT: "the environment", ParameterSource.DEFAULT_MAP: "the configuration"}


class UserPath(click.Path):
    """A path; what cannot be read is said where it is read. ~ is a home folder, where no shell made it one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """'~/clips' -> '/home/me/clips'."""
        return super().convert(os.path.expanduser(value), param, ctx)


PATH = UserPath(allow_dash=True, readable=False)


class Whole(click.IntRange):
    """A whole number from `min` to `max`, whose errors say so in words."""

    name = "n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """'7' -> 7; click.BadParameter on anything else."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(f"{str(value)!r} is not possible; possible: whole numbers {self._describe_range()}.", param, ctx)

    def _describe_range(self) -> str:
        return f"{self.min} to {self.max}"


class Share(click.FloatRange):
    """A number from `min` to `max`, whose errors say so in words."""

    name = "n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """'0.5' -> 0.5; click.BadParameter on anything else."""
        try:
            number = float(super().convert(value, param, ctx))
        except click.BadParameter:
            number = math.nan
        if math.isnan(number):  # which click takes to be in any range
            self.fail(f"{str(value)!r} is not possible; possible: numbers {self._describe_range()}.", param, ctx)
        return number

    def _describe_range(self) -> str:
        return f"{self.min:g} to {self.max:g}"


class Switch(click.types.BoolParamType):
    """Yes or no, as the environment or a manifest has it, whose errors say so in words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        """'yes' -> True; click.BadParameter on anything else."""
        try:
            return bool(super().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(f"{str(value)!r} is not possible; possible: yes or no.", param, ctx)


class Option(click.Option):
    """An option whose `--no-...` form, where it has one, can be set in the environment too: `..._NO_FRAMEINIT=1`.

    An error says whether the wrong value comes from the environment or from the configuration.
    """

    def __init__(self, *names: Any, **settings: Any) -> None:
        super().__init__(*names, **settings)
        if isinstance(self.type, click.types.BoolParamType):
            self.type = Switch()

    def handle_parse_result(self, ctx: click.Context, opts: Any, args: list[str]) -> tuple[Any, list[str]]:
        """The value, converted; click.BadParameter saying where a wrong one stands."""
        try:
            return super().handle_parse_result(ctx, opts, args)
        except click.BadParameter as error:
            source = ctx.get_parameter_source(self.name or "")
            where = _WHERE.get(source) if source else None
            if where is None:
                raise
            raise click.BadParameter(f"{error.message} It comes from {where}.", ctx=ctx, param=self) from None

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The value in the environment, `--no-...` turned round; None where nothing is set."""
        value = _variable(ctx, self.opts)
        negated = _variable(ctx, self.secondary_opts)
        return value or (str(not Switch().convert(negated, self, ctx)) if negated else None)


def _variable(ctx: click.Context, spellings: list[str]) -> str | None:
    """What is set in the environment for an option as it is spelled: `..._LAYOUT_ONLY` of --layout-only."""
    names = [spelling.removeprefix("--").replace("-", "_") for spelling in spellings if spelling.startswith("--")]
    return next(filter(None, (os.environ.get(f"{ctx.auto_envvar_prefix}_{name}".upper()) for name in names)), None)


def size(text: str) -> tuple[int, int]:
    """'256x192' -> (256, 192); click.BadParameter on anything else."""
    found = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text.strip())
    if not found:
        raise click.BadParameter(f"{text!r} is no size; write width and height in pixels, such as 256x256.")
    return int(found[1]), int(found[2])


def byte_count(text: str) -> int:
    """'8MB' -> 8000000, '500 KiB' -> 512000; click.BadParameter on anything else."""
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([kmg]?)(i?)b?", text.strip().lower())
    if not found or (found[3] and not found[2]):
        raise click.BadParameter(f"{text!r} is no size of a file; write a number and a unit, such as 8MB or 500kB.")
    count = int(float(found[1]) * (1024 if found[3] else 1000) ** " kmg".index(found[2] or " "))
    if not RANGES["max_size"][0] <= count <= RANGES["max_size"][1]:
        raise click.BadParameter(f"{text!r} is not possible; possible: 1kB to 1TB.")
    return count


def point(text: str) -> tuple[float, float]:
    """'0.5,0.3' -> (0.5, 0.3); click.BadParameter on anything that is not two shares."""
    shares = _two_shares(text)
    if shares is None:
        raise click.BadParameter(
            f"{text!r} is no point; write shares of width and height from 0 to 1, such as 0.5,0.3."
        )
    return shares


def interval(text: str) -> tuple[float, float]:
    """'0.1,0.7' -> (0.1, 0.7); click.BadParameter on anything that is not two shares, the first one not larger."""
    shares = _two_shares(text)
    if shares is None or shares[0] > shares[1]:
        raise click.BadParameter(
            f"{text!r} is no interval; write two shares of the steps from 0 to 1, the smaller first, such as 0.1,0.7."
        )
    return shares


def _two_shares(text: str) -> tuple[float, float] | None:
    try:
        first, second = map(float, text.split(","))
    except ValueError:
        return None
    return (first, second) if 0 <= first <= 1 and 0 <= second <= 1 else None


def seed_or_step(text: str | int) -> int | str:
    """'7' -> 7, and '+1' or '-1' as they are: relative to the recipe's seed. click.BadParameter on anything else."""
    written = str(text).strip()
    if not re.fullmatch(r"[+-]?\d{1,19}", written) or abs(int(written)) > RANGES["seed"][1]:
        raise click.BadParameter(
            f"{text!r} is no seed; possible: 0 to {RANGES['seed'][1]}, or +N and -N with a recipe."
        )
    return written if written[0] in "+-" else int(written)


def meant(word: str, known: Iterable[str], alike: float = 0.6) -> str:
    """What a misspelled word may have meant, as the end of a message: '; did you mean prompt?'; else nothing.

    `alike`: by what share it must be the same, at least.
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=alike)
    return f"; did you mean {close[0]}?" if close else ""


def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The models' names that begin as what is written, for the shell."""
    from consisti2v_cli.weights.registry import known_models

    return [name for name in known_models() if name.startswith(incomplete)]


def prompt_text(prompt: str) -> str:
    """The prompt itself, or what stands in FILE where it is written @FILE; @@ stands for an @ at the beginning."""
    if not prompt.startswith("@"):
        return prompt
    if prompt.startswith("@@"):
        return prompt[1:]
    if prompt == "@":
        raise RequestError("The prompt is @ without a file; write the file's name behind it, such as @prompt.txt.")
    try:
        return " ".join(read_text_file(os.path.expanduser(prompt[1:])).split())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RequestError(f"The prompt cannot be read from {prompt[1:]}: {reason}.") from None
