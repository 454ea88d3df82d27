"""Releases that come quantized: taken as they are once their files hold what their config.json says.

auto-gptq and AutoAWQ are archived and do not run beside current transformers, but what they wrote is everywhere and
every engine reads it. The check believes only files: each quantized layer has all its tensors, of the right type
and shape, with finite scales.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.quantize.plan.targets import split_targets
from tasks.quantize.published.formats import FORMATS, PublishedLayer
from tasks.quantize.tensors import StoredTensor, first_repeated, is_finite, read_tensors
from weighbridge.errors import QuantizationFailed, QuantizationUncovered

NEXT_STEP = "Download the release again, choose another one, or the unquantized release with a scheme of your own."
FLOAT_BYTES = 2
"""Of a weight before it was quantized, for the share of Linear bytes: bfloat16 or float16."""


class Published(BaseModel):
    """What a release is that was quantized by its publisher."""

    model_config = ConfigDict(frozen=True)

    method: str
    """`quant_method` of config.json: gptq, awq, compressed-tensors, fp8, fbgemm_fp8, or one that is not checked."""
    bits: int | None
    group_size: int | None
    """Input columns that share a scale; None for a whole row, a block or a tensor."""
    layers: int
    """Quantized, all of them found whole."""
    share_of_linear_bytes: float
    """Quantized part of the Linear weights' bytes before quantization, the head among them; 0 to 1."""
    checked: bool
    """False: the method's files are not known here; nothing but the name was read."""


def check_published(folder: Path) -> Published | None:
    """Recognise a release that was quantized by its publisher, and check its files.

    Returns:
        What it is; None for a release that is not quantized.

    Raises:
        QuantizationUncovered: config.json says that it is quantized and no layer is, or a layer lacks a tensor or has
            one of another type or shape; it is named.
        QuantizationFailed: a scale is infinite or no number, an index points nowhere, or a file is not whole.
    """
    config = _quantization_config(folder)
    if config is None:
        return None
    method = str(config.get("quant_method", "unnamed"))
    if method not in FORMATS:
        return Published(method=method, bits=None, group_size=None, layers=0, share_of_linear_bytes=0, checked=False)
    tensors = read_tensors(folder)
    repeated = first_repeated(tensors)
    if repeated:
        raise QuantizationFailed(f"{repeated.name} is in more than one file.", NEXT_STEP, where=str(repeated.file))
    by_name = {tensor.name: tensor for tensor in tensors}
    bits, group_size, layers = FORMATS[method](config, by_name)
    if not layers:
        raise QuantizationUncovered(
            f"config.json says that the release is quantized by {method}, and no layer in its files is.",
            NEXT_STEP,
            where=str(folder),
        )
    for layer in layers:
        _require_whole(layer, method)
    return Published(
        method=method,
        bits=bits,
        group_size=group_size,
        layers=len(layers),
        share_of_linear_bytes=_share(layers, tensors),
        checked=True,
    )


def require_valid_published(folder: Path) -> None:
    """Check a release that is taken as published, where it is quantized; others are not read.

    Raises:
        QuantizationUncovered, QuantizationFailed: as for `published`.
    """
    check_published(folder)


def _quantization_config(folder: Path) -> Mapping[str, Any] | None:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (FileNotFoundError, ValueError):
        # Not every release has one that is JSON; who needs it says so.
        return None
    found = config.get("quantization_config") if isinstance(config, dict) else None
    return found if isinstance(found, dict) else None


def _require_whole(layer: PublishedLayer, method: str) -> None:
    if layer.problem:
        raise QuantizationUncovered(
            f"{layer.name} is not as {method} writes it: {layer.problem}.", NEXT_STEP, layer.name
        )
    for scale in layer.scales:
        if not is_finite(scale):
            raise QuantizationFailed(
                f"{scale.name} holds a value that is infinite or not a number.", NEXT_STEP, where=scale.file.name
            )
    if layer.damage:
        raise QuantizationFailed(f"{layer.name} is damaged: {layer.damage}.", NEXT_STEP, where=layer.name)


def _share(layers: tuple[PublishedLayer, ...], tensors: list[StoredTensor]) -> float:
    """Against the weights that are still matrices of floats and multiply."""
    mine = {name for layer in layers for name in layer.tensors}
    left, ignored = split_targets([tensor for tensor in tensors if tensor.name not in mine], conv1d=False)
    rest = sum(layer.source_bytes for layer in left) + sum(one.linear_bytes for one in ignored)
    quantized = sum(layer.weights * FLOAT_BYTES for layer in layers)
    return quantized / (quantized + rest)
