"""The demo's bad release: changed only where documented, reproducible, and still quantizable."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.damage import damage
from tasks.quantize import scheme
from tasks.quantize.plan.recipe import make_recipe
from tasks.quantize.tensors import read_tensors


def _values(folder: Path) -> dict[str, bytes]:
    return {
        tensor.name: tensor.file.read_bytes()[tensor.start : tensor.start + tensor.size_bytes]
        for tensor in read_tensors(folder)
    }


def test_only_attention_output_of_middle_layers_changes(release: Callable[..., Path], tmp_path: Path) -> None:
    source = release()
    bad = damage(source, tmp_path / "bad")
    before, after = _values(source), _values(bad)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == ["model.layers.1.self_attn.o_proj.weight"]
    assert json.loads((bad / "config.json").read_text()) == json.loads((source / "config.json").read_text())
    assert (bad / "tokenizer.json").is_file()
    assert make_recipe(bad, scheme("int4")).layers == make_recipe(source, scheme("int4")).layers


def test_the_same_damage_every_time_and_none_at_strength_0(release: Callable[..., Path], tmp_path: Path) -> None:
    source = release()
    first, second = damage(source, tmp_path / "first"), damage(source, tmp_path / "second")
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert _values(damage(source, tmp_path / "none", strength=0)) == _values(source)


def test_a_model_without_such_layers_is_refused(release: Callable[..., Path], tmp_path: Path) -> None:
    folder = release()
    config = folder / "model.safetensors"
    config.write_bytes(config.read_bytes().replace(b"self_attn.o_proj", b"self_attn.x_proj"))
    with pytest.raises(SystemExit, match="no attention output"):
        damage(folder, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
