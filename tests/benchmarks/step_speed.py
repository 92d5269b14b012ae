"""Measure one guided step (two branches) of the network against the plain way of computing the same.

    python tests/benchmarks/step_speed.py [--size 256] [--frames 16] [--runs 3] [--dtypes fp32 bf16 fp16]
        [--plain-dtype fp32] [--device auto] [--threads N] [--small] [--profile]
        [--attention xformers] [--compile] [--loop] [--peak 790]

Both networks hold equal made-up weights, of the full 1.25 B configuration unless --small is given. Each goes once
untimed, then they take turns, so that what slows the machine down slows all of them. The first row is the baseline:
ratios say how many times faster the other medians are, and errors are relative to its output (norm of the difference
over the norm). TFLOP are counted by torch on each network's own operations. On a GPU, GiB is the most that a step held:
the row's own weights and all that it added. The text of `VideoUNet` is projected untimed, as a clip does it once. With
--profile, a second table says on what kinds of operations each network spends its time, in one more step.

With --compile each row of `VideoUNet` comes once more, compiled. With --loop the sampling of a whole clip is timed for
each of its rows: 50 steps of DDIM at guidance 7.5, and what --fast stands for; with --peak, in TFLOP/s, the share of
what the device could do. All that is wanted of a large graphics card, in one command:

    python tests/benchmarks/step_speed.py --compile --loop --peak 790

Run by hand; at 256 pixels in float32 two CPU cores take about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from plain_network import PlainNetwork, rotary_frequencies
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from consisti2v_cli.denoiser import ClipDenoiser
from consisti2v_cli.diffusion import make_scheduler, sample
from consisti2v_cli.model import BACKENDS, UNetConfig, VideoUNet
from consisti2v_cli.plans import ALL_AT_ONCE
from consisti2v_cli.recipe import FAST
from consisti2v_cli.weights.backends import check_attention, check_compiler, compile_network
from consisti2v_cli.weights.devices import choose_device
from consisti2v_cli.weights.fill import layout

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SMALL = UNetConfig(block_out_channels=(64, 128, 256, 256), num_heads=(1, 2, 4, 4), cross_attention_dim=256)
FAST_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")  # of /proc/cpuinfo; the last is Arm's
BRANCHES, TOKENS, TIMESTEP, SEED = 2, 77, 500, 7
GIB = 2**30
OPERATIONS = {  # kinds by what the names of torch's operations contain; the first that fits counts
    "convolutions": ("conv",),
    "attention": ("attention", "softmax"),
    "products of matrices": ("mm", "bmm", "matmul", "linear"),
    "norms": ("norm",),
    "copies": ("copy", "cat", "clone", "index", "repeat", "reorder"),
    "element by element": ("add", "mul", "silu", "gelu", "sigmoid", "lerp", "polar"),
}


@dataclass
class Row:
    """A network in a precision, what it is given, and what was measured of it."""

    network: nn.Module
    dtype: str
    inputs: tuple[Tensor, Tensor, Any]  # of `guided_step`
    teraflop: float
    seconds: list[float] = field(default_factory=list)
    gib: float = 0.0
    error: float = 0.0
    compiled: bool = False

    @property
    def name(self) -> str:
        return type(self.network).__name__ + (", compiled" if self.compiled else "")


def main() -> None:
    """Measure, and print a table."""
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(choose_device(arguments.device))
    config = SMALL if arguments.small else UNetConfig()
    given = draw_inputs(config, arguments.frames, arguments.size // 8, device)
    weights = draw_weights(config, device)
    print(describe(device, weights, arguments), flush=True)
    kinds = [(PlainNetwork, dtype, False) for dtype in arguments.plain_dtype]
    for dtype in arguments.dtypes or default_dtypes(device):
        kinds += [(VideoUNet, dtype, compiled) for compiled in (False, True)[: 1 + arguments.compile]]
    weights_of = {}
    for kind, dtype in {(kind, dtype) for kind, dtype, _ in kinds}:
        weights_of[kind, dtype] = in_precision(weights, DTYPES[dtype])
        if kind is VideoUNet:
            weights_of[kind, dtype] = as_loaded(weights_of[kind, dtype], device)
    rows = [make_row(kind, config, dtype, weights_of[kind, dtype], given, compiled) for kind, dtype, compiled in kinds]
    for row in rows:
        if isinstance(row.network, VideoUNet):
            check_attention(arguments.attention, device, DTYPES[row.dtype])
            row.network.set_attention(arguments.attention)
    measure(rows, arguments.runs, device)
    print_table(rows)
    if arguments.loop:
        print_loops(rows, device, arguments)
    if arguments.profile:
        print_profile({f"{row.name} {row.dtype}": spent(row, device) for row in rows})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--frames", type=int, default=16, help="the first one included")
    parser.add_argument("--runs", type=int, default=3, help="timed steps of each row")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="of VideoUNet; default: those the device is for")
    parser.add_argument("--plain-dtype", nargs="+", choices=DTYPES, default=["fp32"], help="the first is the baseline")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--small", action="store_true", help="a small network, to try the benchmark out")
    parser.add_argument("--profile", action="store_true", help="say where the time goes, too")
    parser.add_argument("--attention", choices=BACKENDS, default="sdpa", help="of VideoUNet")
    parser.add_argument("--compile", action="store_true", help="VideoUNet compiled, too")
    parser.add_argument("--loop", action="store_true", help="the sampling of a whole clip, too")
    parser.add_argument("--peak", type=float, help="TFLOP/s that the device is able to do")
    return parser.parse_args()


def guided_step(network: nn.Module, latents: Tensor, first_frame: Tensor, text: Any) -> Tensor:
    """The noise that both branches predict, `2 4 f-1 h w`, from latents of one video and the text of both branches.

    `VideoUNet` knows branches that differ in their text alone; the plain network is given everything twice.
    """
    if isinstance(network, PlainNetwork):
        latents, first_frame = (tensor.repeat(BRANCHES, 1, 1, 1, 1) for tensor in (latents, first_frame))
    return network(latents, TIMESTEP, text, first_frame=first_frame)


def make_row(
    kind: type[nn.Module],
    config: UNetConfig,
    dtype: str,
    weights: dict[str, Tensor],
    given: tuple[Tensor, ...],
    compiled: bool = False,
) -> Row:
    """A network on these very weights, not a copy of them; its operations are counted before it has any."""
    with torch.device("meta"):
        network = kind(config).eval().requires_grad_(False)
    meta = prepare(network, tuple(tensor.to("meta") for tensor in given))
    with FlopCounterMode(display=False) as counter:
        guided_step(network, *meta)
    network.load_state_dict(weights, assign=True)
    inputs = prepare(network, tuple(tensor.to(DTYPES[dtype]) for tensor in given))
    if compiled:
        check_compiler(inputs[0].device)
        compile_network(network)
    return Row(network, dtype, inputs, counter.get_total_flops() / 1e12, compiled=compiled)


@torch.no_grad()
def prepare(network: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Any]:
    """What `guided_step` takes: the text as a clip prepares it, once."""
    latents, first_frame, text = given
    return latents, first_frame, network.project_text(text) if isinstance(network, VideoUNet) else text


def draw_inputs(config: UNetConfig, f: int, size: int, device: torch.device) -> tuple[Tensor, ...]:
    """Latents and first frame of one video, and the text of the branches."""
    generator = torch.Generator(device).manual_seed(SEED)
    c, width = config.in_channels, config.cross_attention_dim
    shapes = (1, c, f - 1, size, size), (1, c, 1, size, size), (BRANCHES, TOKENS, width)
    return tuple(torch.randn(shape, generator=generator, device=device) for shape in shapes)


def draw_weights(config: UNetConfig, device: torch.device) -> dict[str, Tensor]:
    """Weights by which activations keep about their size; every temporal module has half a say."""
    generator = torch.Generator(device).manual_seed(SEED)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in PlainNetwork(config).state_dict().items()}

    def draw(name: str, shape: torch.Size) -> Tensor:
        if name.endswith("freqs"):
            return rotary_frequencies(4 * shape[0]).to(device)
        if name.endswith("alpha"):
            return torch.full(shape, 0.5, device=device)
        drawn = torch.randn(shape, generator=generator, device=device)
        if len(shape) > 1:
            return drawn.div_(shape[1:].numel() ** 0.5)
        return drawn.mul_(0.1).add_(1 if name.endswith("weight") else 0)

    return {name: draw(name, shape) for name, shape in shapes.items()}


def in_precision(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The same tensors where they have it already; rotary frequencies stay float32 always."""
    return {name: tensor if name.endswith("freqs") else tensor.to(dtype) for name, tensor in weights.items()}


