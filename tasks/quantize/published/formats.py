"""Publishers' file layouts of quantized layers: one function a method, and one entry in `FORMATS`.

Sources of the layouts: auto-gptq 0.7 (`qlinear_cuda.py`: `qweight` packs input rows, `qzeros` output columns, both
lowest bits first), AutoAWQ 0.2 (`gemm.py`: both pack output columns), compressed-tensors 0.19, and transformers 5.17
(`finegrained_fp8.py`, `fbgemm_fp8.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.quantize.plan.layouts import Layout, words
from tasks.quantize.tensors import FLOATS, StoredTensor
from weighbridge.errors import QuantizationUncovered

if TYPE_CHECKING:
    import numpy as np

Config = Mapping[str, Any]
Tensors = Mapping[str, StoredTensor]
Part = tuple[tuple[str, ...], tuple[int, ...]]
"""Allowed types of a tensor, and its shape."""


@dataclass(frozen=True)
class PublishedLayer:
    """One quantized layer, complete or not."""

    name: str
    weights: int
    """Number of its weights before quantization."""
    tensors: tuple[str, ...]
    scales: tuple[StoredTensor, ...]
    problem: str = ""
    """A missing tensor, or one of another shape or type; empty if none."""
    damage: str = ""
    """Invalid values; empty if none."""


Reading = tuple[int | None, int | None, tuple[PublishedLayer, ...]]


def _gptq(config: Config, tensors: Tensors) -> Reading:
    bits, size = _number(config, "bits"), _size(config, "group_size")
    return bits, size, tuple(_gptq_layer(name, bits, size, tensors) for name in _layers(tensors, _INTEGER_PARTS))


def _gptq_layer(name: str, bits: int, size: int | None, tensors: Tensors) -> PublishedLayer:
    weight = tensors.get(f"{name}.qweight")
    columns = weight.shape[0] * 32 // bits if weight and len(weight.shape) == 2 else 0
    outputs = weight.shape[1] if weight and len(weight.shape) == 2 else 0
    groups = math.ceil(columns / (size or columns or 1))
    expected: dict[str, Part] = {
        "qweight": (("I32",), (words(columns, bits), outputs)),
        "qzeros": (("I32",), (groups, words(outputs, bits))),
        "scales": (FLOATS, (groups, outputs)),
    }
    index = tensors.get(f"{name}.g_idx")
    if index:
        expected["g_idx"] = (("I32",), (columns,))
    problem = _compare(name, expected, tensors)
    damage = (
        "" if problem or not index or _within(index, groups) else f"g_idx names a group that is not one of {groups}"
    )
    return _found(name, columns * outputs, expected, tensors, "scales", problem, damage)


def _awq(config: Config, tensors: Tensors) -> Reading:
    bits, size = _number(config, "bits", "w_bit"), _size(config, "group_size", "q_group_size")
    version = str(config.get("version", "gemm")).lower()
    if version != "gemm":
        raise QuantizationUncovered(
            f"The release is AWQ in the layout {version!r}; only 'gemm' can be checked.",
            "Choose a release in the layout gemm, which engines for servers read.",
            where="config.json",
        )
    return bits, size, tuple(_awq_layer(name, bits, size, tensors) for name in _layers(tensors, _INTEGER_PARTS))


def _awq_layer(name: str, bits: int, size: int | None, tensors: Tensors) -> PublishedLayer:
    weight, scale = tensors.get(f"{name}.qweight"), tensors.get(f"{name}.scales")
    columns = weight.shape[0] if weight else 0
    outputs = scale.shape[-1] if scale and scale.shape else 0
    groups = math.ceil(columns / (size or columns or 1))
    expected: dict[str, Part] = {
        "qweight": (("I32",), (columns, words(outputs, bits))),
        "qzeros": (("I32",), (groups, words(outputs, bits))),
        "scales": (FLOATS, (groups, outputs)),
    }
    problem = _compare(name, expected, tensors)
    return _found(name, columns * outputs, expected, tensors, "scales", problem)


def _fp8(config: Config, tensors: Tensors) -> Reading:
    """DeepSeek's blocks with `weight_scale_inv`, or one scale per tensor or row."""
    block = config.get("weight_block_size")
    layers = []
    for name in _float8_layers(tensors):
        weight = tensors.get(f"{name}.weight")
        shape = weight.shape if weight and len(weight.shape) == 2 else (0, 0)
        part = "weight_scale_inv" if f"{name}.weight_scale_inv" in tensors else "weight_scale"
        scale = tensors.get(f"{name}.{part}")
        allowed = {(), (1,), (shape[0],), (shape[0], 1)}
        if block:
            allowed = {(math.ceil(shape[0] / int(block[0])), math.ceil(shape[1] / int(block[1])))}
        found = scale.shape if scale and scale.shape in allowed else max(allowed, key=len)
        expected: dict[str, Part] = {"weight": (("F8_E4M3",), shape), part: (FLOATS, found)}
        problem = _compare(name, expected, tensors)
        layers.append(_found(name, math.prod(shape), expected, tensors, part, problem))
    return 8, None, tuple(layers)


