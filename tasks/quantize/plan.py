"""The recipe: which layers become what, decided from `config.json` and the files' headers alone.

A layer is a target when its weight is a 2-D float `*.weight` that a Linear module multiplies with. Names
tell the others apart, because nothing else in a checkpoint does: embeddings and the head (tied to each
other in many models, and packing one breaks both), norms, the routers of experts (a rounded router sends
tokens elsewhere), vision and audio towers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.quantize.formats import Expected, expected_tensors
from tasks.quantize.schemes import Scheme
from tasks.quantize.tensors import FLOATS, Tensor, data_bytes, first_repeated, header_bytes, read_tensors
from weighbridge.errors import QuantizationFailed, QuantizationUncovered

HEAD = "lm_head"

# First match gives the reason. Whole components of the dotted name, so that `gate_proj` is no `gate`.
_NOT_TARGETS = (
    (
        re.compile(r"(^|\.)(lm_head|embed_out|output)$"),
        "head",
        "the head stays as it is: it is often tied to the embedding",
    ),
    (
        re.compile(r"(^|\.)(\w*embed\w*|wte|wpe|embeddings\.\w+)$"),
        "embedding",
        "an embedding is looked up, not multiplied",
    ),
    (re.compile(r"norm\d*$|(^|\.)ln_\w+$"), "norm", "a norm is no Linear layer"),
    (
        re.compile(r"(^|\.)(gate|router|shared_expert_gate|router\.\w+)$"),
        "router",
        "a rounded router sends tokens to other experts",
    ),
    (re.compile(r"(^|\.)(vision|visual|audio|multi_modal|image)\w*\."), "tower", "a vision or audio tower is not text"),
)
# transformers 5 fuses a layer's experts into one 3-D parameter when it loads, and finds nothing to fuse when they are
# packed: the reload of a tiny Qwen3-MoE fails, though llm-compressor wrote it and every tensor is as planned.
_EXPERTS = re.compile(r"(^|\.)experts\.")
# These publish their projections transposed, as Conv1D, which no loader of compressed-tensors looks for.
_CONV1D_MODELS = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}


class Layer(BaseModel):
    """A Linear layer that is to be quantized."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Without `.weight`."""
    shape: tuple[int, int]
    """Output rows, input columns."""
    dtype: str
    """Of the source's weight: BF16, F16 or F32."""
    source_bytes: int


class Ignored(BaseModel):
    """A weight that stays as it is."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Without `.weight`."""
    reason: str
    linear_bytes: int
    """Bytes of it that count as Linear weights in the share quantized; 0 for embeddings and norms."""


class Recipe(BaseModel):
    """All that decides what a quantized artifact will be."""

    model_config = ConfigDict(frozen=True)

    scheme: str
    method: str
    format: str
    weight_bits: int
    activation_bits: int
    group_size: int | None
    """Input columns that share a scale; None: one scale for each output row."""
    layers: tuple[Layer, ...]
    ignored: tuple[Ignored, ...]
    kept_bytes: int
    """In the weight files, of all that stays as it is, headers included."""

    def expected(self, layer: Layer) -> tuple[Expected, ...]:
        """The tensors that a layer turns into, the weight first."""
        return expected_tensors(
            self.format, layer.name, layer.dtype, layer.shape, weight_bits=self.weight_bits, group_size=self.group_size
        )

    @property
    def predicted_bytes(self) -> int:
        """Of the weight files that will be written."""
        tensors = (tensor for layer in self.layers for tensor in self.expected(layer))
        return self.kept_bytes + sum(
            data_bytes(tensor.dtype, tensor.shape) + header_bytes(tensor.name, tensor.dtype, tensor.shape)
            for tensor in tensors
        )

    @property
    def linear_bytes(self) -> int:
        """Bytes of all Linear weights of the source, quantized or not."""
        return sum(layer.source_bytes for layer in self.layers) + sum(one.linear_bytes for one in self.ignored)

    @property
    def ignore(self) -> tuple[str, ...]:
        """Module names for `quantization_config.ignore`; the head stands there even when it is only the embedding."""
        return tuple(sorted({HEAD, *(one.name for one in self.ignored)}))


