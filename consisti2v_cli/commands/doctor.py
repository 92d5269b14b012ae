"""`consisti2v doctor`: what is installed, what this machine has, what would be chosen, and what will hurt."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from consisti2v_cli.commands.options import option, talk_options
from consisti2v_cli.commands.parsing import UserPath
from consisti2v_cli.errors import ConsistI2VError, RequestError, WeightsError
from consisti2v_cli.recipe import Recipe
from consisti2v_cli.text import read_text_file

if TYPE_CHECKING:
    from consisti2v_cli.weights import ModelFolder

LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "huggingface-hub",
    "safetensors",
    "pillow",
    "imageio-ffmpeg",
)
EXTRAS = ("xformers", "textual-image")  # shown where they are installed
VARIABLES = ("CUDA_VISIBLE_DEVICES", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")
RELEASED_BYTES = 7_000_000_000  # that the released model takes on the disk, about
PHOTO = (4000, 3000)  # width and height of what cameras make
FFMPEG_PATIENCE = 20.0  # seconds

EXAMPLES = """\b
Examples:
  consisti2v doctor
  consisti2v doctor --json | jq .choice
"""


@dataclass
class Findings:
    """What was noticed on the way."""

    warnings: list[str] = field(default_factory=list)  # works, but hurts
    broken: list[ConsistI2VError] = field(default_factory=list)  # does not work


@click.command(epilog=EXAMPLES, short_help="Show what is here, and what would be chosen.")
@option(
    "--config",
    metavar="FILE",
    type=UserPath(path_type=Path, readable=False),
    default=None,
    default_text="config.toml in the user's configuration folder",
    help="Configuration to check.",
)
@option("--json", "as_json", is_flag=True, default_text="off", help="Print one JSON object.")
@talk_options
def doctor(config: Path | None, as_json: bool, quiet: bool, verbose: int) -> int:
    """Show versions, devices, memory, models and folders, and which model and device would be chosen.

    What will hurt is said as a warning. The exit code is 0 unless something is broken: 3 for weights, else 1.
    """
    from consisti2v_cli.commands.console import Console

    if config is not None and not config.is_file():
        raise RequestError(f"There is no configuration file {config}.")
    console = Console(quiet=quiet, verbosity=verbose)
    findings = Findings()
    report = examine(config, findings)
    problems = {"warnings": findings.warnings, "broken": list(map(str, findings.broken))}
    if as_json:
        console.result(json.dumps(report | problems))
    else:
        console.result("\n".join(_lines(report)))
    for warning in findings.warnings:
        console.notice(f"Warning: {warning}")
    for error in findings.broken:
        console.error(str(error))
    codes = {error.exit_code for error in findings.broken}
    return WeightsError.exit_code if WeightsError.exit_code in codes else int(bool(codes))


def examine(config: Path | None, findings: Findings) -> dict[str, Any]:
    """Everything there is to tell, by topic. Sizes are in bytes; folders are written from the home folder on."""
    machine = _machine()
    devices = _devices(machine, findings)
    models = _models(findings)
    return {
        "versions": _versions(findings),
        "machine": machine,
        "devices": devices,
        "models": models,
        "choice": _choice(devices, findings),
        "folders": _folders(findings),
        "settings": _settings(config, findings),
        "preview": _preview(),
    }


def _versions(findings: Findings) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    from consisti2v_cli.version import __version__

    found = {"consisti2v": __version__, "Python": platform.python_version()}
    for library in (*LIBRARIES, *EXTRAS):
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            if library in LIBRARIES:
                findings.broken.append(ConsistI2VError(f"{library} is not installed: install consisti2v-cli again."))
    try:
        found["ffmpeg"] = _ffmpeg_version()
    except ConsistI2VError as error:
        findings.broken.append(error)
    return found


def _ffmpeg_version() -> str:
    """The version of the ffmpeg that is used. ConsistI2VError where it does not run."""
    from consisti2v_cli.media.ffmpeg import executable

    settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "check": True}
    try:
        done = subprocess.run([executable(), "-version"], timeout=FFMPEG_PATIENCE, **settings)
        return str(done.stdout.split()[2])
    except (ConsistI2VError, OSError, subprocess.SubprocessError, IndexError) as error:
        advice = "unset IMAGEIO_FFMPEG_EXE" if "IMAGEIO_FFMPEG_EXE" in os.environ else "install imageio-ffmpeg again"
        reason = " ".join(str(error).split())[:200]
        raise ConsistI2VError(f"ffmpeg does not run, so no film can be written or read; {advice}: {reason}") from None


def _machine() -> dict[str, Any]:
    from consisti2v_cli.weights.devices import usable_cores

    total, available = _memory()
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_bytes": total,
        "memory_available_bytes": available,
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _memory() -> tuple[int | None, int | None]:
    """Bytes of memory in all and available, where the system tells; a container's limit counts."""
    total = available = None
    with suppress(OSError, ValueError, AttributeError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    with suppress(OSError, ValueError, TypeError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        total, available = min(total or limit, limit), min(available or limit, max(0, limit - used))
    return total, available


def _devices(machine: Mapping[str, Any], findings: Findings) -> list[dict[str, Any]]:
    """What a model can run on, the processor last."""
    processor = {"device": "cpu", "name": machine["processor"], "memory_bytes": machine["memory_bytes"]}
    try:
        import torch
    except (ImportError, OSError) as error:  # libraries of another system, or half an installation
        findings.broken.append(
            ConsistI2VError(f"torch does not start: install it again: {' '.join(str(error).split())}")
        )
        return [processor]
    found: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        found.append({"device": f"cuda:{index}", "name": properties.name, "memory_bytes": properties.total_memory})
    if torch.backends.mps.is_available():
        found.append(processor | {"device": "mps"})
    return [*found, processor]


def _models(findings: Findings) -> list[dict[str, Any]]:
    """The models on this machine; those of which something is missing or cut off are broken."""
    from consisti2v_cli.weights import list_models

    shown = []
    for model in list_models():
        problem = f"lacks {', '.join(model.missing)}" if model.missing else _damage(model.path)
        if problem:
            findings.broken.append(WeightsError(f"The model {model.model} {problem}."))
        shown.append(
            {
                "model": model.model,
                "size_bytes": model.bytes,
                "dtypes": sorted({dtype for part in model.dtypes.values() for dtype in part}),
                "revision": model.revision,
                "problem": problem,
            }
        )
    return shown


def _damage(path: Path) -> str | None:
    """What is wrong with a model's files as far as configurations and headers tell, in words; None where nothing is."""
    from consisti2v_cli.weights.checking import check_headers

    try:
        check_headers(path)
    except WeightsError as error:
        return f"is damaged: {str(error).rstrip('.')}"
    return None


def _choice(devices: list[dict[str, Any]], findings: Findings) -> dict[str, Any]:
    """What a command without options would take, and the memory for a clip of the model's own size."""
    from consisti2v_cli.weights import choose, find
    from consisti2v_cli.weights.devices import choose_device, choose_dtype
    from consisti2v_cli.weights.registry import FULL

    model, device = choose(), choose_device() if "torch" in sys.modules else "cpu"
    dtype = choose_dtype("auto", device) if "torch" in sys.modules else "fp32"
    absent = f"the weights of {FULL} are not here: consisti2v fetch-weights"
    because = "its weights are here" if model == FULL else absent
    folder = find(model)
    plan, needed = (_planned(folder, device, dtype) if folder else None) or (None, None)
    if model == FULL and device == "cpu":
        findings.warnings.append(f"There is no GPU: {FULL} is slow here; --model sketch is not.")
    memory = next(entry for entry in devices if entry["device"].startswith(device))["memory_bytes"]
    if needed and memory and needed > memory:
        findings.warnings.append(
            f"A clip of {model} needs about {_size(needed)} of memory; {device} has {_size(memory)}."
        )
    chosen = {"model": model, "because": because, "device": device, "dtype": dtype}
    return {**chosen, "memory_for_a_clip_bytes": needed, "plan": plan}


def _planned(folder: ModelFolder, device: str, dtype: str) -> tuple[str, int] | None:
    """The plan for a clip of the model's own size, in words, and the memory that it takes."""
    from consisti2v_cli.budget import choose_plan
    from consisti2v_cli.resolve import model_defaults
    from consisti2v_cli.weights import read_settings

    try:
        side = read_settings(folder).native_size
        known = model_defaults(folder) | {"width": side, "height": side, "device": device, "dtype": dtype}
        plan, needed = choose_plan(Recipe(prompt="any", seed=0, **known), folder, PHOTO)
        return str(plan), needed
    except (WeightsError, ImportError, OSError):
        return None  # said elsewhere


def _folders(findings: Findings) -> dict[str, Any]:
    """Where weights and notes are kept, and what waits there."""
    from consisti2v_cli.state import cache_folder, state_folder
    from consisti2v_cli.weights import find
    from consisti2v_cli.weights.cache import hub_cache
    from consisti2v_cli.weights.registry import FULL
    from consisti2v_cli.work import unfinished

    cache, free = hub_cache(), _free(hub_cache())
    if find(FULL) is None and free is not None and free < RELEASED_BYTES:
        findings.warnings.append(
            f"{_short(cache)} has {_size(free)} free, and {FULL} takes about {_size(RELEASED_BYTES)}; HF_HOME names "
            "another folder for it."
        )
    films = unfinished()
    return {
        "weights": _short(cache),
        "weights_free_bytes": free,
        "state": _short(state_folder()),
        "state_files_bytes": _taken(state_folder()),
        "latents": _short(cache_folder()),
        "latent_files_bytes": _taken(cache_folder()),
        "unfinished_films": len(films),
        "unfinished_files_bytes": sum(film.size for film in films),
    }


def _settings(config: Path | None, findings: Findings) -> dict[str, Any]:
    """The configuration file that counts, and the variables of the environment, by name alone."""
    from consisti2v_cli.commands.config import default_path, misspelled

    path = config or default_path()
    try:
        tables = _check_config(path) if path.is_file() else None
    except RequestError as error:
        tables = []
        findings.broken.append(ConsistI2VError(str(error).replace(str(path), _short(path))))
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        findings.warnings.append("HF_HUB_OFFLINE is set: fetch-weights downloads nothing.")
    ours = sorted(name for name in os.environ if name.startswith("CONSISTI2V_"))
    findings.warnings += misspelled(ours)
    return {
        "configuration": _short(path),
        "configured": tables if tables is not None else "there is no such file",
        "environment": [*ours, *(name for name in VARIABLES if name in os.environ)],
    }


def _check_config(path: Path) -> list[str]:
    """The names of a configuration's tables. RequestError for what any command would refuse."""
    from consisti2v_cli.commands import consisti2v
    from consisti2v_cli.commands.config import CONFIGURED, read_defaults

    for name in CONFIGURED:
        command = consisti2v.get_command(click.Context(consisti2v), name)
        if command is not None:
            context = click.Context(command, info_name=name)
            defaults = read_defaults(path, context)
            try:
                for parameter in command.params:
                    if parameter.name in defaults:
                        parameter.type_cast_value(context, defaults[parameter.name])
            except click.UsageError as error:
                raise RequestError(f"{path}: [{name}] {error.format_message()}") from None
    return sorted(tomllib.loads(read_text_file(path)))


def _preview() -> str:
    """How --preview would show pictures here."""
    from importlib.util import find_spec

    from consisti2v_cli.commands.console import in_terminal
    from consisti2v_cli.commands.preview import ask_terminal

    if find_spec("textual_image") is None:
        return "not installed: pip install 'consisti2v-cli[preview]'"
    if not in_terminal():
        return "no terminal"
    return ask_terminal().graphics


def _free(path: Path) -> int | None:
    """Bytes that are free where a folder is or would be."""
    import shutil

    with suppress(OSError):
        return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free
    return None


def _taken(path: Path) -> int:
    """Bytes of all files in a folder that may not be there."""
    with suppress(OSError):
        return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    return 0


def _short(path: Path) -> str:
    """A path as people write it, without the name of their home folder."""
    home = os.path.expanduser("~")
    return str(Path("~") / path.relative_to(home)) if path.is_relative_to(home) else str(path)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report for a person: topics, and below each of them aligned names and values."""
    for topic, content in report.items():
        yield topic.capitalize()
        if isinstance(content, dict):
            entries = {
                name.removesuffix("_bytes").replace("_", " "): _shown(name, item) for name, item in content.items()
            }
            width = max(map(len, entries))
            yield from (f"  {name:<{width}}  {text}" for name, text in entries.items())
        elif isinstance(content, list):
            for entry in content:
                yield "  " + ", ".join(_shown(name, item) for name, item in entry.items() if item)
        else:
            yield f"  {content}"


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "unknown"
    if name.endswith("_bytes"):
        return _size(value)
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
