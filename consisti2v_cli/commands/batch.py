"""The clips of a run, made one after the other: with one model, past what goes wrong, and beside other processes."""

from __future__ import annotations

import errno
import json
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consisti2v_cli.commands.claims import Claims
from consisti2v_cli.commands.console import Console, counted, interrupts_held
from consisti2v_cli.commands.made import Made
from consisti2v_cli.commands.making import load, save
from consisti2v_cli.commands.memory import planned, warn_of_memory
from consisti2v_cli.commands.plan import heading
from consisti2v_cli.errors import WeightsError
from consisti2v_cli.recipe import CAMERA, to_dict

if TYPE_CHECKING:
    from consisti2v_cli.clip import Film
    from consisti2v_cli.commands.plan import Job
    from consisti2v_cli.commands.preview import Preview
    from consisti2v_cli.commands.wishes import Wish
    from consisti2v_cli.plans import MemoryPlan
    from consisti2v_cli.weights.load import Model

PATIENCE = 0.5  # seconds between two looks at what other processes make
NAMED = 3  # files in a notice, before the rest is only counted


@dataclass
class Batch:
    """What a run makes, and what became of it."""

    options: Mapping[str, Any]  # of the command
    console: Console
    alone: bool  # one clip is all: what goes wrong is raised
    resumes: bool  # what is made already is left out
    shared: bool  # other processes may make some of it

    def __post_init__(self) -> None:
        self.jobs: list[Job] = []  # to be made
        self.left_out: list[Path] = []  # made already: of each clip one file
        self.failures: list[str] = []
        self.made = 0
        self._claims = Claims(self.console if self.shared else None)
        self._finder = Made(since=time.time() if self.options["overwrite"] else None)
        self._loaded: tuple[tuple[object, ...], Model] | None = None
        self._preview: Preview | None = None
        self._places: set[Path] = set()  # folders of the outputs
        self._plans: dict[tuple[object, ...], set[MemoryPlan]] = {}  # of all clips, by what they share a model by
        self._is_full = False  # the disk
        self._said: set[str] = set()

    @property
    def is_thorough(self) -> bool:
        """Whether images are decoded before anything is made, not each before its clip."""
        return self.alone or bool(self.options["dry_run"])

    def add(self, job: Job) -> None:
        """Make a clip, unless it is made already."""
        self._places |= {path.parent for path in job.paths if self.resumes}
        self._plans.setdefault(_model_key(job), set()).add(job.plan)
        if (rest := self._rest(job)) is not None:
            self.jobs.append(rest)

    def fail(self, wish: Wish, error: Exception) -> None:
        """Say and count what went wrong; raise it if there is nothing else to make."""
        if self.alone:
            raise error
        self.failures.append(wish.explain(error))
        self.console.error(self.failures[-1])

    def show(self) -> int:
        """Print the plan: a line, or a JSON object, a clip. Returns the exit code."""
        self._share_plans()
        self._say_beforehand()
        for job in self.jobs:
            self._warn(job)
            outputs = job.outputs.listed(job.paths)
            shown = {"input": job.input.name, "outputs": outputs, "memory_bytes": job.memory, "plan": str(job.plan)}
            line = json.dumps({**shown, "recipe": to_dict(job.recipe)})
            self.console.result(line if self.options["json"] else _describe(job, outputs))
        return self._end(f"{len(self.jobs)} to make")

    def make(self) -> int:
        """Make all clips. Returns the exit code.

        Raises:
            ConsistI2VError: what went wrong with a run's only clip, or with all of its clips.
            KeyboardInterrupt: when the running step is done.
        """
        from consisti2v_cli.media.scratch import remove_leftovers

        self._share_plans()
        self._say_beforehand()
        for place in self._places:
            remove_leftovers(place)
        if self.options["preview"] and self.jobs:
            from consisti2v_cli.commands.preview import make_preview

            self._preview = make_preview(self.console)
        try:
            with nullcontext(_nothing) if self.alone else self.console.overall("all clips", len(self.jobs)) as advance:
                self._make_all(advance)
        except KeyboardInterrupt:
            self._end(f"{self.made} made")
            if self.shared:
                self.console.notice("The same command goes on from here.")
            raise
        return self._end(f"{self.made} made")

    def _make_all(self, advance: Callable[[], None]) -> None:
        """Each clip when no other process is making it: first those that nobody makes, then what is left."""
        queue = deque(enumerate(self.jobs, start=1))
        busy = 0  # how many in a row are being made elsewhere
        while queue:
            if self._is_full:
                self.console.notice(f"The disk is full: {len(queue)} more are not made.")
                break
            number, job = queue.popleft()
            claim = self._claims.take(job.outputs.claimed_name(job.paths[0])) if self.shared else nullcontext()
            if claim is not None:
                with claim:
                    self._make(number, job)
                advance()
                busy = 0
                continue
            queue.append((number, job))
            busy += 1
            if busy >= len(queue):
                self._say_once(
                    f"Waiting for what another run is making: {_listed([job.paths[0] for _, job in queue])}."
                )
                time.sleep(PATIENCE)
                busy = 0

    def _make(self, number: int, job: Job) -> None:
        """One clip. The first Ctrl-C lets the running step end, and a finished clip be saved."""
        rest = self._rest(job, again=True)
        if rest is None:
            return
        label = job.input.name if self.alone else f"[{number}/{len(self.jobs)}] {job.input.name}"
        with interrupts_held() as release:
            try:
                self._warn(rest)
                begun = time.monotonic()
                film = self._film(rest, label, release)
                self._save(film, rest, time.monotonic() - begun)
            except BrokenPipeError:
                raise
            except Exception as error:  # whatever it is, the other clips do not suffer from it
                if isinstance(error, WeightsError) and len(set(map(_model_key, self.jobs))) == 1:
                    raise  # none can be made
                self._is_full = os.strerror(errno.ENOSPC) in str(error)
                self.fail(job.wish, error)

    def _rest(self, job: Job, *, again: bool = False) -> Job | None:
        """What is still to be made of a clip: with the seed of those formats that are there. None if all of it is."""
        if not self.resumes:
            return job
        found = self._finder.look(job, again=again)
        missing = tuple(path for path in job.paths if job.outputs.format_of(path) not in found)
        if not missing:
            self.left_out.append(next(iter(found.values())).path)
            return None
        seed = next((entry.recipe.seed for entry in found.values()), job.recipe.seed)
        return replace(job, paths=missing, recipe=replace(job.recipe, seed=seed))

    def _film(self, job: Job, label: str, release: Callable[[], None]) -> Film:
        from consisti2v_cli.layout import layout_clip
        from consisti2v_cli.media.image import read_image

        if job.recipe.layout_only:
            return layout_clip(job.recipe, job.input.source)
        if not self.is_thorough:
            read_image(job.input.source, background=job.recipe.background, name=job.input.shown)
        model = self._model(job)
        from consisti2v_cli.render import render

        show = self._preview.of_clip(self.console.rich, job.recipe.steps) if self._preview else None
        with self.console.progress(label) as report:

            def event(stage: str, done: int, total: int) -> None:
                report(stage, done, total)
                release()

            return render(
                job.recipe, job.input.source, model=model, on_event=event, on_notice=self._say_once, on_preview=show
            )

    def _model(self, job: Job) -> Model:
        """The model of a clip: the one that is loaded, where that will do."""
        wanted = _model_key(job)
        if self._loaded is None or self._loaded[0] != wanted:
            if self._loaded is not None:
                from consisti2v_cli.weights.offload import make_room

                device, self._loaded = self._loaded[1].device, None
                make_room(device)
            self._loaded = (wanted, load(job, self.console))
        return self._loaded[1]

    def _share_plans(self) -> None:
        """Give all clips of the run that share a model one plan, for which those count too that are made already."""
        from consisti2v_cli.budget import estimate
        from consisti2v_cli.plans import smallest

        for number, job in enumerate(self.jobs):
            plan = smallest(self._plans[_model_key(job)])
            if plan != job.plan:
                memory = estimate(job.recipe, job.folder, job.photo, plan)
                self.jobs[number] = replace(job, plan=plan, memory=memory)

    def _save(self, film: Film, job: Job, seconds: float) -> None:
        facts = None
        if job.recipe.command in CAMERA:
            from consisti2v_cli.commands.travel import report_motion

            try:
                facts = report_motion(film, job, self.console, named=not self.alone)
            except Exception as error:  # a finished clip is saved, whatever its motion
                self.console.notice(f"{job.input.name}: the motion could not be measured ({type(error).__name__}).")
        save(
            film,
            job.paths,
            job.outputs,
            self.console,
            name=job.input.name,
            seconds=seconds,
            as_json=self.options["json"],
            source=job.input.source,
            claims=self._claims,
            facts=facts,
        )
        self.made += 1

    def _say_beforehand(self) -> None:
        """What a person should know before it takes long."""
        drawn = next((job for job in self.jobs if job.wish.any_seed and not job.recipe.layout_only), None)
        if drawn:
            self.console.notice(f"Seed: {drawn.wish.values['seed']}")
        if self.left_out:
            ways = "another --seed makes others, -y makes them again"
            self.console.notice(f"Made already: {_listed(self.left_out)}; {ways}.")
        warn_of_memory(self.jobs, self.console)

    def _warn(self, job: Job) -> None:
        """What will cost a clip its quality, before it is made."""
        if job.recipe.command in CAMERA:
            from consisti2v_cli.commands.travel import warn_of_softness

            warn_of_softness(job, self.console, named=not self.alone)

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self.console.notice(sentence)

    def _end(self, first: str) -> int:
        """Say how a run of several clips ended, with all that went wrong. Returns the exit code."""
        already = f", {len(self.left_out)} made already" if self.left_out else ""
        failed = f", {len(self.failures)} failed:" if self.failures else ""
        if not self.alone:
            self.console.notice("\n  ".join([f"{first}{already}{failed or '.'}", *self.failures]))
        return 1 if self.failures else 0


