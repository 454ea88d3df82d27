"""What a quantization scheme does to the bytes of a model: enough to plan, before anything is quantized.

One entry here adds one to the planner. How the numbers are found is the quantize room's. A release that is
quantized already is planned by what its `quantization_config` says (`published_scheme`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from weighbridge.errors import ArchitectureUnknown, SchemeUnknown


class SchemeSize(BaseModel):
    """The bytes of one scheme."""

    model_config = ConfigDict(frozen=True)

    name: str
    weight_bits: int | None
    """Of a quantized weight; None leaves everything as published."""
    scale_bytes: int = 2
    """Of each scale: the source's dtype, bfloat16."""
    group_sizes: tuple[int, ...] = ()
    """Inputs that share a scale; the first that divides every layer's width. None: one scale an output row."""
    zero_points: bool = False
    """Whether a group has a zero point of `weight_bits` beside its scale."""
    block: tuple[int, int] | None = None
    """Rows and columns that share a 32-bit scale, for block-wise FP8."""
    packed: bool = False
    """Whether weights lie several to a 32-bit word, with the shape (two int64) beside them."""
    gguf: bool = False
    """Whether it is a file type of llama.cpp's, with rules of its own (`gguf.py`)."""
    kept: tuple[str, ...] = ()
    """Names, or `re:` patterns, that a published checkpoint leaves alone beside the usual ones."""

    def keeps(self, name: str) -> bool:
        """Whether a published checkpoint's own list leaves this tensor alone."""
        layer = name.removesuffix(".weight")
        return any(re.search(_pattern(one), layer) for one in self.kept)


def _pattern(one: str) -> str:
    """`re:` is an expression from the start (compressed-tensors); else a part of the name, `*` for a layer's number."""
    return f"^(?:{one[3:]})" if one.startswith("re:") else re.escape(one).replace(r"\*", r"[^.]+")


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        SchemeSize(name="bf16", weight_bits=None),
        SchemeSize(name="int8", weight_bits=8),
        SchemeSize(name="int8-w8a16", weight_bits=8, packed=True),
        SchemeSize(name="int4", weight_bits=4, group_sizes=(128, 64, 32), packed=True),
        SchemeSize(name="int4-asym", weight_bits=4, group_sizes=(128, 64, 32), packed=True, zero_points=True),
        SchemeSize(name="fp8", weight_bits=8),
        SchemeSize(name="fp8-block", weight_bits=8, block=(128, 128)),
        # OCP Microscaling Formats 1.0: 32 four-bit floats share an eight-bit exponent.
        SchemeSize(name="mxfp4", weight_bits=4, scale_bytes=1, group_sizes=(32,)),
        SchemeSize(name="q8-0", weight_bits=8, gguf=True),
        SchemeSize(name="q4-k-m", weight_bits=4, gguf=True),
    )
}


def scheme_names() -> tuple[str, ...]:
    """Schemes whose size is known."""
    return tuple(SCHEMES)


def scheme_size(name: str) -> SchemeSize:
    """The scheme of a name.

    Raises:
        SchemeUnknown: its size is not known.
    """
    if name not in SCHEMES:
        raise SchemeUnknown(
            f"There is no scheme called {name!r} to plan memory for; known schemes: {', '.join(SCHEMES)}.",
            "Name one of these in the line's `schemes`, or add its size to tasks/schemes/bytes.py.",
        )
    return SCHEMES[name]


def published_scheme(config: Mapping[str, Any]) -> SchemeSize | None:
    """The scheme that a release was published in, or None when it is not quantized.

    Formats: compressed-tensors, fp8 (DeepSeek's blocks), fbgemm_fp8, gptq, awq, mxfp4, as transformers writes
    `quantization_config`.

    Raises:
        ArchitectureUnknown: the method is another one; it is named.
    """
    found = config.get("quantization_config")
    if not isinstance(found, Mapping):
        return None
    method = str(found.get("quant_method"))
    kept = tuple(str(one) for one in found.get("ignore") or found.get("modules_to_not_convert") or ())
    if method == "compressed-tensors":
        return _compressed_tensors(found, kept)
    if method in ("fp8", "fbgemm_fp8"):
        block = found.get("weight_block_size")
        return SCHEMES["fp8"].model_copy(update={"block": tuple(block) if block else None, "kept": kept})
    if method in ("gptq", "awq"):
        name = "int4" if int(found.get("bits", 4)) == 4 else "int8-w8a16"
        groups = (int(found["group_size"]),) if int(found.get("group_size") or -1) > 0 else ()
        zeros = method == "awq" or not found.get("sym", True)
        update = {"group_sizes": groups, "zero_points": zeros, "kept": kept}
        return SCHEMES[name].model_copy(update=update)
    if method == "mxfp4":
        return SCHEMES["mxfp4"].model_copy(update={"kept": kept})
    raise ArchitectureUnknown(
        f"The release is quantized by {method!r}, whose sizes are not known from config.json.",
        "Plan from its safetensors files, or choose the unquantized release.",
        where="config.json",
    )


def _compressed_tensors(found: Mapping[str, Any], kept: tuple[str, ...]) -> SchemeSize:
    """By the first group's weights: their number of bits, kind and strategy."""
    groups = found.get("config_groups")
    group = next(iter(groups.values())) if isinstance(groups, Mapping) and groups else {}
    weights = group.get("weights") or {}
    bits, kind = int(weights.get("num_bits") or 0), str(weights.get("type"))
    name = {
        (8, "float"): "fp8",
        (4, "float"): "mxfp4",
        (8, "int"): "int8" if group.get("input_activations") else "int8-w8a16",
        (4, "int"): "int4",
    }.get((bits, kind))
    if name is None:
        raise ArchitectureUnknown(
            f"The release's compressed-tensors format ({bits} bits, {kind}) is not known.",
            "Plan from its safetensors files, or choose the unquantized release.",
            where="config.json",
        )
    size = weights.get("group_size")
    update: dict[str, Any] = {"kept": kept, "zero_points": not weights.get("symmetric", True)}
    if weights.get("strategy") == "block" and weights.get("block_structure"):
        update["block"] = tuple(weights["block_structure"])
    elif size and size > 0:
        update["group_sizes"] = (int(size),)
    return SCHEMES[name].model_copy(update=update)
