"""Prove a quantization: compare the written files with the recipe.

llm-compressor ends without an error when no layer matched, and when a tied head was packed. So this check uses only
the files, not the process's exit status.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.quantize.plan.recipe import Recipe
from tasks.quantize.tensors import StoredTensor, first_repeated, has_zero, is_finite, read_tensors
from tasks.source.published import read_from
from weighbridge.errors import QuantizationUncovered

SIZE_TOLERANCE = 0.03


class Coverage(BaseModel):
    """How much of a model was quantized, counted in its files."""

    model_config = ConfigDict(frozen=True)

    planned: int
    """Layers of the recipe."""
    found: int
    """Of these, quantized layers in the files."""
    share_of_linear_bytes: float
    """Quantized share of the source's Linear weight bytes, head and routers included; 0 to 1."""
    predicted_bytes: int
    """Size of the weight files by the recipe."""
    written_bytes: int
    """Size of the weight files on disk."""


def check_coverage(recipe: Recipe, folder: Path, source: Path) -> Coverage:
    """Compare a quantized model's files with the recipe.

    Args:
        recipe: of the quantization.
        folder: with the written files.
        source: the release; other tensors must be unchanged.

    Raises:
        QuantizationUncovered: a layer or setting differs from the recipe; the first is named.
        QuantizationFailed: the written files cannot be read.
    """
    written = read_tensors(folder)
    repeated = first_repeated(written)
    if repeated:
        raise _uncovered(f"{repeated.name} was written twice", repeated.name)
    by_name = {tensor.name: tensor for tensor in written}
    _check_layers(recipe, by_name)
    _check_rest(recipe, by_name, {tensor.name: tensor for tensor in read_tensors(source)})
    _check_config(recipe, folder / "config.json")
    written_bytes = sum(file.stat().st_size for file in {tensor.file for tensor in written})
    if abs(written_bytes / recipe.predicted_bytes - 1) > SIZE_TOLERANCE:
        raise _uncovered(
            f"the weights take {written_bytes:,} bytes where the plan says {recipe.predicted_bytes:,}", "size"
        )
    return Coverage(
        planned=len(recipe.layers),
        found=len(recipe.layers),
        share_of_linear_bytes=sum(layer.source_bytes for layer in recipe.layers) / recipe.linear_bytes,
        predicted_bytes=recipe.predicted_bytes,
        written_bytes=written_bytes,
    )


def _check_layers(recipe: Recipe, written: dict[str, StoredTensor]) -> None:
    problems = {layer.name: _problem(recipe, index, written) for index, layer in enumerate(recipe.layers)}
    wrong = {name: problem for name, problem in problems.items() if problem}
    if wrong:
        first, problem = next(iter(wrong.items()))
        found = len(recipe.layers) - len(wrong)
        raise _uncovered(f"{found} of {len(recipe.layers)} planned layers are quantized; {first}: {problem}", first)


def _problem(recipe: Recipe, index: int, written: dict[str, StoredTensor]) -> str:
    """How a planned layer differs from the recipe; empty if it does not."""
    layer = recipe.layers[index]
    parts = recipe.expected(layer)
    for part in parts:
        tensor = written.get(part.name)
        if tensor is None:
            return f"{part.name} is missing"
        if (tensor.dtype, tensor.shape) != (part.dtype, part.shape):
            return f"{part.name} is {tensor.dtype} {list(tensor.shape)}, not {part.dtype} {list(part.shape)}"
    if parts[0].name != f"{layer.name}.weight" and f"{layer.name}.weight" in written:
        return "it is present twice, quantized and as published"
    scale = written[f"{layer.name}.weight_scale"]
    if not is_finite(scale):
        return "a scale is infinite or not a number"
    return "a scale is zero" if has_zero(scale) else ""


def _check_rest(recipe: Recipe, written: dict[str, StoredTensor], source: dict[str, StoredTensor]) -> None:
    """Check that all other tensors are unchanged, and that no tensor was added."""
    weights = {f"{layer.name}.weight" for layer in recipe.layers}
    packed = {part.name for layer in recipe.layers for part in recipe.expected(layer)}
    for name in sorted(set(source) - weights):
        if name not in written:
            raise _uncovered(f"{name} was to stay as published and is gone or packed", name)
        before, after = source[name], written[name]
        if (before.dtype, before.shape) != (after.dtype, after.shape):
            was, now = f"{before.dtype} {list(before.shape)}", f"{after.dtype} {list(after.shape)}"
            raise _uncovered(f"{name} was to stay as published ({was}) and is {now}", name)
    extra = sorted(set(written) - packed - (set(source) - weights))
    if extra:
        raise _uncovered(f"{extra[0]} was not planned", extra[0])


def _check_config(recipe: Recipe, path: Path) -> None:
    """Check `quantization_config`, by which loaders read the tensors."""
    config: dict[str, Any] = read_from(path.parent, path.name).get("quantization_config") or {}
    groups = list(config.get("config_groups", {}).values())
    weights = groups[0].get("weights", {}) if groups else {}
    activations = (groups[0].get("input_activations") or {}) if groups else {}
    written = {
        "quant_method": config.get("quant_method"),
        "format": config.get("format"),
        "groups": len(groups),
        "targets": groups[0].get("targets") if groups else None,
        "weight bits": weights.get("num_bits"),
        "weight type": weights.get("type"),
        "block": weights.get("block_structure"),
        "group size": weights.get("group_size"),
        "symmetric": weights.get("symmetric"),
        "activation bits": activations.get("num_bits", 16),
        "activation type": activations.get("type", weights.get("type")),
        "ignore": sorted(config.get("ignore", [])),
    }
    planned = {
        "quant_method": "compressed-tensors",
        "format": recipe.format,
        "groups": 1,
        "targets": ["Linear"],
        "weight bits": recipe.weight_bits,
        "weight type": recipe.weight_type,
        "block": list(recipe.block) if recipe.block else None,
        "group size": recipe.group_size,
        "symmetric": recipe.symmetric,
        "activation bits": recipe.activation_bits,
        "activation type": recipe.weight_type,
        "ignore": sorted(recipe.ignore),
    }
    for setting, value in planned.items():
        if written[setting] != value:
            raise _uncovered(f"config.json says {setting} {written[setting]!r} where the plan says {value!r}", setting)


def _uncovered(what: str, where: str) -> QuantizationUncovered:
    return QuantizationUncovered(
        f"The quantized weights differ from the plan: {what}.",
        "Serve the release as bf16 or by another scheme, and report its architecture; nothing was kept.",
        where=where,
    )
