"""The dimensions that a checkpoint carries (its `unet/config.json`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

# Settings that the network does not read: it has one way of doing each, and anything else is an error.
_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "use_linear_projection": True,
    "use_temporal": True,
}
_IGNORED = {"n_frames", "sample_size"}  # any number of frames and any size work


@dataclass(frozen=True)
class UNetConfig:
    """Dimensions and switches of a `VideoUNet`; the defaults are the released model's.

    A level is one entry of `block_out_channels`; the last (deepest) level has no attention.
    """

    in_channels: int = 4  # channels of the latents
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2  # on the way down; one more on the way up
    cross_attention_dim: int = 1024  # width of the text condition
    num_heads: tuple[int, ...] = (5, 10, 20, 20)  # spatial heads of each level: `attention_head_dim` in the file
    n_temp_heads: int = 8  # temporal heads, the same at every level
    norm_num_groups: int = 32
    norm_eps: float = 1e-5  # of the spatial resnets and the last norm
    first_frame_condition_mode: str = "concat"  # spatial attention to the first frame; "input_only" without it
    augment_temporal_attention: bool = True  # the 3x3 window of the first frame in temporal attention
    temp_pos_embedding: str = "rotary"  # or "sinusoidal"
    use_frame_stride_condition: bool = True

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        if levels < 2 or len(self.num_heads) != levels:
            raise ValueError(
                f"block_out_channels and attention_head_dim must name the same levels, two or more: {self}"
            )
        for channels, heads in zip(self.block_out_channels, self.num_heads, strict=True):
            # 4: rotary pairs on half of the channels; the number of heads divides the channels
            if channels % self.norm_num_groups or channels % heads or channels % self.n_temp_heads or channels % 4:
                raise ValueError(
                    f"{channels} channels cannot be split into {self.norm_num_groups} groups, {heads} spatial heads, "
                    f"{self.n_temp_heads} temporal heads and rotary pairs"
                )
        _one_of("first_frame_condition_mode", self.first_frame_condition_mode, ("concat", "input_only"))
        _one_of("temp_pos_embedding", self.temp_pos_embedding, ("rotary", "sinusoidal"))

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> UNetConfig:
        """Read a `unet/config.json`; missing keys have the released model's values.

        Raises:
            ValueError: a key that is not known, or a value that the network cannot honour.
        """
        given = {key: value for key, value in config.items() if not key.startswith("_") and key not in _IGNORED}
        levels = len(given.get("block_out_channels", cls.block_out_channels))
        expected = _FIXED | _block_types(levels)
        for key, only in expected.items():
            value = given.pop(key, only)
            if value != only:
                raise ValueError(f"unsupported U-Net setting {key} = {value!r}: only {only!r} is possible")
        if "attention_head_dim" in given:  # the number of heads, by an old slip of Stable Diffusion
            heads = given.pop("attention_head_dim")
            given["num_heads"] = heads if isinstance(heads, Sequence) else (heads,) * levels
        unknown = sorted(given.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown U-Net setting {unknown[0]} = {given[unknown[0]]!r}")
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, (list, tuple)) else v for key, v in given.items()}
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The settings under the names of `unet/config.json`, so that `from_dict` reads them back."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["attention_head_dim"] = values.pop("num_heads")
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @property
    def time_embedding_dim(self) -> int:
        """Width of the timestep and frame stride embedding: four times the first level's."""
        return 4 * self.block_out_channels[0]


def _block_types(levels: int) -> dict[str, list[str]]:
    """The one arrangement of blocks that the network knows: attention everywhere but in the deepest level."""
    return {
        "down_block_types": ["CrossAttnDownBlock2D"] * (levels - 1) + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (levels - 1),
    }


def _one_of(name: str, value: str, possible: tuple[str, ...]) -> None:
    if value not in possible:
        raise ValueError(f"unsupported U-Net setting {name} = {value!r}: possible are {', '.join(possible)}")
