"""Write `quantization_config` of config.json, field by field as compressed-tensors does.

It is written here so that a data-free quantization need not import compressed-tensors (15 CPU-seconds). A test
compares it with the library's own output.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks.quantize.plan.recipe import Recipe
from tasks.schemes import Scheme, scheme
from tasks.source.published import read_from
from weighbridge.files import READABLE, write_whole


def write_config(source: Path, out: Path, recipe: Recipe) -> None:
    """Write the source's config.json with the quantization added."""
    config = read_from(source, "config.json")
    config["quantization_config"] = quantization_config(recipe)
    write_whole(out / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n", mode=READABLE)


def quantization_config(recipe: Recipe) -> dict[str, Any]:
    """The `quantization_config` by which loaders read the tensors."""
    chosen = scheme(recipe.scheme)
    group = {
        "format": recipe.format,
        "input_activations": _activations(chosen),
        "output_activations": None,
        "targets": ["Linear"],
        "weights": _numbers(
            bits=recipe.weight_bits,
            kind=recipe.weight_type,
            strategy=chosen.strategy(recipe.group_size),
            group_size=recipe.group_size,
            block=recipe.block,
            symmetric=recipe.symmetric,
        ),
    }
    return {
        "config_groups": {"config_group_0": group},
        "format": recipe.format,
        "global_compression_ratio": None,
        "ignore": list(recipe.ignore),
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "transform_config": {},
        "version": version("compressed-tensors"),
    }


def _activations(chosen: Scheme) -> dict[str, Any] | None:
    if chosen.activation_bits >= 16:
        return None
    size = chosen.activation_group_size
    return _numbers(
        bits=chosen.activation_bits,
        kind=chosen.weight_type,
        strategy="group" if size else "token",
        group_size=size,
        dynamic=True,
    )


def _numbers(
    *,
    bits: int,
    kind: str,
    strategy: str,
    group_size: int | None,
    block: tuple[int, int] | None = None,
    symmetric: bool = True,
    dynamic: bool = False,
) -> dict[str, Any]:
    return {
        "actorder": None,
        "block_structure": list(block) if block else None,
        "dynamic": dynamic,
        "group_size": group_size,
        "num_bits": bits,
        "observer": None,
        "observer_kwargs": {},
        "scale_dtype": None,
        "strategy": strategy,
        "symmetric": symmetric,
        "type": kind,
        "zp_dtype": None if symmetric else "torch.int8",
    }
