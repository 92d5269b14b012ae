"""ViCLIP against transformers' CLIP, whose weights it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from consisti2v_cli.errors import WeightsError
from consisti2v_cli.evaluation.networks.viclip import ViCLIP, ViCLIPSizes, load_tokenizer, tokenize

SIZES = ViCLIPSizes(
    side=28,
    patch=7,
    frames=3,
    vision_width=16,
    vision_layers=2,
    vision_heads=4,
    vocabulary=40,
    context=8,
    text_width=12,
    text_layers=3,
    text_heads=2,
    features=10,
)


@pytest.fixture(scope="module")
def viclip(made_up: Callable[[nn.Module], ViCLIP]) -> ViCLIP:
    return made_up(ViCLIP(SIZES))


def as_clip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The blocks of a tower under transformers' names."""
    renamed = {}
    layers = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for name, tensor in weights.items():
        if not name.startswith("transformer.resblocks."):
            continue
        number, _, rest = name.removeprefix("transformer.resblocks.").partition(".")
        prefix = f"encoder.layers.{number}."
        if "in_proj" in rest:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{prefix}self_attn.{letter}_proj.{rest.rpartition('_')[2]}"] = part
        else:
            layer, _, part = rest.rpartition(".")
            renamed[f"{prefix}{layers.get(layer, 'self_attn.out_proj')}.{part}"] = tensor
    return renamed


def fill_clip(model: nn.Module, part: str, tensors: dict[str, Tensor], projection: Tensor) -> Any:
    """With or without the prefix that transformers 5 took away in places."""
    prefix = f"{part}." if any(name.startswith(f"{part}.") for name in model.state_dict()) else ""
    named = {prefix + name: tensor for name, tensor in tensors.items()}
    kind = "text" if part == "text_model" else "visual"
    lacking = model.load_state_dict(named | {f"{kind}_projection.weight": projection.mT}, strict=False)
    assert not lacking.unexpected_keys
    assert not [name for name in lacking.missing_keys if not name.endswith("position_ids")]
    return model.eval().requires_grad_(False)


def clip_vision(sizes: ViCLIPSizes, weights: dict[str, Tensor]) -> Any:
    config = CLIPVisionConfig(
        hidden_size=sizes.vision_width,
        intermediate_size=4 * sizes.vision_width,
        projection_dim=sizes.features,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.vision_heads,
        image_size=sizes.side,
        patch_size=sizes.patch,
        hidden_act="quick_gelu",
    )
    tensors = as_clip(weights) | {
        "embeddings.class_embedding": weights["class_embedding"],
        "embeddings.patch_embedding.weight": weights["conv1.weight"][:, :, 0],
        "embeddings.position_embedding.weight": weights["positional_embedding"],
    }
    for ours, theirs in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        tensors |= {f"{theirs}.{part}": weights[f"{ours}.{part}"] for part in ("weight", "bias")}
    return fill_clip(CLIPVisionModelWithProjection(config), "vision_model", tensors, weights["proj"])


def test_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        network = ViCLIP()
    assert sum(parameter.numel() for parameter in network.parameters()) == 427_590_144  # and a temperature
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    known = {
        "vision_encoder.class_embedding": (1024,),
        "vision_encoder.conv1.weight": (1024, 3, 1, 14, 14),
        "vision_encoder.positional_embedding": (257, 1024),
        "vision_encoder.temporal_positional_embedding": (1, 8, 1024),
        "vision_encoder.ln_pre.weight": (1024,),
        "vision_encoder.transformer.resblocks.23.attn.in_proj_weight": (3072, 1024),
        "vision_encoder.transformer.resblocks.0.attn.out_proj.bias": (1024,),
        "vision_encoder.transformer.resblocks.0.mlp.c_fc.weight": (4096, 1024),
        "vision_encoder.ln_post.bias": (1024,),
        "vision_encoder.proj": (1024, 768),
        "text_encoder.token_embedding.weight": (49408, 768),
        "text_encoder.positional_embedding": (32, 768),
        "text_encoder.transformer.resblocks.11.mlp.c_proj.weight": (768, 3072),
        "text_encoder.ln_final.weight": (768,),
        "text_encoder.text_projection": (768, 768),
    }
    assert known.items() <= shapes.items()


