"""Measure memory: what plans save, how weights are loaded, and a step at full size.

    python tests/benchmarks/memory.py peaks [--sizes 256x256 512x512] [--frames 16] [--dtype fp16]
    python tests/benchmarks/memory.py check [--size 256x256] [--frames 16] [--scale 4]
    python tests/benchmarks/memory.py loading [--scale 1] [--stored fp32] [--dtypes fp32 bf16]
    python tests/benchmarks/memory.py step [--size 512x512] [--frames 16] [--dtype bf16] [--scale 1]

peaks: for each plan the most that a pass of the released network holds beside its weights, counted on tensors without
numbers (see `memory_tracker.py`), in MiB and in feature maps of the first level; the same for the autoencoder; and what
each plan takes of a graphics card in all.

check: the same count against what this machine's memory says (VmHWM of a process that does one step, less that of one
that only loads), with a network whose widths are divided by --scale.

loading: writes a made-up model and loads it in a process of its own: the most memory that it held (VmHWM, with what is
mapped from files) beyond what the imports take, as a multiple of the files or of what becomes of them, whichever is
larger; and its speed beside that of copying the files from the page cache into memory.

step: one guided step (two branches) with made-up weights in a process of its own, and a decoded frame: seconds, and
VmHWM of it all.

Run by hand; with --scale 1 loading writes 7 GB into --folder, and a step at 512x512 takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from memory_tracker import (
    RELEASED_TEXT_ENCODER,
    RELEASED_VAE,
    autoencoder_peaks,
    largest_weight,
    network_peak,
    weight_bytes,
)
from safetensors.torch import save_file

from consisti2v_cli.model import UNetConfig, VideoUNet
from consisti2v_cli.plans import ALL_AT_ONCE, PLANS, MemoryPlan
from consisti2v_cli.weights.load import DTYPES

RELEASED = Path(__file__).parents[1] / "fixtures" / "reference" / "released_unet_config.json"
MIB = 2**20
BRANCHES = 2
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "1000000"}  # what is freed leaves the process, as large tensors do by themselves
PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(run: Callable[[argparse.Namespace], None], **defaults: Any) -> None:
        added = commands.add_parser(run.__name__)
        for name, default in defaults.items():
            many = isinstance(default, list)
            kind = type(default[0] if many else default)
            added.add_argument(f"--{name}", type=kind, default=default, nargs="+" if many else None)
        added.set_defaults(run=run)

    command(peaks, sizes=["256x256", "512x512"], frames=16, dtype="fp16")
    command(check, size="256x256", frames=16, scale=4)
    command(loading, scale=1, stored="fp32", dtypes=["fp32", "bf16"], folder=tempfile.gettempdir())
    command(step, size="512x512", frames=16, dtype="bf16", scale=1)
    arguments = parser.parse_args()
    arguments.run(arguments)


def peaks(arguments: argparse.Namespace) -> None:
    """A line for each plan and size."""
    unet = empty_unet(1).to(DTYPES[arguments.dtype])
    vae, text_encoder = empty_vae(1), empty_text_encoder(1).to(DTYPES[arguments.dtype])
    parts = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
    held = {name: weight_bytes(part) for name, part in parts.items()}
    print(f"{arguments.dtype}, weights:", ", ".join(f"{name} {count / MIB:.0f} MiB" for name, count in held.items()))
    print(f"{'size':>9} {'network':>8} {'maps':>5} {'encoder':>8} {'decoder':>8} {'in all':>8}  (MiB)  plan")
    for size in map(read_size, arguments.sizes):
        for plan in [*PLANS, MemoryPlan(tiled=True)]:
            network = network_peak(unet, size, frames=arguments.frames, branches=BRANCHES, plan=plan)
            encoder, decoder = autoencoder_peaks(vae, size, plan=plan)
            branches = 1 if plan.branches_apart else BRANCHES
            positions = size[0] * size[1] // 64
            map_bytes = branches * arguments.frames * positions * unet.config.block_out_channels[0]
            maps = network / map_bytes / DTYPES[arguments.dtype].itemsize
            whole = on_the_card(plan, held, largest_weight(unet), network, max(encoder, decoder))
            shown = f"{network / MIB:8.0f} {maps:5.1f} {encoder / MIB:8.0f} {decoder / MIB:8.0f} {whole / MIB:8.0f}"
            print(f"{size[0]:>5}x{size[1]} {shown}         {plan}")


def on_the_card(plan: MemoryPlan, held: dict[str, int], layer: int, network: int, pictures: int) -> int:
    """The most that lies on a graphics card in the course of a clip; of streamed weights two layers, and one goes."""
    unet = 3 * layer if plan.streamed else held["unet"]
    if not plan.parts_apart:
        return sum(held.values()) - held["unet"] + unet + max(network, pictures)
    waits = 0 if plan.streamed else unet
    return max(unet + network, waits + held["vae"] + pictures, waits + held["text_encoder"])


def check(arguments: argparse.Namespace) -> None:
    """Counted and real, of the same step in float32 on this CPU."""
    size = read_size(arguments.size)
    unet = empty_unet(arguments.scale)
    print(f"{'counted':>8} {'measured':>8} {'ratio':>6}  (MiB)  plan")
    for plan in (ALL_AT_ONCE, PLANS[2], PLANS[3]):
        counted = network_peak(unet, size, frames=arguments.frames, branches=BRANCHES, plan=plan)
        given = {"scale": arguments.scale, "size": size, "frames": arguments.frames, "dtype": "fp32"}
        given |= {"chunks": plan.feed_forward_chunks, "branches": 1 if plan.branches_apart else BRANCHES}
        idle, busy = (
            measured("run_step", given | {"steps": steps, "decode": False}, GIVE_BACK)["hwm"] for steps in (0, 1)
        )
        print(f"{counted / MIB:8.0f} {(busy - idle) / MIB:8.0f} {(busy - idle) / counted:6.2f}         {plan}")


def loading(arguments: argparse.Namespace) -> None:
    """A line for each precision that the files are loaded in."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        files = write_model(Path(name), arguments.scale, DTYPES[arguments.stored])
        size = sum(file.stat().st_size for file in files)
        copied = size / copy_seconds(files) / 1e9
        print(f"{size / 1e9:.2f} GB of files in {arguments.stored}, copied at {copied:.2f} GB/s")
        print(f"{'dtype':>5} {'GB held':>8} {'of larger':>9} {'s':>6} {'GB/s':>6} {'of copy':>7}")
        for dtype in arguments.dtypes:
            told = measured("run_loading", {"folder": name, "dtype": dtype})
            held, larger = told["hwm"] - told["before"], max(size, told["weights"])
            speed = size / told["seconds"] / 1e9
            print(f"{dtype:>5} {held / 1e9:8.2f} {held / larger:9.2f} {told['seconds']:6.2f}", end=" ")
            print(f"{speed:6.2f} {speed / copied:7.2f}")


