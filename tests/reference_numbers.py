"""The authors' published numbers, and the weights and inputs they were made with (fixtures/reference)."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from consisti2v_cli.model import UNetConfig, VideoUNet, rotary_frequencies

FOLDER = Path(__file__).parent / "fixtures" / "reference"


def cases(kind: str, file: str = "reference_cases.json") -> list[dict[str, Any]]:
    return json.loads((FOLDER / file).read_text())[kind]


def results(file: str = "reference_cases.safetensors") -> dict[str, Tensor]:
    return load_file(FOLDER / file)


def draw(key: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)


def input_tensor(salt: str, name: str, *shape: int) -> Tensor:
    return torch.from_numpy(draw(f"{salt}/input/{name}", shape).astype(np.float32))


def weight(salt: str, name: str, shape: tuple[int, ...]) -> Tensor:
    key = f"{salt}/{name}"
    if name.endswith("rotary_emb.freqs"):
        return rotary_frequencies(4 * shape[0])
    if name.endswith("alpha"):
        values = np.random.RandomState(zlib.crc32(key.encode())).uniform(0.2, 0.8, shape)
    elif len(shape) > 1:
        values = draw(key, shape) / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        values = 1 + 0.1 * draw(key, shape)
    else:
        values = 0.1 * draw(key, shape)
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def unet(case: dict[str, Any]) -> VideoUNet:
    with torch.device("meta"):
        network = VideoUNet(UNetConfig.from_dict(case["config"]))
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    network.load_state_dict({name: weight(case["salt"], name, shape) for name, shape in shapes.items()}, assign=True)
    return network.eval().requires_grad_(False)


def relative_error(result: Tensor, reference: Tensor) -> float:
    return ((result - reference).norm() / reference.norm()).item()
