"""The recipe of a quantization, decided from `config.json` and the files' headers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from tasks.quantize.plan.ignore import ignored_modules
from tasks.quantize.plan.layouts import ExpectedTensor, Layout
from tasks.quantize.plan.roles import roles_of
from tasks.quantize.plan.targets import CONV1D_MODELS, Ignored, Layer, is_expert, keep_together, split_targets
from tasks.quantize.plan.whole import require_layers
from tasks.quantize.published.recognise import quantized_by
from tasks.quantize.tensors import StoredTensor, data_bytes, first_repeated, header_bytes, read_tensors, require_indexed
from tasks.schemes import Scheme
from tasks.source.published import read_from
from weighbridge.errors import QuantizationFailed, QuantizationUncovered, SourceRefused
from weighbridge.line import CHOOSE_NOTHING, SchemeChoice

LARGEST_KEPT_SHARE = 0.02
"""Of the Linear bytes, that layers which the scheme does not suit may keep as published."""


class Recipe(BaseModel):
    """All decisions about a quantized artifact: its layers, their layout and the method."""

    model_config = ConfigDict(frozen=True)

    counted: ClassVar[tuple[str, str]] = ("Linear layers", "Linear weight bytes")
    """Names of the counted units and of the bytes that the share refers to."""

    scheme: str
    method: str
    format: str
    weight_bits: int
    activation_bits: int
    group_size: int | None
    """Input columns that share a scale; None: one scale for each output row or block."""
    weight_type: str = "int"
    symmetric: bool = True
    block: tuple[int, int] | None = None
    """Rows and columns that share a scale."""
    layers: tuple[Layer, ...]
    ignored: tuple[Ignored, ...]
    kept_bytes: int
    """In the weight files, of all kept tensors, headers included."""

    def expected(self, layer: Layer) -> tuple[ExpectedTensor, ...]:
        """The quantized tensors of a layer, the weight first."""
        return self.layout.expected(layer.name, layer.dtype, layer.shape)

    @property
    def layout(self) -> Layout:
        """The file layout of a quantized layer."""
        return Layout(
            format=self.format,
            weight_bits=self.weight_bits,
            group_size=self.group_size,
            block=self.block,
            symmetric=self.symmetric,
        )

    @property
    def granularity(self) -> str:
        """What shares a scale, in words."""
        if self.block:
            return f"blocks of {self.block[0]} × {self.block[1]}"
        return f"groups of {self.group_size}" if self.group_size else "one scale a row"

    @property
    def widest_inputs(self) -> int:
        """Input columns of the widest planned layer."""
        return max(layer.shape[1] for layer in self.layers)

    @property
    def predicted_bytes(self) -> int:
        """Size of the weight files to be written."""
        tensors = (tensor for layer in self.layers for tensor in self.expected(layer))
        return self.kept_bytes + sum(
            data_bytes(tensor.dtype, tensor.shape) + header_bytes(tensor.name, tensor.dtype, tensor.shape)
            for tensor in tensors
        )

    @property
    def linear_bytes(self) -> int:
        """Bytes of all Linear weights of the source, quantized or not."""
        return sum(layer.source_bytes for layer in self.layers) + sum(ignored.linear_bytes for ignored in self.ignored)

    @property
    def ignore(self) -> tuple[str, ...]:
        """For `quantization_config.ignore`: names as in the files, and patterns that hold for loaders' names too."""
        return ignored_modules([layer.name for layer in self.layers], self.ignored)


def make_recipe(
    folder: Path, scheme: Scheme, method: str | None = None, choice: SchemeChoice = CHOOSE_NOTHING
) -> Recipe:
    """Plan a scheme for a release.

    Args:
        folder: `config.json` and safetensors files.
        scheme: must change weights.
        method: a file of `tasks/quantize/methods/`; the scheme's cheapest by default.
        choice: a group size or excluded layers, in place of the planned ones.

    Raises:
        QuantizationUncovered: nothing to quantize, already quantized, experts that would not load, or a layer that no
            group size or block divides.
        QuantizationFailed: a file is missing, truncated or unreadable.
    """
    config = unquantized_config(folder)
    tensors = read_tensors(folder)
    repeated = first_repeated(tensors)
    if repeated:
        raise QuantizationFailed(
            f"{repeated.name} is in more than one file.",
            "Ask the publisher for a sound release.",
            where=str(repeated.file),
        )
    _refuse_quantized(quantized_by(folder, config, tensors), folder)
    require_indexed(folder, tensors)
    require_layers(config, [tensor.name for tensor in tensors], folder)
    roles = roles_of(config, [(tensor.name, tensor.shape) for tensor in tensors])
    conv1d = config.get("model_type") in CONV1D_MODELS
    layers, ignored = split_targets(tensors, roles, conv1d=conv1d, excluded=choice.ignore)
    layers, ignored = keep_together(layers, ignored, {})
    layers, ignored = _keep_unsuited(layers, ignored, scheme, choice.group_size)
    if not layers:
        examples = "; ".join(f"{kept.name}: {kept.reason}" for kept in ignored[:3]) or "no 2-D weight at all"
        raise QuantizationUncovered(
            f"Nothing in the release is a Linear weight that {scheme.name} covers ({examples}).",
            "Name q8-0 or q4-k-m in the line, if llama.cpp knows the architecture, or serve it as bf16.",
            where=str(folder),
        )
    _require_loadable_experts(layers, scheme)
    return Recipe(
        scheme=scheme.name,
        method=method or scheme.methods[0],
        format=scheme.format,
        weight_bits=scheme.weight_bits,
        activation_bits=scheme.activation_bits,
        group_size=_group_size(layers, scheme, choice.group_size),
        weight_type=scheme.weight_type,
        symmetric=scheme.symmetric,
        block=_block(layers, scheme),
        layers=tuple(layers),
        ignored=tuple(ignored),
        kept_bytes=_kept_bytes(tensors, layers),
    )


