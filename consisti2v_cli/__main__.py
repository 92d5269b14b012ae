"""The program `consisti2v`, which is `python -m consisti2v_cli` too: what must be right before anything is imported."""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line, and exit.

    Until the command takes care of it, Ctrl-C ends the program without a word. What was typed, and the names of files,
    are UTF-8 whatever the locale says, as they are for Python from its version 3.15 on: elsewhere the interpreter is
    started once more, in its UTF-8 mode.
    """
    is_held = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it is to be ignored
    if is_held:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    options = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]  # of the interpreter
    if sys.getfilesystemencoding().lower() != "utf-8" and not any("utf8" in option for option in options):
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    from consisti2v_cli.commands import main as run

    try:
        if is_held:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
