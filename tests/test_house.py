"""The house is as it was agreed: what stands where, who imports whom, how large things are."""

import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "consisti2v_cli"
CODE = (".py", ".pyc")
TOP = {"consisti2v_cli", "tests", "completions", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"}
TORCHLESS = (
    "budget",
    "clip",
    "layout",
    "media.video",
    "resolve",
    "sources",
    "state",
    "weights",
    "weights.devices",
    "work",
)


def test_nothing_unexpected_stands_at_the_top():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("clone the repository with git")
    names = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= TOP


def test_nobody_imports_upwards(tmp_path):
    linter = Path(sys.executable).with_name("lint-imports")
    checked = subprocess.run(
        [linter, "--config", "pyproject.toml", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_commands_import_everything_else_inside_their_bodies():
    modules = sorted(f"consisti2v_cli.commands.{file.stem}" for file in (PACKAGE / "commands").glob("[!_]*.py"))
    listing = f"import sys; import {', '.join(modules)}; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", listing], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(shown.stdout.split())
    own = {name for name in imported if name.startswith("consisti2v_cli.")}
    allowed = {f"consisti2v_cli.{name}" for name in ("commands", "errors", "kinds", "recipe", "text", "version")}
    assert {".".join(name.split(".")[:2]) for name in own} <= allowed
    heavy = {"PIL", "diffusers", "filelock", "huggingface_hub", "imageio_ffmpeg", "numpy", "safetensors"}
    heavy |= {"platformdirs", "textual_image", "torch", "transformers"}
    assert not heavy & imported


def test_what_plans_and_remembers_imports_no_torch():
    """So that a dry run, a layout, info and completion begin at once."""
    modules = ", ".join(f"consisti2v_cli.{name}" for name in TORCHLESS)
    shown = subprocess.run(
        [sys.executable, "-c", f"import sys; import {modules}; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(shown.stdout.split())
    assert "consisti2v_cli.media.video" in imported
    assert not {"diffusers", "torch", "transformers"} & imported


def test_files_stay_readable():
    long = {path.name: count for path in PACKAGE.rglob("*.py") if (count := len(path.read_text().splitlines())) > 400}
    assert not long


def test_the_version_is_in_the_changelog():
    import consisti2v_cli

    assert f"## {consisti2v_cli.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_what_ci_runs_is_what_the_readme_says():
    readme = (ROOT / "README.md").read_text()
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install '.[test]'" in readme
    assert "python -m pytest" in readme
    assert "'.[test]'" in ci
    assert "python -m pytest" in ci


def test_every_dependency_has_a_lower_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    assert all(">=" in entry for entry in [*project["dependencies"], *(entry for extra in extras for entry in extra)])


def test_the_package_carries_its_data():
    try:
        installed = files("consisti2v-cli") or []
    except PackageNotFoundError:
        pytest.skip("install the package: pip install '.[test]'")
    data = {path.as_posix() for path in installed if path.parts[0] == PACKAGE.name and path.suffix not in CODE}
    if not any(path.parts[0] == PACKAGE.name for path in installed):
        pytest.skip("install a copy of the package: pip install '.[test]', without -e")
    ours = [path.relative_to(ROOT) for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in CODE]
    assert data == {path.as_posix() for path in ours}
