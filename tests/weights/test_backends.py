"""Ways to compute the network that may not work on a machine: one sentence each; and compiled, the same clip."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from consisti2v_cli.errors import RequestError
from consisti2v_cli.weights.backends import check_attention, check_compiler
from consisti2v_cli.weights.load import load_model

CPU = torch.device("cpu")


@pytest.fixture
def xformers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for the library: xformers(attention)."""

    def install(attention: Any) -> None:
        package, ops = ModuleType("xformers"), ModuleType("xformers.ops")
        package.__spec__ = ops  # type: ignore[assignment]
        ops.memory_efficient_attention = attention  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "xformers", package)
        monkeypatch.setitem(sys.modules, "xformers.ops", ops)

    return install


def test_xformers_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consisti2v_cli.weights.backends.find_spec", lambda name: None)
    with pytest.raises(RequestError, match="not installed"):
        check_attention("xformers", CPU, torch.float32)


def test_xformers_that_was_built_for_another_torch(xformers: Any) -> None:
    def attention(*_: Any) -> None:
        raise NotImplementedError("No operator found for `memory_efficient_attention_forward`\nmany lines")

    xformers(attention)
    with pytest.raises(
        RequestError, match=r"does not work with torch 2.* on cpu: No operator found .*; --attention sdpa"
    ):
        check_attention("xformers", CPU, torch.float32)


def test_xformers_that_works(xformers: Any, tiny_model: Path) -> None:
    def attention(*given: torch.Tensor) -> torch.Tensor:
        query, key, value = (t.transpose(1, 2) for t in given)  # b heads n d
        return torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)

    xformers(attention)
    assert load_model(tiny_model, attention="xformers").attention == "xformers"


def test_an_attention_that_there_is_not() -> None:
    with pytest.raises(RequestError, match="possible: sdpa, math, xformers"):
        check_attention("flash", CPU, torch.float32)


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    monkeypatch.setattr("consisti2v_cli.weights.backends.shutil.which", lambda name: None)
    with pytest.raises(RequestError, match="needs a C\\+\\+ compiler"):
        load_model(tiny_model, compile=True)
    monkeypatch.setattr("consisti2v_cli.weights.backends.shutil.which", lambda name: "/usr/bin/c++")
    monkeypatch.setattr("consisti2v_cli.weights.backends.find_spec", lambda name: None)
    with pytest.raises(RequestError, match="needs triton"):
        check_compiler(torch.device("cuda"))


@pytest.mark.slow
def test_compiled_the_network_predicts_the_same(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSISTI2V_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    plain, compiled = load_model(tiny_model), load_model(tiny_model, compile=True)
    latents, first_frame = torch.randn(1, 6, 3, 8, 8), torch.randn(1, 6, 1, 8, 8)
    with torch.no_grad():
        text = plain.unet.project_text(torch.randn(2, 16, 24))
        results = [
            model.unet(latents, torch.tensor(500), text, first_frame=first_frame, frame_stride=torch.tensor(3))
            for model in (plain, compiled)
        ]
    assert (results[0] - results[1]).norm() < 1e-5 * results[0].norm()
    assert any((tmp_path / "compiled").iterdir())