def plan(folder: Path, scheme: Scheme, method: str | None = None) -> Recipe:
    """Decide what a scheme does to a release.

    Args:
        folder: `config.json` and safetensors files.
        scheme: one that changes weights.
        method: how the numbers are found; the scheme's cheapest by default.

    Raises:
        QuantizationUncovered: nothing to quantize, quantized already, a mixture of experts, or no
            group size divides every layer's width; the layer is named.
        QuantizationFailed: a file is missing, truncated or not readable.
    """
    config = _config(folder)
    if "quantization_config" in config:
        kind = config["quantization_config"].get("quant_method", "an unnamed method")
        raise QuantizationUncovered(
            f"The release is quantized already, by {kind}.",
            "Name the unquantized release in the line.",
            where=str(folder),
        )
    tensors = read_tensors(folder)
    repeated = first_repeated(tensors)
    if repeated:
        raise QuantizationFailed(
            f"{repeated.name} is in more than one file.",
            "Ask the publisher for a sound release.",
            where=str(repeated.file),
        )
    layers, ignored = _sort_out(tensors, conv1d=config.get("model_type") in _CONV1D_MODELS)
    if not layers:
        examples = "; ".join(f"{one.name}: {one.reason}" for one in ignored[:3]) or "no 2-D weight at all"
        raise QuantizationUncovered(
            f"Nothing in the release is a Linear weight that {scheme.name} covers ({examples}).",
            "Serve it as bf16, or ask for this architecture in an issue.",
            where=str(folder),
        )
    return Recipe(
        scheme=scheme.name,
        method=method or scheme.methods[0],
        format=scheme.format,
        weight_bits=scheme.weight_bits,
        activation_bits=scheme.activation_bits,
        group_size=_group_size(layers, scheme),
        layers=tuple(layers),
        ignored=tuple(ignored),
        kept_bytes=_kept_bytes(tensors, layers),
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (FileNotFoundError, ValueError) as error:
        raise QuantizationFailed(
            f"config.json cannot be read: {error}.", "Download the release again.", where=str(path)
        ) from None
    return dict(config)


def _sort_out(tensors: list[Tensor], *, conv1d: bool) -> tuple[list[Layer], list[Ignored]]:
    layers: list[Layer] = []
    ignored: list[Ignored] = []
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        if _EXPERTS.search(tensor.name):
            raise QuantizationUncovered(
                f"{tensor.name} belongs to a mixture of experts, which is not covered yet.",
                "Serve the release as bf16: transformers 5.17 does not load packed experts.",
                where=tensor.file.name,
            )
        name, _, kind = tensor.name.rpartition(".")
        if kind != "weight" or name.endswith("norm"):
            continue
        if len(tensor.shape) != 2 or tensor.dtype not in FLOATS:
            ignored.append(Ignored(name=name, reason="it is no matrix of floats", linear_bytes=0))
            continue
        reason, linear = _reason_against(name, conv1d)
        if reason:
            ignored.append(Ignored(name=name, reason=reason, linear_bytes=tensor.size_bytes if linear else 0))
        else:
            rows, columns = tensor.shape
            layers.append(Layer(name=name, shape=(rows, columns), dtype=tensor.dtype, source_bytes=tensor.size_bytes))
    return layers, ignored


def _reason_against(name: str, conv1d: bool) -> tuple[str, bool]:
    """Why a 2-D weight is no target ("" if it is one), and whether it counts as a Linear weight all the same."""
    for pattern, kind, reason in _NOT_TARGETS:
        if pattern.search(name):
            return reason, kind in ("head", "router", "tower")
    return ("the model stores it transposed, as Conv1D", True) if conv1d else ("", True)


def _group_size(layers: list[Layer], scheme: Scheme) -> int | None:
    if not scheme.group_sizes:
        return None
    for size in scheme.group_sizes:
        if all(layer.shape[1] % size == 0 for layer in layers):
            return size
    smallest = min(scheme.group_sizes)
    layer = next(layer for layer in layers if layer.shape[1] % smallest)
    raise QuantizationUncovered(
        f"{layer.name} is {layer.shape[1]} wide, and no group size of {scheme.name} divides that "
        f"({', '.join(map(str, scheme.group_sizes))}).",
        "Name int8 or int8-w8a16 in the line, which scale whole rows.",
        where=layer.name,
    )


def _kept_bytes(tensors: list[Tensor], layers: list[Layer]) -> int:
    planned = {f"{layer.name}.weight" for layer in layers}
    kept = [tensor for tensor in tensors if tensor.name not in planned]
    length_fields = 8 * len({tensor.file for tensor in tensors})
    return length_fields + sum(
        tensor.size_bytes + header_bytes(tensor.name, tensor.dtype, tensor.shape) for tensor in kept
    )