def as_loaded(weights: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The same, laid in memory as loading a model lays them."""
    layouts = {name: layout("unet", tuple(tensor.shape), device) for name, tensor in weights.items()}
    return {name: tensor.to(memory_format=layouts[name]) for name, tensor in weights.items()}


@torch.inference_mode()
def measure(rows: list[Row], runs: int, device: torch.device) -> None:
    """One untimed step each, by which outputs are compared, and then in turns."""
    outputs = [guided_step(row.network, *row.inputs).double().cpu() for row in rows]
    for row, output in zip(rows, outputs, strict=True):
        row.error = ((output - outputs[0]).norm() / outputs[0].norm()).item()
    for run in range(runs):
        print(f"run {run + 1} of {runs}", file=sys.stderr, flush=True)
        for row in rows:
            time_step(row, device)


def time_step(row: Row, device: torch.device) -> None:
    """One step on a device that has nothing else to do, from its start to the end of its last kernel."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
    synchronize(device)
    begun = time.perf_counter()
    guided_step(row.network, *row.inputs)
    synchronize(device)
    row.seconds.append(time.perf_counter() - begun)
    if device.type == "cuda":
        own = sum(parameter.nbytes for parameter in row.network.parameters())
        row.gib = max(row.gib, (own + torch.cuda.max_memory_allocated(device) - held) / GIB)


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def default_dtypes(device: torch.device) -> list[str]:
    """What the device is fast in."""
    if device.type != "cpu":
        return ["fp16", "bf16"] if device.type == "cuda" else ["fp16"]
    return ["fp32", "bf16"] if any("bf16" in flag for flag in cpu()[1]) else ["fp32"]


def cpu() -> tuple[str, list[str]]:
    """The processor's name, and what it has of `FAST_FLAGS`."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        lines = []
    found = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    flags = found.get("flags", found.get("Features", "")).split()
    return found.get("model name") or platform.processor() or platform.machine(), [
        flag for flag in FAST_FLAGS if flag in flags
    ]


def describe(device: torch.device, weights: dict[str, Tensor], arguments: argparse.Namespace) -> str:
    """Where, when and what is measured."""
    name, flags = cpu()
    machine = f"{name} ({' '.join(flags)}), {torch.get_num_threads()} threads on {os.cpu_count()} cores"
    if device.type == "cuda":
        tf32 = {"convolutions": torch.backends.cudnn.allow_tf32, "products": torch.backends.cuda.matmul.allow_tf32}
        in_tf32 = " and ".join(what for what, on in tf32.items() if on) or "nothing"
        machine = f"{torch.cuda.get_device_name(device)}, float32 takes TF32 in {in_tf32}; {machine}"
    billions = sum(tensor.numel() for tensor in weights.values()) / 1e9
    return (
        f"{machine}\ntorch {torch.__version__}, {device}, {date.today()}\n"
        f"{billions:.2f} B weights, {arguments.size}x{arguments.size}, {arguments.frames} frames, "
        f"{BRANCHES} branches, {arguments.runs} runs in turns"
    )


def print_table(rows: list[Row]) -> None:
    """A line for each row; the first is the baseline."""
    baseline = median(rows[0].seconds)
    print(f"{'network':19} {'dtype':5} {'median s':>9} {'min..max s':>19} {'ratio':>6}", end=" ")
    print(f"{'TFLOP':>8} {'TFLOP/s':>8} {'error':>8} {'GiB':>6}")
    for row in rows:
        seconds = median(row.seconds)
        spread = f"{min(row.seconds):.3f}..{max(row.seconds):.3f}"
        gib = f"{row.gib:.2f}" if row.gib else "-"
        print(f"{row.name:19} {row.dtype:5} {seconds:9.3f} {spread:>19}", end=" ")
        print(f"{baseline / seconds:6.2f} {row.teraflop:8.3f} {row.teraflop / seconds:8.3f} {row.error:8.1e} {gib:>6}")


@torch.inference_mode()
def print_loops(rows: list[Row], device: torch.device, arguments: argparse.Namespace) -> None:
    """Seconds of sampling a clip, once untimed, then the median of the runs; the text's projection included."""
    ways = {"50 steps of ddim": {"sampler": "ddim", "steps": 50, "reuse": 1}, "--fast": FAST}
    print(f"\n{'network':19} {'dtype':5} {'clip':17} {'median s':>9} {'TFLOP/s':>8} {'of the peak':>12}")
    for row in rows:
        if not isinstance(row.network, VideoUNet):
            continue
        for way, settings in ways.items():
            found = [time_loop(row, settings, device) for _ in range(1 + arguments.runs)][1:]
            speed = row.teraflop * settings["steps"] / median(found) if settings["reuse"] == 1 else None
            told = f"{speed:8.2f}" if speed else f"{'-':>8}"
            share = f"{speed / arguments.peak:12.0%}" if speed and arguments.peak else f"{'-':>12}"
            print(f"{row.name:19} {row.dtype:5} {way:17} {median(found):9.2f} {told} {share}", flush=True)


def time_loop(row: Row, settings: dict[str, Any], device: torch.device) -> float:
    """Seconds of one clip, from noise that lies on the device to latents that do."""
    latents, first_frame, _ = row.inputs
    text = torch.randn(2, TOKENS, row.network.config.cross_attention_dim, device=device, dtype=DTYPES[row.dtype])
    noise = torch.cat([first_frame, latents], dim=2).float()
    model = SimpleNamespace(unet=row.network, dtype=DTYPES[row.dtype], plan=ALL_AT_ONCE, device=device)
    synchronize(device)
    begun = time.perf_counter()
    sample(
        ClipDenoiser(model, settings["reuse"]),
        noise,
        first_frame.float(),
        *text.split(1),
        steps=settings["steps"],
        guidance=7.5,
        scheduler=make_scheduler(settings["sampler"]),
    )
    synchronize(device)
    return time.perf_counter() - begun


@torch.inference_mode()
def spent(row: Row, device: torch.device) -> dict[str, float]:
    """Seconds of one step by kind of operation; on a GPU, of its kernels."""
    kinds = dict.fromkeys([*OPERATIONS, "other"], 0.0)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as found:
        guided_step(row.network, *row.inputs)
        synchronize(device)
    for event in found.key_averages():
        if event.device_type != torch.autograd.DeviceType.CPU:  # kernels, whose time their operation has too
            continue
        fitting = (kind for kind, words in OPERATIONS.items() if any(word in event.key for word in words))
        microseconds = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        kinds[next(fitting, "other")] += microseconds / 1e6
    return kinds


def print_profile(columns: dict[str, dict[str, float]]) -> None:
    """Seconds and shares, a column for each network."""
    print(f"\n{'seconds on':22}" + "".join(f"{name:>24}" for name in columns))
    for kind in next(iter(columns.values())):
        cells = [f"{found[kind]:.2f} ({found[kind] / sum(found.values()):.0%})" for found in columns.values()]
        print(f"{kind:22}" + "".join(f"{cell:>24}" for cell in cells))


if __name__ == "__main__":
    main()
