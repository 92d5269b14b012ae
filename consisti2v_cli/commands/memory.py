"""What is said of memory: how much there is, how much a clip takes, and by which plan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from consisti2v_cli.commands.console import Console
    from consisti2v_cli.commands.plan import Job

GIB = 2**30


def machine_memory(device: str) -> int | None:
    """Bytes of memory that a device has in all; None where that cannot be found out."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    with suppress(OSError, ValueError, AttributeError):
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        with suppress(OSError, ValueError):  # a container's own limit
            return min(there, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
        return there
    return None


def warn_of_memory(jobs: Sequence[Job], console: Console) -> None:
    """Say where the largest of the clips takes more memory than it may, or than there is."""
    if not jobs:
        return
    job = max(jobs, key=lambda job: job.memory)
    device, vram = job.recipe.device, job.wish.vram
    there = machine_memory(device) if vram is None else int(vram * GIB)
    if there is not None and job.memory > there:
        limit = f"{device} has {spell(there)}" if vram is None else f"--vram allows {spell(there)}"
        taken = f"This takes about {spell(job.memory)} of memory, and {limit}"
        console.notice(f"{taken}: a smaller --size or fewer --frames take less.")


def planned(job: Job) -> str:
    """The memory that a clip takes, and what is done to need no more."""
    plan = "" if job.recipe.layout_only else f", plan: {job.plan}"
    return f"about {spell(job.memory)} of memory{plan}"


def spell(count: int) -> str:
    """Bytes for people: 1.5 GB, 300 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
