"""Weights that vLLM holds beside the checkpoint's tensors."""

from __future__ import annotations

from typing import Any

from tasks.fit.model.architectures import head_size, required
from tasks.fit.model.shape import ModelShape


def extra_weight_bytes(shape: ModelShape, *, tp: int, layers: int, bytes_each: int) -> int:
    """Bytes of vLLM's rotary position tables and of MLA's unfolded projections.

    Args:
        shape: the model.
        tp: GPUs that share each tensor.
        layers: number on this stage.
        bytes_each: bytes of an unquantized number.
    """
    return (rope_table_numbers(shape) + _absorbed_numbers(shape, tp, layers)) * bytes_each


def rope_table_numbers(shape: ModelShape) -> int:
    """Count the cosines and sines that vLLM stores for every position (rotary_embedding/: one table for each kind).

    `linear` scaling stretches the table by its factor, `dynamic` and `yarn` too (yarn from the original length);
    `longrope` has a second table of the original length; `mrope` has four times the positions; llama3 only
    its own. Gemma 3 keeps a second, unscaled table for its local layers.
    """
    text = shape.text
    positions = int(text.get("max_position_embeddings") or 0)
    if not positions:
        return 0
    tables = [entry for entry in _rope_entries(text) if entry is not None]
    size = int(text.get("qk_rope_head_dim") or head_size(text) * float(text.get("partial_rotary_factor") or 1))
    return sum(_rope_positions(entry, positions) * size for entry in tables)


def _rope_entries(text: Any) -> list[dict[str, Any]]:
    """One entry for each table: its scaling parameters, empty for none."""
    parameters = text.get("rope_parameters")
    if isinstance(parameters, dict) and all(isinstance(entry, dict) for entry in parameters.values()) and parameters:
        return list(parameters.values())  # transformers 5: one for each kind of layer
    scaling = parameters if isinstance(parameters, dict) else text.get("rope_scaling")
    entries = [dict(scaling) if isinstance(scaling, dict) else {}]
    if text.get("rope_local_base_freq") or text.get("model_type") == "gemma3_text":
        entries.append({})
    return entries


def _rope_positions(entry: dict[str, Any], positions: int) -> int:
    kind, factor = entry.get("rope_type") or entry.get("type"), float(entry.get("factor") or 1)
    if kind in ("linear", "dynamic"):
        return int(positions * factor)
    if kind == "yarn":
        return int(float(entry.get("original_max_position_embeddings") or positions / factor) * factor)
    if kind == "longrope":
        return positions + int(entry.get("original_max_position_embeddings") or 0)
    return positions * 4 if kind == "mrope" or "mrope_section" in entry else positions


def _absorbed_numbers(shape: ModelShape, tp: int, layers: int) -> int:
    """MLA: a quantized up-projection of keys and values is also stored unpacked (vLLM 0.19, mla_attention.py)."""
    text = shape.text
    if not text.get("kv_lora_rank") or not shape.quantized_by:
        return 0
    both = required(text, "qk_nope_head_dim") + required(text, "v_head_dim")
    return layers * required(text, "kv_lora_rank") * required(text, "num_attention_heads") * both // tp
