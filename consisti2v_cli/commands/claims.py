"""Who makes what, where several processes on one machine make the same run: a lock a clip, freed with its owner."""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consisti2v_cli.commands.output import key

if TYPE_CHECKING:
    from filelock import BaseFileLock

    from consisti2v_cli.commands.console import Console

KINDS = 4096  # as many lock files at most: two clips that share one wait for each other without need, no more

Claim = AbstractContextManager[Any]  # given up at its end


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
