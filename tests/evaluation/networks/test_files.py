"""Published files into networks: exactly their tensors, or a sentence that says what is wrong."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from consisti2v_cli.errors import WeightsError
from consisti2v_cli.evaluation.networks.c3d import C3D, C3DSizes, load_c3d
from consisti2v_cli.evaluation.networks.files import fill, read_tensors
from consisti2v_cli.evaluation.networks.i3d import I3D, load_i3d
from consisti2v_cli.evaluation.networks.inception import Inception, load_inception
from consisti2v_cli.evaluation.networks.raft import RAFT, load_raft
from consisti2v_cli.evaluation.networks.viclip import ViCLIP, ViCLIPSizes, load_viclip

SMALL = ViCLIPSizes(28, 14, 2, 8, 1, 2, 20, 5, 8, 1, 2, 6)
NETWORKS: list[Any] = [
    pytest.param(RAFT, load_raft, "update_block.mask.2.bias", id="raft"),
    pytest.param(I3D, load_i3d, "Mixed_4d.b2b.conv3d.weight", id="i3d"),
    pytest.param(Inception, load_inception, "Mixed_7c.branch3x3dbl_3b.bn.running_var", id="inception"),
    pytest.param(
        lambda: ViCLIP(SMALL), lambda path: load_viclip(path, sizes=SMALL), "vision_encoder.proj", id="viclip"
    ),
]


def zeros_of(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """The tensors of a network, each of them one zero that fills its shape: a small file."""
    with torch.device("meta"):
        state = build().state_dict()
    return {name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in state.items()}


def tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


@pytest.mark.parametrize(("build", "load", "name"), NETWORKS)
def test_exactly_the_networks_tensors_are_taken(
    build: Callable[[], nn.Module], load: Callable[[Path], nn.Module], name: str, tmp_path: Path
) -> None:
    path, tensors = tmp_path / "weights.pth", zeros_of(build)
    torch.save(tensors, path)
    network = load(path)
    assert not network.training
    assert not any(tensor.is_meta for tensor in network.state_dict().values())
    assert not any(parameter.requires_grad for parameter in network.parameters())

    torch.save({key: tensor for key, tensor in tensors.items() if key != name}, path)
    with pytest.raises(WeightsError, match=f"it lacks {name}\\.$"):
        load(path)
    torch.save(tensors | {"head.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"it has unknown head\.weight\.$"):
        load(path)
    shape = list(tensors[name].shape)
    torch.save(tensors | {name: torch.zeros([*shape, 1])}, path)
    with pytest.raises(WeightsError) as caught:
        load(path)
    assert f"it has {name} {[*shape, 1]} instead of {shape}." in str(caught.value)
    assert str(path) in str(caught.value)


def test_c3d_says_what_its_files_lack(tmp_path: Path) -> None:
    sizes = C3DSizes((2, 2, 2, 2, 2), 3, 4)
    words = {"weight": "W", "bias": "b"}
    arrays = {}
    for name, tensor in C3D(sizes).state_dict().items():
        layer, _, part = name.rpartition(".")
        if layer:
            arrays[f"{layer}/{words[part]}"] = tensor.numpy()
    path, mean_path = tmp_path / "net.npz", tmp_path / "mean.npz"
    np.savez(mean_path, mean=np.zeros((3, 16, 128, 128), np.float32))
    np.savez(path, **{name: array for name, array in arrays.items() if name != "fc7/W"})
    with pytest.raises(WeightsError, match=r"it lacks fc7\.weight\.$"):
        load_c3d(path, mean_path, sizes=sizes)
    np.savez(path, **arrays, **{"fc9/W": np.zeros((1, 1), np.float32)})
    with pytest.raises(WeightsError, match=r"it has unknown fc9\.weight\.$"):
        load_c3d(path, mean_path, sizes=sizes)
    np.savez(path, **arrays)
    np.savez(mean_path, mean=np.zeros((3, 16, 112, 112), np.float32))
    with pytest.raises(WeightsError, match=r"needs an array mean .*there is \[3, 16, 112, 112\]"):
        load_c3d(path, mean_path, sizes=sizes)
    np.savez(mean_path, cube=np.zeros((3, 16, 128, 128), np.float32))
    with pytest.raises(WeightsError, match="there is none"):
        load_c3d(path, mean_path, sizes=sizes)


def test_what_is_not_needed_may_be_there(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    classifier = {"fc.weight": torch.zeros(()).expand(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save(zeros_of(Inception) | classifier, path)
    load_inception(path)
    torch.save(zeros_of(lambda: ViCLIP(SMALL)) | {"temp": torch.zeros(())}, path)
    load_viclip(path, sizes=SMALL)


def test_counters_of_training_do_not_matter() -> None:
    tensors = {name: torch.rand(tensor.shape) for name, tensor in tiny().state_dict().items() if "num" not in name}
    without, having = (
        fill(tiny(), tensors, "x"),
        fill(tiny(), tensors | {"1.num_batches_tracked": torch.tensor(7)}, "x"),
    )
    picture = torch.rand(1, 3, 2, 2)
    assert torch.equal(without(picture), having(picture))


def test_numbers_are_checked_and_become_float32() -> None:
    tensors = {name: torch.ones(tensor.shape).half() for name, tensor in tiny().state_dict().items()}
    assert {parameter.dtype for parameter in fill(tiny(), tensors, "x").parameters()} == {torch.float32}
    with pytest.raises(WeightsError, match=r"0\.bias that holds numbers that are not finite"):
        fill(tiny(), tensors | {"0.bias": torch.tensor([1, 2, float("nan"), 3])}, "x")
    with pytest.raises(WeightsError, match=r"0\.bias of the type int64"):
        fill(tiny(), tensors | {"0.bias": torch.zeros(4, dtype=torch.long)}, "x")


def test_of_many_names_some_are_told() -> None:
    with pytest.raises(WeightsError, match=r"x does not fit RAFT: it lacks cnet\.conv1\.bias, .* and \d+ more\.$"):
        fill(RAFT(), {}, "x")


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_files_of_torch_are_read_as_training_left_them(wrapper: str | None, tmp_path: Path) -> None:
    path, tensors = tmp_path / "a.pth", {"module.one": torch.rand(3), "module.two": torch.rand(2, 2)}
    torch.save({wrapper: tensors, "epoch": 3} if wrapper else tensors, path, _use_new_zipfile_serialization=False)
    found = read_tensors(path)
    assert found.keys() == {"one", "two"}
    assert torch.equal(found["two"], tensors["module.two"])


def test_files_of_other_kinds_are_read(tmp_path: Path) -> None:
    wanted = torch.rand(2, 3)
    save_file({"a.b": wanted}, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **{"a/b": wanted.numpy()})
    assert torch.equal(read_tensors(tmp_path / "a.safetensors")["a.b"], wanted)
    assert torch.equal(read_tensors(tmp_path / "a.npz")["a/b"], wanted)


class Intruder:
    """Were it unpickled, it would make a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("suffix", ["pth", "npz"])
def test_nothing_that_a_file_holds_is_run(suffix: str, tmp_path: Path) -> None:
    path, mark = tmp_path / f"a.{suffix}", tmp_path / "mark"
    intruder = Intruder(mark)
    pickle.loads(pickle.dumps(intruder))
    mark.rmdir()  # so it would work
    if suffix == "npz":
        np.savez(path, a=np.array([intruder], dtype=object))
    else:
        torch.save({"a": intruder}, path)
    with pytest.raises(WeightsError, match=path.name):
        read_tensors(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["a.pth", "a.npz", "a.safetensors", "missing.pth"])
@pytest.mark.parametrize("content", [b"", b"nothing of the kind", pickle.dumps(3, 2), pickle.dumps({"a": 3}, 2)])
def test_damaged_files_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    if name != "missing.pth":
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        read_tensors(tmp_path / name)


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1), "b": 3}, tmp_path / "mixed.pth")
    torch.save(torch.zeros(3), tmp_path / "one.pth")
    for name in ("mixed.pth", "one.pth"):
        with pytest.raises(WeightsError, match=name):
            read_tensors(tmp_path / name)
