"""Tiny random models of the architectures that people serve, through every scheme that needs no data.

Each is right (covered, loaded by transformers, near the release) or refused: docs/evidence/quantization.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.quantize import check_coverage, scheme
from tasks.quantize.methods import rtn
from tasks.quantize.plan.recipe import make_recipe
from tasks.quantize.process.job import Job
from weighbridge.errors import QuantizationUncovered

pytestmark = pytest.mark.timeout(400)

# Largest relative error of the logits that rounding alone explains, of random weights.
BOUNDS = {"int8": 0.06, "int8-w8a16": 0.04, "int4": 0.5, "int4-asym": 0.4, "fp8": 0.15, "fp8-block": 0.15}
DENSE: dict[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("LlamaConfig", {}),
    "Qwen2ForCausalLM": ("Qwen2Config", {"tie_word_embeddings": True}),
    "Qwen3ForCausalLM": ("Qwen3Config", {"head_dim": 64}),
    "Gemma2ForCausalLM": ("Gemma2Config", {"head_dim": 64}),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", {"head_dim": 64}),
}
MIXTURES = {
    "MixtralForCausalLM": ("MixtralConfig", {"num_local_experts": 4, "head_dim": 64}),
    "Qwen3MoeForCausalLM": (
        "Qwen3MoeConfig",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "head_dim": 64},
    ),
}
LINEAR_PER_DENSE_LAYER, ATTENTION, EXPERT = 7, 4, 3
LAYERS, EXPERTS = 2, 4


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on matrices this small wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _save(folder: Path, architecture: str, config: str, more: dict[str, Any]) -> Path:
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128}
    made = getattr(transformers, config)(**sizes, **heads, **more)
    getattr(transformers, architecture)(made).to(torch.bfloat16).save_pretrained(folder)
    return folder


def _logits(folder: Path, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    with torch.no_grad():
        return model(torch.arange(64)[None]).logits.float()


def _quantized(source: Path, name: str) -> tuple[int, float, Path]:
    recipe = make_recipe(source, scheme(name))
    out = source.parent / name
    shutil.rmtree(out, ignore_errors=True)
    rtn.quantize(Job(source=source, out=out, recipe=recipe), lambda: None)
    coverage = check_coverage(recipe, out, source)
    assert coverage.found == coverage.planned
    return coverage.found, coverage.share_of_linear_bytes, out


def _far(folder: Path, release: Any, dtype: str) -> float:
    return float((_logits(folder, dtype) - release).norm() / release.norm())


@pytest.mark.parametrize("architecture", DENSE)
def test_every_scheme_covers_a_dense_model_and_loads_close_to_it(architecture: str, tmp_path: Path) -> None:
    source = _save(tmp_path / "release", architecture, *DENSE[architecture])
    release = _logits(source, "float32")
    for name, bound in BOUNDS.items():
        layers, share, out = _quantized(source, name)
        assert layers == LAYERS * LINEAR_PER_DENSE_LAYER, name
        assert share > 0.85, name
        assert 0 < _far(out, release, "float32") < bound, name


@pytest.mark.parametrize("architecture", MIXTURES)
def test_a_mixtures_experts_are_covered_and_its_router_stays_or_the_scheme_is_refused(
    architecture: str, tmp_path: Path
) -> None:
    source = _save(tmp_path / "release", architecture, *MIXTURES[architecture])
    # transformers unpacks experts to bfloat16, whatever is asked for.
    release = _logits(source, "bfloat16")
    for name in ("int8-w8a16", "int4", "fp8"):
        layers, share, out = _quantized(source, name)
        assert layers == LAYERS * (ATTENTION + EXPERTS * EXPERT), name
        assert share > 0.9, name
        recipe = make_recipe(source, scheme(name))
        routers = [ignored for ignored in recipe.ignored if ignored.name.endswith(".gate")]
        assert len(routers) == LAYERS, name
        assert 0 < _far(out, release, "bfloat16") < BOUNDS[name], name
    for name in ("int8", "int4-asym", "fp8-block"):
        with pytest.raises(QuantizationUncovered, match="belongs to a mixture of experts") as refused:
            make_recipe(source, scheme(name))
        assert "int8-w8a16" in refused.value.next_step
