"""The clips of an evaluation, made where they are not there yet: by the way that `animate` goes, `render`.

Beside each clip lies the picture that it begins with, so that its first frame can be judged. A run that was killed
goes on with the first clip that is missing: nothing half-written is ever under a final name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, PngImagePlugin

from consisti2v_cli.errors import ConsistI2VError, RequestError, TakenError, WeightsError
from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.media.scratch import appearing
from consisti2v_cli.recipe import Recipe, check, from_json, same_clip, spelled, to_dict
from consisti2v_cli.resolve import model_defaults, resolve

from .ablations import WHOLE, Variant, apply
from .datasets import Sample, first_frame
from .protocols import Protocol

if TYPE_CHECKING:
    from consisti2v_cli.clip import Clip
    from consisti2v_cli.render import OnEvent
    from consisti2v_cli.weights import ModelFolder
    from consisti2v_cli.weights.load import Model
    from consisti2v_cli.weights.offload import OnNotice

MARK = "consisti2v-sample"  # a first frame's note about what it was taken from
ABLATION = "ablation"  # the entry among a recipe's versions that says what the network did without
DIFFERENCES = 3  # that a message names


@dataclass(frozen=True)
class Made:
    """A clip of an evaluation, and what became of it."""

    sample: Sample
    path: Path
    recipe: Recipe | None = None  # None: there is no clip
    fresh: bool = False  # made by this run
    problem: str = ""  # why there is no clip


@dataclass
class OneModel:
    """The model of a whole run: loaded when the first clip is missing, and once for all."""

    folder: ModelFolder
    vram: float | None = None  # a memory budget in GiB
    loaded: Model | None = None

    def load(self, recipe: Recipe, side: int, on_event: OnEvent) -> Model:
        """Load it as a resolved recipe wants it, whose picture is `side` wide and high.

        Raises:
            WeightsError, RequestError: it cannot be.
        """
        if self.loaded is None:
            from consisti2v_cli.render import load_for

            self.loaded = load_for(recipe, self.folder, (side, side), vram=self.vram, on_part=on_event)
        return self.loaded


def make_missing(
    samples: Sequence[Sample],
    folder: Path,
    settings: Mapping[str, Any],
    model: OneModel,
    protocol: Protocol,
    *,
    variant: Variant = WHOLE,
    overwrite: bool = False,
    on_clip: Callable[[Made], object] | None = None,
    on_event: OnEvent | None = None,
    on_notice: OnNotice | None = None,
) -> list[Made]:
    """Make the clips of samples that are not in a folder yet, `NAME.mp4`, and their first frames, `NAME.first.png`.

    Args:
        samples: from `read_samples`.
        folder: of the clips, for this model and variant alone.
        settings: fields of the recipe that were asked for: they win over the protocol's, and these over the model's.
        model: that makes them.
        protocol: size, length and frame rate.
        variant: what the model does without; a file's recipe has it among its versions.
        overwrite: clips that are there but were made otherwise are made anew.
        on_clip: hears of each clip in the order of `samples`.
        on_event, on_notice: of each clip's making, as of `render`. What they raise ends the run.

    Returns:
        What became of each sample. One that cannot be read or made is reported, and the others are made.

    Raises:
        RequestError: a setting that cannot be rendered; before anything is made: a clip that was made otherwise.
        WeightsError: the model cannot be loaded.
        ConsistI2VError: a file cannot be written.
    """
    values = {**_defaults(model, protocol, settings), **variant.settings}
    if unknown := sorted(values.keys() - {entry.name for entry in fields(Recipe)}):
        raise RequestError(f"Unknown setting {unknown[0]!r}: no field of a recipe.")
    check(Recipe(**{**values, "prompt": protocol.title, "seed": 0}))  # what is wrong with it is wrong for all
    run = _Run(folder, values, model, protocol.size, variant, overwrite)
    for sample in samples:
        run.check(sample)
    made = []
    for sample in samples:
        made.append(run.make(sample, on_event or _ignore, on_notice))
        if on_clip:
            on_clip(made[-1])
    return made


def _defaults(model: OneModel, protocol: Protocol, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of the recipe that samples share."""
    from consisti2v_cli.weights.devices import choose_device, choose_dtype

    values = {**model_defaults(model.folder), **protocol.settings, **settings, "model": model.folder.name}
    if model.loaded is not None:
        from consisti2v_cli.render import as_loaded

        kept = as_loaded(Recipe(prompt="", seed=0), model.loaded)
        return values | {name: getattr(kept, name) for name in ("device", "dtype", "attention", "compile")}
    device = choose_device(values.get("device", "auto"))
    return values | {"device": device, "dtype": choose_dtype(values.get("dtype", "auto"), device)}


