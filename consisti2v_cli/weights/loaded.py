"""A model in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from consisti2v_cli.model import VideoUNet
from consisti2v_cli.plans import ALL_AT_ONCE, MemoryPlan

from .folder import ModelFolder, ModelSettings


@dataclass
class Model:
    """The parts of a model, ready to run on `device`; but for the plan, none changes."""

    folder: ModelFolder
    unet: VideoUNet
    vae: Any  # diffusers.AutoencoderKL, float32: its decoder overflows in half precision
    text_encoder: Any  # transformers.CLIPTextModel
    tokenizer: Any  # transformers.CLIPTokenizer
    scheduler_config: dict[str, Any] | None  # None: the released model's schedule
    settings: ModelSettings
    device: torch.device
    dtype: torch.dtype  # of network and text encoder
    attention: str  # how the network computes it
    compiled: bool = False
    plan: MemoryPlan = ALL_AT_ONCE  # a smaller one takes its place where memory lacks

    @property
    def max_tokens(self) -> int:
        """How many tokens of text the model reads, start and end included."""
        positions = int(self.text_encoder.config.max_position_embeddings)
        return min(positions, int(self.tokenizer.model_max_length))
