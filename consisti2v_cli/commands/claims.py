"""Who makes what, where several processes on one machine make the same run: a lock a clip, freed with its owner."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consisti2v_cli.commands.output import key

if TYPE_CHECKING:
    from filelock import BaseFileLock

    from consisti2v_cli.commands.console import Console

AGREEING = 2.0  # seconds within which the process that runs already has written down its seed
KINDS = 4096  # as many lock files at most: two clips that share one wait for each other without need, no more

Claim = AbstractContextManager[Any]  # given up at its end


_runs: list[BaseFileLock] = []  # held until the process ends


def agreed_seed(run: str, seed: int) -> int:
    """The seed of a run for which none was asked: that of another process which makes the same run now, else this
    one's, which holds for those that start while this process lives.

    Args:
        run: what tells it from others.
        seed: that this process would take.
    """
    from filelock import FileLock, Timeout

    from consisti2v_cli.state import locks_folder

    name = hashlib.sha256(run.encode(errors="surrogateescape")).hexdigest()
    try:
        place = locks_folder() / f"run-{int(name, 16) % KINDS:03x}"
        lock = FileLock(place.with_suffix(".lock"), is_singleton=True)
        lock.acquire(timeout=0)
        _runs.append(lock)
        place.write_text(f"{name} {seed}")
    except Timeout:
        deadline = time.monotonic() + AGREEING
        while time.monotonic() < deadline:
            with suppress(OSError, ValueError):
                known, known_seed = place.read_text().split()
                if known == name:
                    return int(known_seed)
            time.sleep(0.05)
    except (OSError, NotImplementedError):
        pass
    return seed


class Claims:
    """Takes claims on clips. Without a place for locks every claim is granted."""

    def __init__(self, console: Console | None = None) -> None:
        """`console` hears of it, once, where there is no place for locks."""
        self.console = console
        self._works = True

    def take(self, path: Path) -> Claim | None:
        """The claim on a clip, by the name of its file without suffix; None while another process has it.

        A process can take a claim that it has already.
        """
        from filelock import Timeout

        if not self._works:
            return nullcontext()
        try:
            claim: Claim = self._lock(path).acquire(timeout=0)
            return claim
        except Timeout:
            return None
        except (OSError, NotImplementedError) as error:
            self._works = False
            if self.console:
                self.console.notice(
                    f"No lock can be made ({error}): do not start the same run twice at a time, or name another place "
                    "with CONSISTI2V_STATE."
                )
            return nullcontext()

    def _lock(self, path: Path) -> BaseFileLock:
        from filelock import FileLock

        from consisti2v_cli.state import locks_folder

        number = int(hashlib.sha256(os.fsencode(key(path))).hexdigest(), 16) % KINDS
        return FileLock(locks_folder() / f"{number:03x}.lock", is_singleton=True)
