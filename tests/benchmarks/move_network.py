"""Move a trained network to another autoencoder, so that what it has learned is not learned again.

    python tests/benchmarks/move_network.py MODEL AUTOENCODER PHOTOS OUT

Writes the model folder OUT: the text encoder, tokenizer, scheduler and settings of MODEL, the autoencoder of the model
folder AUTOENCODER, and MODEL's network between two linear maps. Between the latents of two autoencoders that have
learned from alike photos much is linear: each map is fitted by least squares on photos from the folder PHOTOS, and goes
into the weights of the network's first and last layer. Printed is how much of the latents' energy each map explains.
Noise that goes through the first map is no longer of equal deviation everywhere, which training has to make good:

    consisti2v train network --init OUT -o OUT ...
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from consisti2v_cli.latents import latent_scale
from consisti2v_cli.training.loop import seeded
from consisti2v_cli.training.photos import PhotoSource
from consisti2v_cli.training.records import write_json
from consisti2v_cli.weights import read_settings
from consisti2v_cli.weights.load import load_part

BATCHES, BATCH = 6, 48  # of photos
KEPT = ("text_encoder", "tokenizer", "scheduler")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "autoencoder", "photos", "out"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    needed = options.model / "unet", options.model / "vae", options.autoencoder / "vae", options.photos
    if lacking := [folder for folder in needed if not folder.is_dir()]:
        parser.error(f"there is no folder {lacking[0]}")
    if options.out.exists():
        parser.error(f"{options.out} exists already")
    explained = move(options.model, options.autoencoder, options.photos, options.out)
    print("explained of the latents' energy: {:.0%} of the old, {:.0%} of the new".format(*explained))


@torch.no_grad()
def move(model: Path, autoencoder: Path, photos: Path, out: Path) -> tuple[float, float]:
    """Write `out`; returns the shares of energy that the maps to the old and to the new latents explain."""
    size = read_settings(model).native_size
    crops = PhotoSource(photos, size)
    pictures = torch.cat([crops.draw(BATCH, seeded("move", number)) for number in range(BATCHES)])
    old, new = (latents(folder, pictures) for folder in (model, autoencoder))
    to_old, explained_old = linear_map(new, old)
    to_new, explained_new = linear_map(old, new)
    unet = load_part(model, "unet")
    weights = unet.state_dict()
    first, last, bias = (weights[name] for name in ("conv_in.weight", "conv_out.weight", "conv_out.bias"))
    weights["conv_in.weight"] = torch.einsum("ocyx,dc->odyx", first, to_old)
    weights["conv_out.weight"] = torch.einsum("ocyx,od->dcyx", last, to_new)
    weights["conv_out.bias"] = bias @ to_new
    config = dataclasses.replace(unet.config, in_channels=new.shape[1], out_channels=new.shape[1])
    for part in KEPT:
        shutil.copytree(model / part, out / part)
    shutil.copytree(autoencoder / "vae", out / "vae")
    shutil.copyfile(model / "consisti2v.json", out / "consisti2v.json")
    (out / "unet").mkdir()
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(contiguous, out / "unet" / "diffusion_pytorch_model.safetensors")
    write_json(out / "unet" / "config.json", config.to_dict())
    return explained_old, explained_new


def latents(folder: Path, pictures: Tensor) -> Tensor:
    """Of pictures `n 3 h w`, as the folder's network has them: `n c h w`."""
    vae = load_part(folder, "vae")
    means = torch.cat([vae.encode(some).latent_dist.mean for some in pictures.split(BATCH)])
    shift, scale = latent_scale(vae)
    return (means - shift) * scale


def linear_map(given: Tensor, wanted: Tensor) -> tuple[Tensor, float]:
    """The matrix `c d` that makes `n d h w` of `n c h w` with the least squared error, and the share it explains."""
    x, y = (tensor.transpose(0, 1).flatten(1).T for tensor in (given, wanted))
    matrix = torch.linalg.lstsq(x, y).solution
    return matrix, 1 - float((x @ matrix - y).square().sum() / y.square().sum())


if __name__ == "__main__":
    main()
