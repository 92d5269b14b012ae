"""The script that puts a model into the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks.bundle_model import bundle

from consisti2v_cli.errors import WeightsError
from consisti2v_cli.weights.load import load_model
from consisti2v_cli.weights.registry import BUNDLED


def test_the_bundled_model_names_no_place_on_the_machine_that_made_it() -> None:
    for file in [*BUNDLED.rglob("*.json")]:
        assert not re.search(r'"(/|[A-Z]:\\)', file.read_text(encoding="utf-8")) or file.name == "tokenizer.json"


def test_the_old_bundle_stays_until_the_new_one_has_loaded(model_copy: Path, tmp_path: Path) -> None:
    (model_copy / "scheduler").mkdir()
    (model_copy / "consisti2v.json").write_text('{"native_size": 64}')
    target = tmp_path / "package" / "bundled"
    target.mkdir(parents=True)
    (target / "README.md").write_text("what it can do")
    bundle(model_copy, target)
    assert load_model(target).settings.native_size == 64
    (model_copy / "consisti2v.json").write_text('{"no_such_setting": 1}')
    with pytest.raises(WeightsError, match="no_such_setting"):
        bundle(model_copy, target)
    assert load_model(target).settings.native_size == 64
    assert [path.name for path in target.parent.iterdir()] == ["bundled"]
    assert (target / "README.md").read_text() == "what it can do"