def _model_key(job: Job) -> tuple[object, ...]:
    recipe = job.recipe
    return job.folder.path, recipe.device, recipe.dtype, recipe.attention, recipe.compile, job.wish.vram


def _describe(job: Job, outputs: Sequence[str]) -> str:
    """A planned clip in a line for a person."""
    recipe = job.recipe
    ways = {
        f", deep features for {recipe.reuse} steps": recipe.reuse > 1,
        f", guided from {recipe.guidance_begin:g} to {recipe.guidance_end:g}": recipe.guidance_begin > 0
        or recipe.guidance_end < 1,
        ", compiled": recipe.compile,
    }
    how_many = f"{counted(recipe.steps, 'step')} of {recipe.sampler}"
    steps = how_many + "".join(words for words, is_so in ways.items() if is_so)
    model = f"{steps}, seed {recipe.seed}, {recipe.model} in {recipe.dtype}"
    how = "the layout alone" if recipe.layout_only else f"{model} on {recipe.device}"
    return f"{heading(job, outputs)}, {recipe.frames} frames at {recipe.fps:g} a second, {how}, {planned(job)}"


def _listed(paths: Sequence[Path]) -> str:
    """'a.mp4, b.mp4, c.mp4 and 9 more'."""
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(map(str, paths[:NAMED])) + more


def _nothing() -> None:
    pass