def _compressed_tensors(config: Config, tensors: Tensors) -> Reading:
    groups = list((config.get("config_groups") or {}).values())
    layouts = [_layout(group, str(config.get("format"))) for group in groups if group.get("weights")]
    unknown = [layout.format for layout in layouts if not layout.known]
    if unknown:
        raise QuantizationUncovered(
            f"The release is in compressed-tensors' format {unknown[0]!r}, whose files cannot be checked.",
            "Choose a release in int-quantized, pack-quantized or float-quantized.",
            where="config.json",
        )
    names = _layers(tensors, ("weight_packed", "weight_scale", "weight_zero_point"))
    layers = tuple(_compressed_layer(name, layouts, tensors) for name in names)
    first = layouts[0] if layouts else None
    return (first.weight_bits, first.group_size, layers) if first else (None, None, layers)


def _layout(group: Config, overall: str) -> Layout:
    weights = group["weights"]
    size, block = weights.get("group_size"), weights.get("block_structure")
    return Layout(
        format=str(group.get("format") or overall),
        weight_bits=int(weights["num_bits"]),
        group_size=int(size) if size and size > 0 else None,
        block=(int(block[0]), int(block[1])) if block and weights.get("strategy") == "block" else None,
        symmetric=bool(weights.get("symmetric", True)),
    )


def _compressed_layer(name: str, layouts: list[Layout], tensors: Tensors) -> PublishedLayer:
    """Match a layer to the group whose tensors it has; without a match, report the first group's problem."""
    shape_tensor, weight = tensors.get(f"{name}.weight_shape"), tensors.get(f"{name}.weight")
    shape = weight.shape if weight else ()
    if shape_tensor and shape_tensor.dtype == "I64" and shape_tensor.shape == (2,):
        shape = tuple(int(side) for side in _values(shape_tensor, "<i8"))
    if len(shape) != 2 or not layouts:
        return PublishedLayer(
            name, 0, (), (), problem=f"neither {name}.weight nor {name}.weight_shape says how large it is"
        )
    first: PublishedLayer | None = None
    for layout in layouts:
        parts = {
            part.name.removeprefix(f"{name}."): (_types(part.dtype), part.shape)
            for part in layout.expected(name, FLOATS[0], (shape[0], shape[1]))
        }
        problem = _compare(name, parts, tensors)
        found = _found(name, math.prod(shape), parts, tensors, "weight_scale", problem)
        if not problem:
            return found
        first = first or found
    assert first is not None
    return first


def _types(dtype: str) -> tuple[str, ...]:
    return FLOATS if dtype in FLOATS else (dtype,)


_INTEGER_PARTS = ("qweight", "qzeros", "scales", "g_idx")


def _layers(tensors: Tensors, parts: Iterable[str]) -> list[str]:
    """Modules with any of the tensors; a single one marks a layer as quantized."""
    ends = tuple(f".{part}" for part in parts)
    return sorted({name.rpartition(".")[0] for name in tensors if name.endswith(ends)})


def _float8_layers(tensors: Tensors) -> list[str]:
    scaled = _layers(tensors, ("weight_scale_inv", "weight_scale"))
    stored = {name.removesuffix(".weight") for name, tensor in tensors.items() if tensor.dtype == "F8_E4M3"}
    return sorted({*scaled, *stored})


def _compare(name: str, expected: Mapping[str, Part], tensors: Tensors) -> str:
    for part, (dtypes, shape) in expected.items():
        tensor = tensors.get(f"{name}.{part}")
        if tensor is None:
            return f"{part} is missing"
        if tensor.dtype not in dtypes or tensor.shape != shape:
            return f"{part} is {tensor.dtype} {list(tensor.shape)}, not {' or '.join(dtypes)} {list(shape)}"
    return ""


def _found(
    name: str,
    weights: int,
    expected: Mapping[str, object],
    tensors: Tensors,
    scale: str,
    problem: str,
    damage: str = "",
) -> PublishedLayer:
    present = tuple(f"{name}.{part}" for part in expected if f"{name}.{part}" in tensors)
    scales = tuple(tensors[part] for part in present if part == f"{name}.{scale}")
    return PublishedLayer(name, weights, present, scales, problem, damage)


def _within(index: StoredTensor, groups: int) -> bool:
    values = _values(index, "<i4")
    return bool(values.size == 0 or (values.min() >= 0 and values.max() < groups))


def _values(tensor: StoredTensor, kind: str) -> np.ndarray:
    import numpy as np

    count = tensor.size_bytes // np.dtype(kind).itemsize
    return np.fromfile(tensor.file, dtype=kind, count=count, offset=tensor.start)


def _number(config: Config, *names: str) -> int:
    """A required integer setting, under the first name that is present."""
    for name in names:
        if isinstance(config.get(name), int):
            return int(config[name])
    raise QuantizationUncovered(
        f"quantization_config has no {names[0]!r}.", "Ask the publisher for a sound release.", "config.json"
    )


def _size(config: Config, *names: str) -> int | None:
    size = _number(config, *names)
    return size if size > 0 else None


FORMATS: dict[str, Callable[[Config, Tensors], Reading]] = {
    "gptq": _gptq,
    "awq": _awq,
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "compressed-tensors": _compressed_tensors,
}
"""Layout functions by `quant_method` of config.json."""
