"""Running the real executable."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BOAT = Path(__file__).parents[1] / "fixtures" / "boat.jpg"

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """Of a fresh machine: no configuration, an empty hub cache, no network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONSISTI2V_", "HF_"))}
    return {
        **kept,
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
    }


@pytest.fixture
def run(tmp_path, environment) -> Run:
    """Run `consisti2v` in a folder of its own: run("animate", ..., env={...}, input=b"...")."""

    def run(*arguments, env=None, text=True, **settings):
        return subprocess.run(
            [sys.executable, "-m", "consisti2v_cli", *map(str, arguments)],
            cwd=tmp_path,
            env={**environment, **(env or {})},
            capture_output=True,
            text=text,
            timeout=240,
            check=False,
            **({} if "input" in settings else {"stdin": subprocess.DEVNULL}),
            **settings,
        )

    return run


@pytest.fixture
def boat() -> Path:
    """A photo."""
    return BOAT
