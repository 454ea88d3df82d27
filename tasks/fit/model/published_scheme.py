"""The scheme of a release that comes quantized, from its `quantization_config`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.schemes import Scheme, scheme
from weighbridge.errors import ArchitectureUnknown


def published_scheme(config: Mapping[str, Any]) -> Scheme | None:
    """Find the scheme that a release was published in, or None when it is not quantized.

    Formats: compressed-tensors, fp8 (DeepSeek's blocks), fbgemm_fp8, gptq, awq, mxfp4, as transformers writes
    `quantization_config`.

    Args:
        config: config.json.

    Raises:
        ArchitectureUnknown: the method is another one; it is named.
    """
    quantization = config.get("quantization_config")
    if not isinstance(quantization, Mapping):
        return None
    method = str(quantization.get("quant_method"))
    kept = tuple(str(name) for name in quantization.get("ignore") or quantization.get("modules_to_not_convert") or ())
    if method == "compressed-tensors":
        return _compressed_tensors(quantization, kept)
    if method in ("fp8", "fbgemm_fp8"):
        block = quantization.get("weight_block_size")
        return scheme("fp8").model_copy(update={"block": tuple(block) if block else None, "kept": kept})
    if method in ("gptq", "awq"):
        name = "int4" if int(quantization.get("bits") or 4) == 4 else "int8-w8a16"
        groups = (int(quantization["group_size"]),) if int(quantization.get("group_size") or -1) > 0 else ()
        symmetric = method != "awq" and bool(quantization.get("sym", True))
        return scheme(name).model_copy(update={"group_sizes": groups, "symmetric": symmetric, "kept": kept})
    if method == "mxfp4":
        return scheme("mxfp4").model_copy(update={"kept": kept})
    raise ArchitectureUnknown(
        f"The release is quantized by {method!r}, whose sizes are not known from config.json.",
        "Plan from its safetensors files, or choose the unquantized release.",
        where="config.json",
    )


def _compressed_tensors(quantization: Mapping[str, Any], kept: tuple[str, ...]) -> Scheme:
    """Read the first group's weights: their number of bits, type and strategy."""
    groups = quantization.get("config_groups")
    group = next(iter(groups.values())) if isinstance(groups, Mapping) and groups else {}
    weights = group.get("weights") or {}
    bits, weight_type = int(weights.get("num_bits") or 0), str(weights.get("type"))
    name = {
        (8, "float"): "fp8",
        (4, "float"): "mxfp4",
        (8, "int"): "int8" if group.get("input_activations") else "int8-w8a16",
        (4, "int"): "int4",
    }.get((bits, weight_type))
    if name is None:
        raise ArchitectureUnknown(
            f"The release's compressed-tensors format ({bits} bits, {weight_type}) is not known.",
            "Plan from its safetensors files, or choose the unquantized release.",
            where="config.json",
        )
    size = weights.get("group_size")
    update: dict[str, Any] = {"kept": kept, "symmetric": bool(weights.get("symmetric", True))}
    if weights.get("strategy") == "block" and weights.get("block_structure"):
        update["block"] = tuple(weights["block_structure"])
    elif size and size > 0:
        update["group_sizes"] = (int(size),)
    return scheme(name).model_copy(update=update)
