"""The films of a run of `extend`, made one after the other, chunk by chunk; what is there already is not made again."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consisti2v_cli.commands.console import Console, counted, interrupts_held
from consisti2v_cli.commands.made import Made, recipe_in
from consisti2v_cli.commands.making import load, save
from consisti2v_cli.commands.memory import planned, warn_of_memory
from consisti2v_cli.commands.plan import heading
from consisti2v_cli.errors import ConsistI2VError, WeightsError
from consisti2v_cli.recipe import Recipe, same_clip, to_dict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from consisti2v_cli.chunks import LongFilm
    from consisti2v_cli.commands.plan import Job
    from consisti2v_cli.commands.preview import Preview
    from consisti2v_cli.sources import Beginning
    from consisti2v_cli.weights.load import Model
    from consisti2v_cli.work import Work

Event = Callable[[str, int, int], None]  # stage, how much of it is done, how much there is
Show = Callable[["NDArray[np.uint8]"], None]  # small frames f h w 3


class Filming:
    """Makes films that differ in nothing but their seeds."""

    def __init__(
        self,
        jobs: Sequence[Job],
        beginning: Beginning,
        options: Mapping[str, Any],
        console: Console,
        *,
        again: bool = False,
    ) -> None:
        """
        Args:
            jobs: settled, with the paths that were reserved for them.
            beginning: what all films begin with.
            options: of the command.
            console: hears of it all.
            again: a recipe is made again: the file that it comes from does not count as made already.
        """
        self.jobs = jobs
        self.beginning = beginning
        self.options = options
        self.console = console
        self.again = again
        self._ended: list[Path] = []  # work folders of films that are there
        self._last: Path | None = None  # file that the run wrote, or an earlier start of it
        self._finder = Made(since=time.time() if options["overwrite"] else None)
        self._model: Model | None = None
        self._preview: Preview | None = None

    def show(self) -> int:
        """Print the plan: a line, or a JSON object, a film. Returns the exit code."""
        from consisti2v_cli.work import Work, chunks_folder, work_name

        warn_of_memory(self.jobs, self.console)
        for job in self.jobs:
            outputs = job.outputs.listed(job.paths)
            done = Work(chunks_folder() / work_name(job.recipe, job.folder)).done()
            length = self.beginning.length(job.recipe)
            shown = {"input": job.input.name, "outputs": outputs, "memory_bytes": job.memory, "plan": str(job.plan)}
            line = json.dumps({**shown, "film_frames": length, "chunks_done": done, "recipe": to_dict(job.recipe)})
            self.console.result(line if self.options["json"] else _describe(job, outputs, length, done))
        return 0

    def make(self) -> int:
        """Make all films. Returns the exit code.

        Raises:
            ConsistI2VError: what went wrong with a run's only film, or would with all of them.
            KeyboardInterrupt: when the running step is done.
        """
        from consisti2v_cli.media.scratch import remove_leftovers

        warn_of_memory(self.jobs, self.console)
        for place in {path.parent for job in self.jobs for path in job.paths}:
            remove_leftovers(place)
        if self.options["preview"]:
            from consisti2v_cli.commands.preview import make_preview

            self._preview = make_preview(self.console)
        failed = 0
        try:
            for number, job in enumerate(self.jobs, start=1):
                label = job.input.name if len(self.jobs) == 1 else f"[{number}/{len(self.jobs)}] {job.input.name}"
                with interrupts_held() as release:
                    try:
                        self._make(job, label, release)
                    except (ConsistI2VError, OSError) as error:
                        if len(self.jobs) == 1 or isinstance(error, (WeightsError, BrokenPipeError)):
                            raise
                        self.console.error(f"seed {job.recipe.seed}: {error}")
                        failed += 1
        finally:  # Ctrl-C may come when the last film is there
            if len(self._ended) + failed == len(self.jobs):
                self._end(failed)
        return 1 if failed else 0

    def _end(self, failed: int) -> None:
        """All films were tried. Only a run that is done moves the last clip, which the same command began with."""
        from consisti2v_cli.state import remember_last
        from consisti2v_cli.work import remove_ended

        if self._last and not failed:
            remember_last(self._last)
        for folder in self._ended:
            remove_ended(folder)

    def _make(self, job: Job, label: str, release: Callable[[], None]) -> None:
        """Make one film, or what is missing of it.

        In its work folder only the notes are left: until the run ends, a later start without a seed finds the run's
        seeds in them.
        """
        from consisti2v_cli.work import working

        with working(job.recipe, job.folder, self.console.notice) as work:
            try:
                if (rest := self._rest(job, work)) is not None:
                    rest = replace(rest, paths=tuple(rest.outputs.still_free(rest.paths)))
                    seed = self.jobs[0].recipe.seed
                    work.note(job.recipe, first_seed=seed, request=_request(job), outputs=rest.paths)
                    self._film(rest, work, label, release)
            except KeyboardInterrupt:
                done = f"{work.done()} of {job.recipe.chunks} chunks are kept"
                self.console.notice(f"{done}; the same command goes on from there.")
                raise
            work.clear()
            self._ended.append(work.folder)

    def _rest(self, job: Job, work: Work) -> Job | None:
        """What is still to be made of a film: some of its formats. None if all are there."""
        if job.outputs.stream:
            return job
        found = self._written(job, work)
        self._last = next(reversed(found.values()), self._last)
        if not self.again:
            found |= {format: file.path for format, file in self._finder.look(job, again=True).items()}
        missing = tuple(path for path in job.paths if job.outputs.format_of(path) not in found)
        if found:
            files = ", ".join(map(str, found.values()))
            self.console.notice(f"Made already: {files}; another --seed makes another film, -y makes it again.")
        return replace(job, paths=missing) if missing else None

    def _written(self, job: Job, work: Work) -> dict[str, Path]:
        """Files that an earlier start wrote before it was killed, by format: those chosen for this film that carry its
        recipe, or have the very bytes that it gives."""
        from consisti2v_cli.state import keep_latent, remember

        chosen = [path for path in work.outputs(_request(job)) or () if path.exists()]
        found = {path: recipe_in(path) for path in chosen}
        ours = [path for path, recipe in found.items() if recipe is not None and same_clip(recipe, job.recipe)]
        bare = [path for path, recipe in found.items() if recipe is None]
        if bare and not job.outputs.metadata and work.done() == job.recipe.chunks:
            ours += self._same_bytes(bare, self._render(job, work))
        latents = work.latents(job.recipe.chunks) if ours else None
        for path in ours:
            remember(path, found[path] or job.recipe, job.input.source)
            keep_latent(path, None if latents is None else latents[:, -1], job.recipe)
        return {_format(path): path for path in ours}

    def _same_bytes(self, paths: Sequence[Path], film: LongFilm) -> Iterator[Path]:
        """Those files that a film becomes once more, without metadata."""
        from consisti2v_cli.state import content_sha256

        for path in paths:
            with tempfile.TemporaryDirectory(prefix="consisti2v-") as folder:
                again = film.save(Path(folder) / path.name, format=_format(path), metadata=False)
                if content_sha256(again) == content_sha256(path):
                    yield path

    def _film(self, job: Job, work: Work, label: str, release: Callable[[], None]) -> None:
        """Write a film while it is made."""
        begun, facts = time.monotonic(), dict[str, Any]()
        length = self.beginning.length(job.recipe)
        self._loaded(job)  # its bar is not one of the film's
        with self._progress(label, job.recipe) as (event, show):

            def on_event(stage: str, done: int, total: int) -> None:
                event(stage, done, total)
                if film.drift is not None and not facts:
                    facts.update(film_frames=length, drift=asdict(film.drift))
                release()

            film = self._render(job, work, on_event, show)
            files = save(
                film,
                job.paths,
                job.outputs,
                self.console,
                name=job.input.name,
                seconds=Elapsed(begun),
                as_json=self.options["json"],
                source=job.input.source,
                facts=facts,
                is_last=False,
            )
            self._last = files[-1] if files else None
        self.console.notice(str(film.drift))

    def _render(self, job: Job, work: Work, on_event: Event | None = None, show: Show | None = None) -> LongFilm:
        from consisti2v_cli.chunks import render_film

        return render_film(
            job.recipe,
            self.beginning,
            model=self._loaded(job),
            work=work,
            on_event=on_event,
            on_notice=self.console.notice,
            on_preview=show,
        )

    def _loaded(self, job: Job) -> Model:
        if self._model is None:
            self._model = load(job, self.console)
        return self._model

    @contextmanager
    def _progress(self, label: str, recipe: Recipe) -> Iterator[tuple[Event, Show | None]]:
        """One bar over the chunks, and one for what goes on in a chunk; and previews of each chunk."""
        from consisti2v_cli.chunks import CHUNKS

        chunk, ready, pictures = 0, False, None
        with self.console.overall(f"{label}: chunks", recipe.chunks) as advance, self.console.progress(label) as report:

            def event(stage: str, done: int, total: int) -> None:
                nonlocal chunk, ready, pictures
                if ready:  # read once more, for another format
                    return
                if stage != CHUNKS:
                    report(f"chunk {chunk}/{recipe.chunks}, {stage}", done, total)
                    return
                if done:
                    advance()
                chunk, ready = done + 1, done == total
                pictures = self._preview.of_clip(self.console.rich, recipe.steps) if self._preview else None

            def show(frames: NDArray[np.uint8]) -> None:
                if pictures:
                    pictures(frames)

            yield event, show if self._preview else None


class Elapsed(float):
    """The seconds since a moment, as many as they are when they are written: a film is made while it is saved."""

    def __new__(cls, begun: float) -> Elapsed:
        """`begun`: of `time.monotonic`."""
        return super().__new__(cls, begun)

    def __round__(self, digits: Any = None) -> Any:
        return round(time.monotonic() - float(self), digits)

    def __format__(self, spec: str) -> str:
        return format(time.monotonic() - float(self), spec)


def _format(path: Path) -> str:
    return path.suffix.removeprefix(".").lower() or "png"


def _request(job: Job) -> str:
    """What was asked for in the way of files."""
    return json.dumps([os.path.abspath(job.outputs.template), job.outputs.formats, job.outputs.metadata])


def _describe(job: Job, outputs: Sequence[str], length: int, done: int) -> str:
    """A planned film in a line for a person."""
    recipe = job.recipe
    return (
        f"{heading(job, outputs)}, {length} frames at {recipe.fps:g} a second, "
        f"{recipe.chunks} chunks of {recipe.frames} frames, {done} of them there already, "
        f"{counted(recipe.steps, 'step')} of {recipe.sampler}, seed {recipe.seed}, {recipe.model} in {recipe.dtype} on "
        f"{recipe.device}, {planned(job)}"
    )
