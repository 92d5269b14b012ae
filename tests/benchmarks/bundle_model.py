"""Put a trained model into the package, in half precision: `python tests/benchmarks/bundle_model.py MODEL_FOLDER`.

Takes what rendering reads (not the training's checkpoints) into `consisti2v_cli/weights/bundled/`, and prints sizes.
The model card that lies there, `README.md`, stays, and is to be written anew by hand.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from consisti2v_cli.weights.load import load_model
from consisti2v_cli.weights.registry import BUNDLED

PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
CARD = "README.md"


def bundle(model: Path, target: Path) -> None:
    """Copy a model folder, its floating-point tensors as float16. What is in `target` goes once the copy has loaded."""
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as place:
        fresh = Path(place) / "fresh"
        copy(model, fresh)
        load_model(fresh)
        if (target / CARD).is_file():
            shutil.copyfile(target / CARD, fresh / CARD)
        if target.exists():
            target.rename(Path(place) / "old")
        fresh.rename(target)


def copy(model: Path, target: Path) -> None:
    """Copy what rendering reads."""
    for part in PARTS:
        (target / part).mkdir(parents=True)
        for source in sorted((model / part).iterdir()):
            place = target / part / source.name
            if source.suffix == ".safetensors":
                half = {
                    name: t.to(torch.float16) if t.is_floating_point() else t for name, t in load_file(source).items()
                }
                save_file(half, place, metadata={"format": "pt"})
            else:
                shutil.copyfile(source, place)
            place.chmod(0o644)
    shutil.copyfile(model / "consisti2v.json", target / "consisti2v.json")


def main() -> None:
    bundle(Path(sys.argv[1]), BUNDLED)
    files = sorted(file for file in BUNDLED.rglob("*") if file.is_file())
    for file in files:
        print(f"{file.stat().st_size:>10,}  {file.relative_to(BUNDLED)}")
    print(f"{sum(file.stat().st_size for file in files):>10,}  in all")


if __name__ == "__main__":
    main()
