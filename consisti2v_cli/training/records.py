"""What a training leaves on disk: checkpoints, the log, pictures, and the finished weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from consisti2v_cli.training.pictures import loss_curve, save_picture

KEPT = 2  # checkpoints
BEGINNING = "start"  # subfolder for weights that a training began from and has replaced in the model folder


class Records:
    """The folder MODEL/training/PART: `checkpoint-STEP/`, `log.jsonl`, `loss.png`, `samples/STEP.png`, `start/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log_path = folder / "log.jsonl"

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(self.folder.glob("checkpoint-*"))

    def load(self) -> dict[str, Any] | None:
        """The last complete checkpoint, on the CPU, or None at the very start."""
        found = self.checkpoints()
        if not found:
            return None
        state: dict[str, Any] = torch.load(found[-1] / "state.pt", map_location="cpu", weights_only=True)
        return state

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint under a temporary name, rename it, and let go of all but the last two."""
        final = self.folder / f"checkpoint-{step:08d}"
        partial = self.folder / f".{final.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with open(partial / "state.pt", "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in self.checkpoints()[:-KEPT]:
            shutil.rmtree(old)

    def log(self, line: dict[str, Any]) -> None:
        """Append one line to the log."""
        with open(self.log_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def draw_curve(self) -> None:
        """Draw the loss curve of the whole log. It reads all of it, and so is not for every line."""
        lines = self.lines()
        curve = loss_curve([line["step"] for line in lines], [line["loss"] for line in lines])
        save_picture(curve, self.folder / "loss.png")

    def lines(self) -> list[dict[str, Any]]:
        """The log so far; a line cut short by a kill is left out."""
        if not self.log_path.exists():
            return []
        complete = [line for line in self.log_path.read_text(encoding="utf-8").split("\n")[:-1] if line.strip("\0 ")]
        return [json.loads(line) for line in complete]

    def forget_all(self) -> None:
        """Empty the folder but for `start/`, from which a training that starts again begins."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.is_dir() and path.name != BEGINNING:
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()

    def forget_after(self, step: int) -> None:
        """Make the folder as it was after `step`: drop later log lines and half-written checkpoints."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for partial in self.folder.glob(".checkpoint-*.partial"):
            shutil.rmtree(partial)
        if self.log_path.exists():
            kept = "".join(json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step)
            partial = self.log_path.with_name(".log.partial")
            partial.write_text(kept, encoding="utf-8")
            partial.replace(self.log_path)


@contextmanager
def publishing(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files replace those of `folder`, one rename each, when the block ends well."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        folder.mkdir(exist_ok=True)
        for file in sorted(partial.iterdir()):
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def keep(folder: Path, copy: Path) -> None:
    """Copy a folder under a temporary name, then rename it; a copy that is there already stays as it is."""
    if copy.is_dir():
        return
    partial = copy.with_name(f".{copy.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folder, partial)
    partial.rename(copy)


def write_json(path: Path, content: Any) -> None:
    """Write JSON under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
