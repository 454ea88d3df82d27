"""Recognise a release that is quantized already, whatever its config.json says of it.

Rounding such a release again would keep its codes and lose the meaning of their scales.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks.quantize.tensors import StoredTensor

FILES = {
    "hf_quant_config.json": "modelopt",
    "quant_config.json": "awq",
    "quantize_config.json": "gptq",
}
"""Files in which publishers say it, and the method that writes them."""
_CONFIGS = ("quantization_config", "compression_config")
_PARTS = re.compile(
    r"(\.|_)(qweight|qzeros|weight_packed|weight_scale(_inv|_2)?|weight_zero_point|weight_shape|SCB|blocks|scales"
    r"|quant_state\.\w+)$"
)
_CODES = {"F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8"}


def quantized_by(folder: Path, config: Mapping[str, Any], tensors: Iterable[StoredTensor]) -> str:
    """What quantized a release, by its config, its other files, and its tensors; empty if nothing did.

    Args:
        folder: the release.
        config: its `config.json`.
        tensors: of its files; none to ask the config and the other files alone.
    """
    found = nested_quantization(config)
    if found is not None:
        return str(found.get("quant_method") or found.get("quant_algo") or "an unnamed method")
    for file, method in FILES.items():
        if (folder / file).is_file():
            return f"{method} ({file})"
    for tensor in tensors:
        if _PARTS.search(tensor.name) or (tensor.dtype in _CODES and len(tensor.shape) > 1):
            return f"a method that config.json does not name ({tensor.name} is {tensor.dtype})"
    return ""


def nested_quantization(config: object, depth: int = 4) -> Mapping[str, Any] | None:
    """The first `quantization_config` of a config or of its parts that is not empty; None if there is none."""
    if not isinstance(config, Mapping) or not depth:
        return None
    for name in _CONFIGS:
        found = config.get(name)
        if isinstance(found, Mapping) and found:
            return found
    return next((found for part in config.values() if (found := nested_quantization(part, depth - 1))), None)