def test_texts_are_clips(viclip: ViCLIP) -> None:
    weights = viclip.text_encoder.state_dict()
    config = CLIPTextConfig(
        vocab_size=40,
        hidden_size=12,
        intermediate_size=48,
        projection_dim=10,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=8,
        hidden_act="quick_gelu",
        bos_token_id=38,
        eos_token_id=39,
    )
    tensors = as_clip(weights) | {
        "embeddings.token_embedding.weight": weights["token_embedding.weight"],
        "embeddings.position_embedding.weight": weights["positional_embedding"],
        "final_layer_norm.weight": weights["ln_final.weight"],
        "final_layer_norm.bias": weights["ln_final.bias"],
    }
    clip = fill_clip(CLIPTextModelWithProjection(config), "text_model", tensors, weights["text_projection"])
    tokens = torch.tensor([[38, 4, 7, 39, 0, 0, 0, 0], [38, 1, 2, 3, 4, 5, 6, 39]])
    assert torch.allclose(viclip.text_features(tokens), clip(input_ids=tokens).text_embeds, atol=1e-5)


def test_what_follows_the_end_of_a_text_does_not_matter(viclip: ViCLIP) -> None:
    tokens = torch.tensor([[38, 4, 7, 39, 0, 0, 0, 0], [38, 4, 7, 39, 5, 6, 1, 2], [38, 5, 7, 39, 0, 0, 0, 0]])
    one, same, other = viclip.text_features(tokens)
    assert torch.allclose(one, same, atol=1e-6)
    assert not torch.allclose(one, other, atol=1e-3)


def test_a_frame_is_clips(made_up: Callable[[nn.Module], ViCLIP]) -> None:
    sizes = replace(SIZES, frames=1)
    network = made_up(ViCLIP(sizes))
    network.vision_encoder.temporal_positional_embedding.zero_()
    pictures = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    wanted = clip_vision(sizes, network.vision_encoder.state_dict())(pixel_values=pictures).image_embeds
    assert torch.allclose(network.video_features(pictures[:, :, None]), wanted, atol=1e-5)


def test_patches_of_all_frames_attend_to_each_other(viclip: ViCLIP) -> None:
    """CLIP's encoder, given all tokens at once: the class token, then every patch, with its place and time added."""
    weights = viclip.vision_encoder.state_dict()
    clip = clip_vision(SIZES, weights)
    tower = getattr(clip.vision_model, "vision_model", clip.vision_model)
    frames = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(2))
    patches = F.conv2d(frames, weights["conv1.weight"][:, :, 0], stride=7).flatten(2).mT  # f patches c
    patches = patches + weights["positional_embedding"][1:] + weights["temporal_positional_embedding"][0][:, None]
    first = weights["class_embedding"] + weights["positional_embedding"][0]
    tokens = torch.cat([first[None], patches.flatten(0, 1)])[None]
    last = tower.encoder(inputs_embeds=tower.pre_layrnorm(tokens)).last_hidden_state
    wanted = clip.visual_projection(tower.post_layernorm(last[:, 0]))
    assert torch.allclose(viclip.video_features(frames.transpose(0, 1)[None]), wanted, atol=1e-5)


def test_the_order_of_frames_matters_by_the_time_table_alone(made_up: Callable[[nn.Module], ViCLIP]) -> None:
    network = made_up(ViCLIP(SIZES))
    clip = torch.randn(1, 3, 3, 28, 28, generator=torch.Generator().manual_seed(3))
    assert not torch.allclose(network.video_features(clip), network.video_features(clip.flip(2)), atol=1e-3)
    network.vision_encoder.temporal_positional_embedding.zero_()
    assert torch.allclose(network.video_features(clip), network.video_features(clip.flip(2)), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 2, 28, 28), (1, 3, 3, 28, 35)])
def test_clips_that_do_not_fit_are_refused(viclip: ViCLIP, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"needs clips of \[3, 3, 28, 28\]"):
        viclip.video_features(torch.zeros(shape))


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    """Letters alone: a to z, each also as a word's end."""
    letters = [letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    vocabulary = {token: number for number, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=[])


def test_texts_begin_end_and_are_filled_with_zeros(tokenizer: CLIPTokenizer) -> None:
    a, b_end = 0, 3
    assert tokenize(tokenizer, ["AB", ""], 6).tolist() == [[52, a, b_end, 53, 0, 0], [52, 53, 0, 0, 0, 0]]


def test_of_long_texts_the_end_token_is_kept(tokenizer: CLIPTokenizer) -> None:
    tokens = tokenize(tokenizer, ["z" * 40])
    assert tokens.shape == (1, 32)
    assert tokens[0].tolist() == [52, *[50] * 30, 53]


def test_the_tokenizer_of_a_folder_is_checked(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "small")
    same = load_tokenizer(tmp_path / "small", vocabulary=54)
    assert torch.equal(tokenize(same, ["a boat"]), tokenize(tokenizer, ["a boat"]))
    with pytest.raises(WeightsError, match="54 tokens instead of CLIP's 49408"):
        load_tokenizer(tmp_path / "small")
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        with pytest.raises(WeightsError, match=name):
            load_tokenizer(tmp_path / name)