def unquantized_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of an unquantized release.

    Raises:
        QuantizationFailed: it is missing or not JSON.
        QuantizationUncovered: the release is already quantized.
    """
    config = read_config(folder)
    _refuse_quantized(quantized_by(folder, config, ()), folder)
    return config


def _refuse_quantized(kind: str, folder: Path) -> None:
    if kind:
        raise QuantizationUncovered(
            f"The release is quantized already, by {kind}.",
            "Name bf16 in the line, which serves it as published, or the unquantized release.",
            where=str(folder),
        )


def _keep_unsuited(
    layers: list[Layer], ignored: list[Ignored], scheme: Scheme, chosen: int | None
) -> tuple[list[Layer], list[Ignored]]:
    """Keep the few layers that no group or block divides as published, rather than refuse the whole release."""
    sizes = scheme.group_sizes if chosen is None else (chosen,)
    unsuited: dict[str, str] = {}
    for layer in layers:
        if scheme.block and (layer.shape[0] % scheme.block[0] or layer.shape[1] % scheme.block[1]):
            unsuited[layer.name] = "no block divides it"
        elif scheme.group_sizes and layer.shape[1] % min(sizes):
            unsuited[layer.name] = "no group divides its width"
    if not unsuited:
        return layers, ignored
    still, kept = keep_together(layers, ignored, unsuited)
    before, after = (sum(layer.source_bytes for layer in some) for some in (layers, still))
    return (still, kept) if before - after <= LARGEST_KEPT_SHARE * before else (layers, ignored)


def read_config(folder: Path) -> dict[str, Any]:
    """A release's `config.json`.

    Raises:
        QuantizationFailed: it is missing or not JSON.
    """
    path = folder / "config.json"
    try:
        config = read_from(folder, path.name)
    except SourceRefused as error:
        raise QuantizationFailed(f"It cannot be read: {error.what}", "Download the release again.", str(path)) from None
    if not config:
        raise QuantizationFailed("config.json cannot be read: no such file.", "Download the release again.", str(path))
    return config


def _require_loadable_experts(layers: list[Layer], scheme: Scheme) -> None:
    """Refuse experts in a scheme that would be written but never load.

    transformers 5.17 fuses a layer's experts while loading, and decompresses them first only if they are packed
    without zero points, or FP8 with a scale a row (`DecompressExperts` in its integrations/compressed_tensors.py).
    """
    loadable = scheme.symmetric and not scheme.block and scheme.format in ("pack-quantized", "float-quantized")
    expert = next((layer for layer in layers if is_expert(layer.name)), None)
    if expert and not loadable:
        raise QuantizationUncovered(
            f"{expert.name} belongs to a mixture of experts, and transformers 5.17 loads no experts in {scheme.name}.",
            "Name int8-w8a16, int4 or fp8 in the line.",
            where=expert.name,
        )


def _group_size(layers: list[Layer], scheme: Scheme, chosen: int | None) -> int | None:
    if chosen is not None and not scheme.group_sizes:
        raise QuantizationUncovered(
            f"The recipe asks for groups of {chosen}, and {scheme.name} scales whole rows or blocks.",
            "Leave group_size out, or name int4 or int4-asym.",
            where="group_size",
        )
    sizes = scheme.group_sizes if chosen is None else (chosen,)
    if not sizes:
        return None
    for size in sizes:
        if all(layer.shape[1] % size == 0 for layer in layers):
            return size
    smallest = min(sizes)
    layer = next(layer for layer in layers if layer.shape[1] % smallest)
    raise QuantizationUncovered(
        f"{layer.name} is {layer.shape[1]} wide, and no group size of {scheme.name} divides that "
        f"({', '.join(map(str, sizes))}).",
        "Name int8 or int8-w8a16 in the line, which scale whole rows; or keep these layers as published, by `ignore` "
        "of the scheme's recipe (`quantize.schemes` in the line).",
        where=layer.name,
    )


def _block(layers: list[Layer], scheme: Scheme) -> tuple[int, int] | None:
    """The scheme's block, which must divide every layer: kernels split fused layers and activations at its edges."""
    if not scheme.block:
        return None
    height, width = scheme.block
    for layer in layers:
        if layer.shape[0] % height or layer.shape[1] % width:
            raise QuantizationUncovered(
                f"{layer.name} is {layer.shape[0]} × {layer.shape[1]}: blocks of {height} × {width} do not divide it.",
                "Name fp8 in the line, which scales whole rows; or keep these layers as published, by `ignore` of the "
                "scheme's recipe (`quantize.schemes` in the line).",
                where=layer.name,
            )
    return scheme.block


def _kept_bytes(tensors: list[StoredTensor], layers: list[Layer]) -> int:
    planned = {f"{layer.name}.weight" for layer in layers}
    kept = [tensor for tensor in tensors if tensor.name not in planned]
    length_fields = 8 * len({tensor.file for tensor in tensors})
    return length_fields + sum(
        tensor.size_bytes + header_bytes(tensor.name, tensor.dtype, tensor.shape) for tensor in kept
    )
