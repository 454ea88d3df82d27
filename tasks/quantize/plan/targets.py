"""Choose the weights to quantize, by names and shapes alone.

A layer is a target if its weight is a 2-D float `*.weight` of a Linear module, experts included, and `roles.py` gives
it no other role. What engines compute in one product (query, key and value) is quantized together or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from pydantic import BaseModel, ConfigDict

from tasks.quantize.plan.roles import LINEAR, REASONS, Roles
from tasks.quantize.tensors import FLOATS, StoredTensor
from weighbridge.errors import QuantizationUncovered

# A 3-D tensor holds a layer's experts if its name says so, or if the model has experts and it is in their place.
_FUSED = re.compile(r"experts|(^|\.)(mlp|ffn|feed_forward|moe|block_sparse_moe)\.(input|output)_linear")
_CONVOLUTION = re.compile(r"conv")
_EXPERTS = re.compile(r"(^|\.)experts\.")
# Layers that vLLM and SGLang join into one (`packed_modules_mapping`); both refuse a joined layer of which a part is
# quantized.
_TOGETHER = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("in_proj_qkv", "in_proj_z"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
)
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
    tensors: list[StoredTensor], roles: Roles, *, conv1d: bool, excluded: Sequence[str] = ()
) -> tuple[list[Layer], list[Ignored]]:
    """Split a release's weights into targets and kept ones.

    Args:
        tensors: all of a release.
        roles: of its weights.
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
        _refuse_fused(tensor, roles)
        name, _, kind = tensor.name.rpartition(".")
        if kind != "weight" or name.endswith("norm"):
            continue
        if len(tensor.shape) != 2 or tensor.dtype not in FLOATS:
            ignored.append(Ignored(name=name, reason="it is not a matrix of floats", linear_bytes=0))
            continue
        reason, linear = _reason_against(name, tensor.shape, roles, conv1d)
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


def _reason_against(name: str, shape: tuple[int, ...], roles: Roles, conv1d: bool) -> tuple[str, bool]:
    """Why a 2-D weight is not a target (empty if it is), and whether it counts as a Linear weight."""
    kind = roles.kind(name, shape)
    if kind:
        return REASONS[kind], kind in LINEAR
    return ("the model stores it transposed, as Conv1D", True) if conv1d else ("", True)


def _refuse_fused(tensor: StoredTensor, roles: Roles) -> None:
    """Refuse experts fused in one tensor: most of the model would silently stay unquantized."""
    if tensor.dtype not in FLOATS or _CONVOLUTION.search(tensor.name) or roles.is_tower(tensor.name):
        return
    kind = tensor.name.rpartition(".")[2]
    experts_without_module = len(tensor.shape) == 2 and kind != "weight" and _EXPERTS.search(tensor.name)
    several = len(tensor.shape) == 3 and (_FUSED.search(tensor.name) or tensor.shape[0] in roles.experts)
    if (several or experts_without_module) and not kind.endswith("bias"):
        raise QuantizationUncovered(
            f"{tensor.name} holds all experts of a layer in one tensor of {len(tensor.shape)} dimensions.",
            "Take a release with a matrix for each expert (`experts.0.up_proj.weight`), or serve this one as bf16.",
            where=tensor.file.name,
        )


def keep_together(
    layers: list[Layer], ignored: list[Ignored], reasons: dict[str, str]
) -> tuple[list[Layer], list[Ignored]]:
    """Keep some layers as published, and with each those that engines compute in one product with it.

    Args:
        layers, ignored: the targets, and the weights that stay as published so far.
        reasons: why, by layer.
    """
    kept = {**dict.fromkeys((entry.name for entry in ignored if entry.linear_bytes), ""), **reasons}
    families = {_family(name): name for name in kept if _family(name) != name}
    still, also = [], []
    for layer in layers:
        beside = families.get(_family(layer.name))
        if layer.name not in reasons and beside is None:
            still.append(layer)
            continue
        last = (beside or "").rpartition(".")[2]
        reason = reasons.get(layer.name) or f"engines compute it together with its {last}, which stays"
        also.append(Ignored(name=layer.name, reason=reason, linear_bytes=layer.source_bytes))
    return still, sorted([*ignored, *also], key=lambda entry: entry.name)


def _family(name: str) -> str:
    """The name of the product that engines compute a layer in; the layer's own if it is alone."""
    if found := _EXPERTS.search(name):
        return name[: found.end()]
    parent, _, last = name.rpartition(".")
    group = next((number for number, group in enumerate(_TOGETHER) if last in group), None)
    return name if group is None else f"{parent}.#{group}"
