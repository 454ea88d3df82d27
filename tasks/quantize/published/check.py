"""Check a release that its publisher quantized: its files must match its config.json.

auto-gptq and AutoAWQ are archived and do not run beside current transformers, but their releases are common and every
engine reads them. The check uses only the files: each quantized layer must have all its tensors, of the right type and
shape, with finite scales.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.quantize.plan.roles import roles_of
from tasks.quantize.plan.targets import split_targets
from tasks.quantize.published.formats import FORMATS, PublishedLayer
from tasks.quantize.published.recognise import nested_quantization, quantized_by
from tasks.quantize.tensors import StoredTensor, first_repeated, is_finite, read_tensors
from tasks.source.published import read_from
from weighbridge.errors import QuantizationFailed, QuantizationUncovered

NEXT_STEP = "Download the release again, choose another one, or the unquantized release with a scheme of your own."
FLOAT_BYTES = 2
"""Of a weight before it was quantized, for the share of Linear bytes: bfloat16 or float16."""


class Published(BaseModel):
    """A release that its publisher quantized."""

    model_config = ConfigDict(frozen=True)

    method: str
    """`quant_method` of config.json: gptq, awq, compressed-tensors, fp8, fbgemm_fp8, or an unchecked one."""
    bits: int | None
    group_size: int | None
    """Input columns that share a scale; None for a whole row, a block or a tensor."""
    layers: int
    """Number of quantized layers, all of them complete."""
    share_of_linear_bytes: float
    """Quantized share of the Linear weights' bytes before quantization, the head included; 0 to 1."""
    checked: bool
    """False if the method's file layout is unknown; only its name was read."""


def check_published(folder: Path) -> Published | None:
    """Recognise a release that its publisher quantized, and check its files.

    Returns:
        A description of the quantization; None for an unquantized release.

    Raises:
        QuantizationUncovered: config.json names a method but no layer is quantized, or a layer lacks a tensor or has
            one of another type or shape.
        QuantizationFailed: a scale is infinite or NaN, an index is out of range, or a file is incomplete.
    """
    whole = read_from(folder, "config.json")
    config = nested_quantization(whole) or {}
    method = str(config.get("quant_method", "unnamed"))
    if not config:
        method = quantized_by(folder, whole, read_tensors(folder))
        if not method:
            return None
    if method not in FORMATS or not config:
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
    """Check a release that is served as published, if it is quantized.

    Raises:
        QuantizationUncovered, QuantizationFailed: as for `check_published`.
    """
    check_published(folder)


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
    """Quantized share of all Linear weights, quantized or not."""
    quantized_names = {name for layer in layers for name in layer.tensors}
    others = [tensor for tensor in tensors if tensor.name not in quantized_names]
    roles = roles_of({}, [(tensor.name, tensor.shape) for tensor in others])
    targets, ignored = split_targets(others, roles, conv1d=False)
    rest = sum(layer.source_bytes for layer in targets) + sum(kept.linear_bytes for kept in ignored)
    quantized = sum(layer.weights * FLOAT_BYTES for layer in layers)
    return quantized / (quantized + rest)
