"""Which weights are quantized and which stay, told from names and shapes alone.

A layer is a target when its weight is a 2-D float `*.weight` that a Linear module multiplies with, the experts of a
mixture among them. Names tell the others apart, because nothing else in a checkpoint does: embeddings and the head
(tied to each other in many models, and packing one breaks both), norms, the routers of experts (a rounded router
sends tokens elsewhere), vision and audio towers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from pydantic import BaseModel, ConfigDict

from tasks.quantize.tensors import FLOATS, StoredTensor
from weighbridge.errors import QuantizationUncovered

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
# A tensor of three dimensions is a layer's experts, unless it is a convolution or belongs to a tower.
_NOT_FUSED = re.compile(r"conv|(^|\.)(vision|visual|audio|multi_modal|image)\w*\.")
_EXPERTS = re.compile(r"(^|\.)experts\.")
# These publish their projections transposed, as Conv1D, which no loader of compressed-tensors looks for.
CONV1D_MODELS = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}


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


def is_expert(name: str) -> bool:
    """Whether a layer is one of a mixture's experts."""
    return bool(_EXPERTS.search(name))


def split_targets(
    tensors: list[StoredTensor], *, conv1d: bool, excluded: Sequence[str] = ()
) -> tuple[list[Layer], list[Ignored]]:
    """Tell targets from what stays.

    Args:
        tensors: all of a release.
        conv1d: the model stores its projections transposed.
        left_alone: globs over names of layers that somebody wants as they are.

    Raises:
        QuantizationUncovered: a glob fits no layer's name, or a tensor holds several matrices at once, which no
            loader of packed weights takes apart.
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
            ignored.append(Ignored(name=name, reason="it is no matrix of floats", linear_bytes=0))
            continue
        reason, linear = _reason_against(name, conv1d)
        fitting = {glob for glob in excluded if fnmatchcase(name, glob)}
        unused -= fitting
        if fitting and not reason:
            reason, linear = "the recipe leaves it alone", True
        if reason:
            ignored.append(Ignored(name=name, reason=reason, linear_bytes=tensor.size_bytes if linear else 0))
        else:
            rows, columns = tensor.shape
            layers.append(Layer(name=name, shape=(rows, columns), dtype=tensor.dtype, source_bytes=tensor.size_bytes))
    if unused:
        raise QuantizationUncovered(
            f"The recipe leaves {sorted(unused)[0]!r} alone, and no layer is called so.",
            f"Name layers as the files do, such as {layers[0].name if layers else 'model.layers.0.mlp.down_proj'}.",
            where=sorted(unused)[0],
        )
    return layers, ignored


def _reason_against(name: str, conv1d: bool) -> tuple[str, bool]:
    """Why a 2-D weight is no target ("" if it is one), and whether it counts as a Linear weight all the same."""
    for pattern, kind, reason in _NOT_TARGETS:
        if pattern.search(name):
            return reason, kind in ("head", "router", "tower")
    return ("the model stores it transposed, as Conv1D", True) if conv1d else ("", True)


def _refuse_fused(tensor: StoredTensor) -> None:
    """Experts in one tensor would stay as they are, most of the model, and nobody would be told."""
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
