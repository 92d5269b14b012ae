"""How much memory a pass holds at its peak, counted on tensors without numbers (the meta device)."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from consisti2v_cli.model import VideoUNet
from consisti2v_cli.model.attention import Attention
from consisti2v_cli.plans import ALL_AT_ONCE, TILE, MemoryPlan

TOKENS = 77
RELEASED_VAE: dict[str, Any] = {  # Stable Diffusion's
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
}
RELEASED_TEXT_ENCODER: dict[str, Any] = {  # OpenCLIP's ViT-H as Stable Diffusion 2.1 has it
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 512,
}


class MemoryTracker(TorchDispatchMode):
    """Counts the bytes of all tensors that live while it is on, from the operations on them.

    A kernel's own copy of its input is counted where CUDA makes one: a group norm brings the channels first. Not
    counted are the workspaces of cuDNN, cuBLAS and oneDNN, and what an allocator rounds up.

    Args:
        given: tensors that are there before, and do not count.
    """

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata: 0 for tensor in given}  # storages, and their bytes

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._meet(tensor)
        is_norm = function is torch.ops.aten.native_group_norm.default
        copied = args[0].nbytes if is_norm and not args[0].is_contiguous() else 0
        self.peak = max(self.peak, self.live + copied)
        return result

    def _meet(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known[storage._cdata] = storage.nbytes()
            self.live += storage.nbytes()
            weakref.finalize(storage, self._lose, storage._cdata)

    def _lose(self, key: int) -> None:
        self.live -= self._known.pop(key)


def fused_attention(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
    """What fused kernels leave: the result, which lies as `b n heads d`, and for a while a number for each query."""
    b, heads, n, _ = query.shape
    sums = query.new_empty((b, heads, n), dtype=torch.float32)
    out = query.new_empty((b, n, heads, value.shape[-1])).transpose(1, 2)
    del sums
    return out


@torch.no_grad()
def network_peak(
    unet: VideoUNet, size: tuple[int, int], *, frames: int = 16, branches: int = 2, plan: MemoryPlan = ALL_AT_ONCE
) -> int:
    """Bytes that one call of a network on the meta device takes beside its weights, for pictures of a size."""
    unet.set_feed_forward_chunks(plan.feed_forward_chunks)
    for module in unet.modules():
        if isinstance(module, Attention):
            module.backend = fused_attention
    width, height = (side // 8 for side in size)
    dtype, channels = unet.conv_in.weight.dtype, unet.config.in_channels
    latents, first_frame, text = (
        torch.empty(shape, dtype=dtype, device="meta")
        for shape in (
            (1, channels, frames - 1, height, width),
            (1, channels, 1, height, width),
            (1 if plan.branches_apart else branches, TOKENS, unet.config.cross_attention_dim),
        )
    )
    projected = unet.project_text(text)
    given = [*unet.parameters(), *unet.buffers(), latents, first_frame, *tree_leaves(projected)]
    with torch.device("meta"), MemoryTracker(given) as tracker:
        unet(latents, torch.tensor(500), projected, first_frame=first_frame)
    return tracker.peak


@torch.no_grad()
def autoencoder_peaks(vae: Any, size: tuple[int, int], *, plan: MemoryPlan = ALL_AT_ONCE) -> tuple[int, int]:
    """Bytes that encoding and decoding one picture take beside the weights of an autoencoder on the meta device."""
    vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size = plan.tiled, TILE, TILE // 8
    width, height = size
    picture = torch.empty(1, 3, height, width, device="meta")
    latent = torch.empty(1, vae.config.latent_channels, height // 8, width // 8, device="meta")
    peaks = []
    with patch.object(F, "scaled_dot_product_attention", fused_attention):
        for work, given in ((vae.encode, picture), (vae.decode, latent)):
            with torch.device("meta"), MemoryTracker([*vae.parameters(), given]) as tracker:
                work(given)
            peaks.append(tracker.peak)
    return peaks[0], peaks[1]


def weight_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.parameters())


def largest_weight(module: nn.Module) -> int:
    return max(tensor.nbytes for tensor in module.parameters())