@dataclass(frozen=True)
class _Run:
    """The clips of one folder."""

    folder: Path
    values: Mapping[str, Any]  # of the recipe, shared by all clips
    model: OneModel
    size: int
    variant: Variant
    overwrite: bool

    def check(self, sample: Sample) -> None:
        """RequestError where a clip is there that was made otherwise, and may not be overwritten."""
        path = self._path(sample, ".mp4")
        if self.overwrite or not path.exists():
            return
        try:  # what settling writes has no place beside clips of another kind
            wanted = self._settle(sample) if _recipe_in(path) else None
        except ConsistI2VError:
            return  # it is reported with its clip
        if differences := _differences(_recipe_in(path), wanted):
            raise RequestError(
                f"{path} is there already, and was made otherwise ({differences}); name another folder, or overwrite."
            )

    def make(self, sample: Sample, on_event: OnEvent, on_notice: OnNotice | None) -> Made:
        """A sample's clip, made unless it is there."""
        path = self._path(sample, ".mp4")
        try:
            recipe = self._settle(sample)
            known = _recipe_in(path)
            if known is not None and not _differences(known, recipe):
                return Made(sample, path, known)
            clip = self._render(sample, recipe, on_event, on_notice)
        except WeightsError:
            raise  # no clip could be made
        except ConsistI2VError as error:
            return Made(sample, path, problem=str(error))
        try:
            clip.save(path, overwrite=self.overwrite)
        except TakenError:  # another process may have been faster
            if _differences(_recipe_in(path), recipe):
                raise
            return Made(sample, path, recipe)
        return Made(sample, path, clip.recipe, fresh=True)

    def _path(self, sample: Sample, ending: str) -> Path:
        return self.folder / f"{sample.name}{ending}"

    def _settle(self, sample: Sample) -> Recipe:
        """A sample's recipe, for which its first frame is written. RequestError: it cannot be read, or rendered."""
        picture = self._path(sample, ".first.png")
        _write_first(sample, picture, self.size)
        recipe = Recipe(**{**self.values, "prompt": sample.prompt, "seed": sample.seed})
        return self._marked(resolve(recipe, picture, self.model.folder))

    def _render(self, sample: Sample, recipe: Recipe, on_event: OnEvent, on_notice: OnNotice | None) -> Clip:
        from consisti2v_cli.render import render

        picture = self._path(sample, ".first.png")
        model = self.model.load(recipe, self.size, on_event)
        with apply(model, self.variant):
            clip = render(recipe, picture, model=model, on_event=on_event, on_notice=on_notice)
        return replace(clip, recipe=self._marked(clip.recipe))

    def _marked(self, recipe: Recipe) -> Recipe:
        """With what the network does without, which no field of a recipe tells."""
        if self.variant == WHOLE:
            return recipe
        return replace(recipe, versions={**recipe.versions, ABLATION: self.variant.name})


def _write_first(sample: Sample, path: Path, size: int) -> None:
    """Write a sample's first frame, unless just that was written before: to find it, a video has to be decoded."""
    try:
        taken = [sample.source.name, sample.source.stat().st_size, sample.draw, size]
    except OSError as error:
        raise RequestError(f"{sample.source} cannot be read: {error.strerror}.") from error
    mark = json.dumps(taken)
    with suppress(OSError, SyntaxError), Image.open(path) as image:
        if image.info.get(MARK) == mark:
            return
    note = PngImagePlugin.PngInfo()
    note.add_text(MARK, mark)
    picture = Image.fromarray(first_frame(sample, size))
    with appearing(path, overwrite=True, folder=False) as made:
        picture.save(made, format="PNG", pnginfo=note)


def _recipe_in(path: Path) -> Recipe | None:
    with suppress(RequestError, OSError):
        return from_json(read_recipe(path) or "")
    return None


def _differences(known: Recipe | None, wanted: Recipe | None) -> str:
    """What tells the recipe of a clip that is there from the one that is wanted; nothing where they are the same."""
    if known is None or wanted is None:
        return "it has no recipe"
    before, after = (recipe.versions.get(ABLATION, WHOLE.name) for recipe in (known, wanted))
    if before != after:
        return f"{before}, not {after}"
    if same_clip(known, wanted):
        return ""
    one, other = to_dict(known), to_dict(wanted)
    names = [name for name in other if name != "versions" and one.get(name) != other[name]]
    return ", ".join(f"{spelled(name)} {one.get(name)}, not {other[name]}" for name in names[:DIFFERENCES])


def _ignore(*_: object) -> None:
    pass
