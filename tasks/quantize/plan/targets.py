"""Choose the weights to quantize, by names and shapes alone.

A layer is a target if its weight is a 2-D float `*.weight` of a Linear module, experts included. Others are recognised
by name, because a checkpoint contains no other sign: embeddings and the head (tied in many models, and packing one
breaks both), norms, expert routers (a rounded router selects other experts), and vision and audio towers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from pydantic import BaseModel, ConfigDict

from tasks.quantize.tensors import FLOATS, StoredTensor
from weighbridge.errors import QuantizationUncovered

# The first match gives the reason. Patterns match whole components of the dotted name: `gate_proj` is not `gate`.
_NOT_TARGETS = (
    (
        re.compile(r"(^|\.)(lm_head|embed_out|output)$"),
        "head",
        "the head is kept: it is often tied to the embedding",
    ),
    (
        re.compile(r"(^|\.)(\w*embed\w*|wte|wpe|embeddings\.\w+)$"),
        "embedding",
        "an embedding is looked up, not multiplied",
    ),
    (re.compile(r"norm\d*$|(^|\.)ln_\w+$"), "norm", "a norm is not a Linear layer"),
    (
        re.compile(r"(^|\.)(gate|router|shared_expert_gate|router\.\w+)$"),
        "router",
        "a rounded router sends tokens to other experts",
    ),
    (re.compile(r"(^|\.)(vision|visual|audio|multi_modal|image)\w*\."), "tower", "a vision or audio tower is not text"),
)
# A 3-D tensor holds a layer's experts, unless it is a convolution or part of a tower.
_NOT_FUSED = re.compile(r"conv|(^|\.)(vision|visual|audio|multi_modal|image)\w*\.")
_EXPERTS = re.compile(r"(^|\.)experts\.")
# These models store projections transposed, as Conv1D, which loaders of compressed-tensors do not support.
CONV1D_MODELS = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}


class Layer(BaseModel):
    """A Linear layer to quantize."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Without `.weight`."""
    shape: tuple[int, int]
    """Output rows, input columns."""
    dtype: str
    """Of the source's weight: BF16, F16 or F32."""
    source_bytes: int


class Ignored(BaseModel):
    """A weight that is kept as published."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Without `.weight`."""
    reason: str
    linear_bytes: int
    """Bytes that count as Linear weights in the quantized share; 0 for embeddings and norms."""


def is_expert(name: str) -> bool:
    """Whether a layer belongs to an expert."""
    return bool(_EXPERTS.search(name))


def split_targets(
    tensors: list[StoredTensor], *, conv1d: bool, excluded: Sequence[str] = ()
) -> tuple[list[Layer], list[Ignored]]:
    """Split a release's weights into targets and kept ones.

    Args:
        tensors: all of a release.
        conv1d: the model stores its projections transposed.
        excluded: globs of layer names that the recipe keeps as published.

    Raises:
        QuantizationUncovered: a glob matches no layer, or a tensor holds several matrices, which no loader of packed
            weights splits.
    """
    layers: list[Layer] = []
    ignored: list[Ignored] = []
    unused = set(excluded)
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        _refuse_fused(tensor)
        name, _, kind = tensor.name.rpartition(".")
        if kind != "weight" or name.endswith("norm"):
            continue
        if len(tensor.shape) != 2 or tensor.dtype not in FLOATS:
            ignored.append(Ignored(name=name, reason="it is not a matrix of floats", linear_bytes=0))
            continue
        reason, linear = _reason_against(name, conv1d)
        matching = {glob for glob in excluded if fnmatchcase(name, glob)}
        unused -= matching
        if matching and not reason:
            reason, linear = "the recipe excludes it", True
        if reason:
            ignored.append(Ignored(name=name, reason=reason, linear_bytes=tensor.size_bytes if linear else 0))
        else:
            rows, columns = tensor.shape
            layers.append(Layer(name=name, shape=(rows, columns), dtype=tensor.dtype, source_bytes=tensor.size_bytes))
    if unused:
        raise QuantizationUncovered(
            f"The recipe excludes {sorted(unused)[0]!r}, which matches no layer.",
            f"Name layers as the files do, such as {layers[0].name if layers else 'model.layers.0.mlp.down_proj'}.",
            where=sorted(unused)[0],
        )
    return layers, ignored


def _reason_against(name: str, conv1d: bool) -> tuple[str, bool]:
    """Why a 2-D weight is not a target (empty if it is), and whether it counts as a Linear weight."""
    for pattern, kind, reason in _NOT_TARGETS:
        if pattern.search(name):
            return reason, kind in ("head", "router", "tower")
    return ("the model stores it transposed, as Conv1D", True) if conv1d else ("", True)


def _refuse_fused(tensor: StoredTensor) -> None:
    """Refuse experts fused in one tensor: most of the model would silently stay unquantized."""
    if tensor.dtype not in FLOATS or _NOT_FUSED.search(tensor.name):
        return
    kind = tensor.name.rpartition(".")[2]
    experts_without_module = len(tensor.shape) == 2 and kind != "weight" and _EXPERTS.search(tensor.name)
    if len(tensor.shape) == 3 or (experts_without_module and not kind.endswith("bias")):
        raise QuantizationUncovered(
            f"{tensor.name} holds all experts of a layer in one tensor of {len(tensor.shape)} dimensions.",
            "Take a release with a matrix for each expert (`experts.0.up_proj.weight`), or serve this one as bf16.",
            where=tensor.file.name,
        )
