"""Write a calibrated model: pack planned layers, cast scaled weights back, copy the rest byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from tasks.quantize.plan.recipe import Layer, Recipe
from tasks.quantize.process.shards import ShardWriter, plan_shards, write_index
from tasks.quantize.tensors import INDEX, StoredTensor
from weighbridge.errors import QuantizationFailed

State = dict[str, torch.Tensor]
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def write_weights(
    recipe: Recipe,
    source: Path,
    out: Path,
    model: PreTrainedModel,
    compress: Callable[[State], State],
    *,
    smooths: bool,
) -> None:
    """Write a quantized model's weight files, one for each of the source's.

    Args:
        recipe, source, out: the planned layers, the release, and the destination.
        model: with rounded weights and scales in its planned layers.
        compress: packs one layer's `weight`, `weight_scale` and `weight_zero_point`.
        smooths: whether unplanned weights may have changed; if so they are compared, except embeddings and head.

    Raises:
        DiskFull: during writing.
        QuantizationFailed: a layer's tensors differ from the planned ones.
    """
    out.mkdir(parents=True, exist_ok=True)
    modules = dict(model.named_modules())
    shards = plan_shards(recipe, source)
    for shard in shards:
        with ShardWriter(shard, out) as writer:
            for tensor in shard.kept:
                changed = _changed(tensor, modules, model) if smooths else None
                if changed is None:
                    writer.copy(tensor)
                else:
                    writer.write(tensor.name, _bytes(changed), 0)
            for layer, _ in shard.layers:
                for name, part in _packed(recipe, layer, modules[layer.name], compress).items():
                    writer.write(name, _bytes(part), 0)
    if (source / INDEX).is_file():
        write_index(out, shards)


def _packed(recipe: Recipe, layer: Layer, module: torch.nn.Module, compress: Callable[[State], State]) -> State:
    names = ("weight", "weight_scale", "weight_zero_point")
    state = {name: getattr(module, name).detach().cpu() for name in names if hasattr(module, name)}
    # Compute codes in float32 with the scale as it will be read back: the weight is a multiple of it.
    stored = state["weight_scale"].to(DTYPES[layer.dtype])
    compressed = compress({**state, "weight": state["weight"].float(), "weight_scale": stored.float()})
    compressed["weight_scale"] = stored
    parts = {f"{layer.name}.{name}": part for name, part in compressed.items()}
    expected = recipe.expected(layer)
    if {part.name: part.shape for part in expected} != {name: tuple(part.shape) for name, part in parts.items()}:
        raise QuantizationFailed(
            f"{layer.name} has the tensors {sorted(parts)} instead of {sorted(part.name for part in expected)}.",
            "Name another method, and report the release's architecture.",
            where=layer.name,
        )
    return parts


def _changed(tensor: StoredTensor, modules: dict[str, torch.nn.Module], model: PreTrainedModel) -> torch.Tensor | None:
    """An unplanned weight after calibration, in the source's dtype; None if it is unchanged."""
    module_name, _, own = tensor.name.rpartition(".")
    module = modules.get(module_name)
    if module is None or tensor.dtype not in DTYPES or not hasattr(module, own):
        return None
    if module in (model.get_input_embeddings(), model.get_output_embeddings()):
        return None
    now = getattr(module, own).detach().cpu()
    with safe_open(tensor.file, framework="pt") as file:
        before = file.get_tensor(tensor.name)
    return None if torch.equal(before.to(now.dtype), now) else now.to(before.dtype)


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
