"""What `pan` and `zoom` say: before, by how much a photo is enlarged; then what motion was asked for, and found."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consisti2v_cli.camera import Window
    from consisti2v_cli.clip import Film
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.commands.plan import Job

SOFT = 1.05  # enlargements below that nobody sees


def warn_of_softness(job: Job, console: Console, *, named: bool) -> None:
    """Say by how much a photo is enlarged where that can be seen; `named`: the sentence begins with its name."""
    from consisti2v_cli.camera import enlargement
    from consisti2v_cli.layout import sides

    larger = enlargement(_path(job), sides(job.recipe))
    if larger > SOFT:
        prefix = f"{job.input.name}: " if named else ""
        console.notice(
            f"{prefix}the photo is enlarged {larger:.1f} times, which costs sharpness; a larger one shows more."
        )


def report_motion(film: Film, job: Job, console: Console, *, named: bool) -> dict[str, Any]:
    """Say how the camera moved, and how it was meant to.

    Args:
        film: what was made.
        job: as which it was planned.
        console: gets the sentences.
        named: whether they begin with the input's name.

    Returns:
        The same for programs: `enlargement`, and `motion` with what was `asked` and what was `found`.
    """
    from consisti2v_cli.camera import asked_motion, enlargement
    from consisti2v_cli.layout import sides
    from consisti2v_cli.media.motion import camera_motion, describe_motion

    path = _path(job)
    larger = enlargement(path, sides(job.recipe))
    prefix = f"{job.input.name}: " if named else ""
    asked, found = asked_motion(path), camera_motion(film.frames)
    console.notice(f"{prefix}{describe_motion(asked, found)}")
    return {"enlargement": round(larger, 3), "motion": {"asked": asdict(asked), "found": asdict(found)}}


def _path(job: Job) -> list[Window]:
    from consisti2v_cli.layout import camera_path
    from consisti2v_cli.media.image import read_size

    return camera_path(job.recipe, read_size(job.input.source, name=job.input.shown))