def step(arguments: argparse.Namespace) -> None:
    """One line."""
    size = read_size(arguments.size)
    given = {"scale": arguments.scale, "size": size, "frames": arguments.frames, "dtype": arguments.dtype}
    told = measured("run_step", given | {"steps": 1, "decode": True, "chunks": 1, "branches": BRANCHES})
    print(
        f"{arguments.size}, {arguments.frames} frames, {arguments.dtype}, widths / {arguments.scale}: "
        f"step {told['step']:.1f} s, a frame decoded in {told['frame']:.1f} s, VmHWM {told['hwm'] / 2**30:.2f} GiB"
    )


def measured(function: str, given: dict[str, Any], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """What a function of this file returns in a process of its own."""
    code = f"import json, sys, memory; print(json.dumps(memory.{function}(**json.loads(sys.argv[1]))))"
    ran = subprocess.run(
        [sys.executable, "-c", code, json.dumps(given)],
        cwd=Path(__file__).parent,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def run_loading(folder: str, dtype: str) -> dict[str, float]:
    """Load the parts of a model as `load_model` does."""
    from diffusers import AutoencoderKL  # noqa: F401
    from transformers import CLIPTextModel  # noqa: F401

    from consisti2v_cli.weights.load import load_part

    before, begun = high_water(), time.perf_counter()
    parts = [load_part(Path(folder), part, dtype=torch.float32 if part == "vae" else DTYPES[dtype]) for part in PARTS]
    seconds = time.perf_counter() - begun
    return {
        "seconds": seconds,
        "hwm": high_water(),
        "before": before,
        "weights": sum(map(weight_bytes, parts)),
    }


@torch.no_grad()
def run_step(
    scale: int, size: tuple[int, int], frames: int, dtype: str, chunks: int, branches: int, steps: int, decode: bool
) -> dict[str, float]:
    """Steps of a network with made-up weights, and a decoded frame."""
    unet = filled(empty_unet(scale).to(DTYPES[dtype]))
    unet.set_feed_forward_chunks(chunks)
    vae = filled(empty_vae(scale)) if decode else None
    channels, (width, height) = unet.config.in_channels, (side // 8 for side in size)
    text = unet.project_text(torch.randn(branches, 77, unet.config.cross_attention_dim, dtype=DTYPES[dtype]))
    latents = torch.randn(1, channels, frames - 1, height, width, dtype=DTYPES[dtype])
    begun = time.perf_counter()
    for _ in range(steps):
        unet(latents, 500, text, first_frame=latents[:, :, :1])
    stepped = time.perf_counter()
    if vae is not None:
        vae.decode(latents[:, :, 0].float())
    return {"step": stepped - begun, "frame": time.perf_counter() - stepped, "hwm": high_water()}


def empty_unet(scale: int) -> VideoUNet:
    """The released network on the meta device, its widths divided."""
    config = json.loads(RELEASED.read_text(encoding="utf-8"))
    config["block_out_channels"] = [width // scale for width in config["block_out_channels"]]
    config["attention_head_dim"] = [max(1, heads // scale) for heads in config["attention_head_dim"]]
    config["norm_num_groups"] //= scale
    with torch.device("meta"):
        return VideoUNet(UNetConfig.from_dict(config)).eval().requires_grad_(False)


def empty_vae(scale: int) -> Any:
    from diffusers import AutoencoderKL

    widths = [width // scale for width in RELEASED_VAE["block_out_channels"]]
    with torch.device("meta"):
        vae = AutoencoderKL(**RELEASED_VAE | {"block_out_channels": widths, "norm_num_groups": 32 // scale})
    return vae.eval().requires_grad_(False)


def empty_text_encoder(scale: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    narrow = {name: RELEASED_TEXT_ENCODER[name] // scale for name in ("hidden_size", "intermediate_size")}
    with torch.device("meta"):
        return CLIPTextModel(CLIPTextConfig(**RELEASED_TEXT_ENCODER | narrow)).eval().requires_grad_(False)


def filled(module: Any) -> Any:
    """A module with small numbers for weights, in the layout that loading gives them."""
    drawn = dict(made_up(module))
    for name, tensor in drawn.items():
        if tensor.dim() in (4, 5):
            drawn[name] = tensor.to(memory_format=torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d)
    module.load_state_dict(drawn, assign=True)
    return module.requires_grad_(False)


def made_up(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    for name, tensor in module.state_dict().items():
        drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float32).sub_(0.5).mul_(0.02)
        yield name, drawn.to(tensor.dtype)


def write_model(folder: Path, scale: int, dtype: torch.dtype) -> list[Path]:
    """The weights of a made-up model, and the configurations that they need."""
    files = []
    for part, empty in (("unet", empty_unet), ("vae", empty_vae), ("text_encoder", empty_text_encoder)):
        module = empty(scale).to(dtype if part != "vae" else torch.float32)
        (folder / part).mkdir()
        config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
        (folder / part / "config.json").write_text(json.dumps(config), encoding="utf-8")
        files.append(folder / part / f"{PARTS[part]}.safetensors")
        save_file(dict(made_up(module)), files[-1], metadata={"format": "pt"})
    return files


def copy_seconds(files: list[Path]) -> float:
    """How long it takes to copy files from the page cache into memory that is new, as a module's is."""
    for file in files:  # into the cache
        file.read_bytes()
    begun = time.perf_counter()
    held = [torch.from_file(str(file), size=file.stat().st_size, dtype=torch.uint8).clone() for file in files]
    seconds = time.perf_counter() - begun
    del held
    return seconds


def read_size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def high_water() -> int:
    """The most memory that this process ever held, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
