"""Running the real executable."""

import ctypes
import os
import subprocess
import sys
import warnings
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
        "CONSISTI2V_STATE": str(tmp_path / "state"),
        "CONSISTI2V_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
    }


@pytest.fixture
def run(tmp_path, environment) -> Run:
    """Run `consisti2v` in a folder of its own: run("animate", ..., env={...}, input=b"...")."""

    def run(*arguments, env=None, text=True, program=("-m", "consisti2v_cli"), **settings):
        return subprocess.run(
            [sys.executable, *program, *map(str, arguments)],
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
def unprivileged():
    """What a new process does first to be refused what others are refused, be it root's: run(..., preexec_fn=...)."""
    if os.geteuid():
        return None
    if not sys.platform.startswith("linux"):
        pytest.skip("nothing is forbidden to root")
    drop, capabilities = 24, (1, 2)  # PR_CAPBSET_DROP; CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    libc = ctypes.CDLL(None)
    return lambda: [libc.prctl(drop, capability, 0, 0, 0) for capability in capabilities]


@pytest.fixture
def call(tmp_path, environment, monkeypatch, capsys) -> Run:
    """Like `run`, in this process: quicker, where nothing depends on a process of its own."""
    from consisti2v_cli.commands import main

    for name in [name for name in os.environ if name.startswith(("CONSISTI2V_", "HF_"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code, shown.out, shown.err)

    return call


@pytest.fixture
def boat() -> Path:
    """A photo."""
    return BOAT
