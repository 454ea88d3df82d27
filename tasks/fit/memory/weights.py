"""Bytes of a model's weights on one GPU, under a scheme, cut by tensor and pipeline parallelism.

How tensors are cut is vLLM's way, which SGLang shares: the vocabulary and every Linear by rows or columns,
heads of keys and values repeated where there are fewer than GPUs, norms, routers and MLA's
down-projections on every GPU.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property
from typing import Literal, NamedTuple

from tasks.fit.memory.gguf_sizes import gguf_bytes
from tasks.fit.model.architectures import kv_heads, required
from tasks.fit.model.parts import EMBEDDING, HEAD, Piece
from tasks.fit.model.published_scheme import published_scheme
from tasks.fit.model.shape import ModelShape
from tasks.schemes import Scheme
from tasks.schemes import scheme as find_scheme
from tasks.source.headers import BITS
from weighbridge.errors import ArchitectureUnknown

KEYS_VALUES = re.compile(r"\.(k_proj|v_proj)\.")
FUSED_QKV = re.compile(r"\.(qkv_proj|query_key_value|c_attn|Wqkv)\.")
REPEATED = re.compile(
    r"norm|\.(gate|router|shared_expert_gate|q_a_proj|kv_a_proj_with_mqa|e_score_correction_bias)(\.|$)"
    r"|\.(o_proj|down_proj|c_proj|out_proj)\.bias$"
)
BY_COLUMNS = re.compile(r"\.(o_proj|down_proj|c_proj|out_proj)\.weight$")
PADDED_VOCABULARY = 64
"""vLLM pads the vocabulary to a multiple of it (vocab_parallel_embedding.py, DEFAULT_VOCAB_PADDING_SIZE)."""
SHAPE_BYTES = 16
WORD_BITS = 32

Rule = Literal["cut", "vocabulary", "keys", "qkv", "repeated"]


class Cut(NamedTuple):
    """Pieces of the same kind on one stage; how many there are is counted beside it."""

    shape: tuple[int, ...]
    dtype: str
    linear: bool
    by_columns: bool
    rule: Rule
    name: str
    """Only of pieces whose name decides their bytes: GGUF mixes types by name and layer."""


class Stage(NamedTuple):
    """One of the pipeline's stages: which layers it holds, and whether it embeds or answers."""

    first_layer: int
    end_layer: int
    embeds: bool
    answers: bool


class Weights:
    """A model's weights, ready to be cut.

    Args:
        shape: from `shape_of`.
    """

    def __init__(self, shape: ModelShape) -> None:
        self.shape = shape
        self._counted: dict[tuple[Stage, bool], Counter[Cut]] = {}
        self._bytes: dict[tuple[str, int, Stage], int] = {}
        self._groups: dict[str, int | None] = {}

    @cached_property
    def published(self) -> Scheme | None:
        """The scheme that the release was published in."""
        try:
            return published_scheme(self.shape.config)
        except ArchitectureUnknown:
            if self.shape.origin != "headers":
                raise
            return None  # the files say how large it is, whatever the method

    def gpu_bytes(self, scheme: Scheme, tp: int, stage: Stage) -> int:
        """Bytes on one GPU of a stage.

        Args:
            scheme: what to store it as; of a release that is quantized already, any: it stays as published.
            tp: GPUs that share each tensor.
            stage: from `stages`.

        Raises:
            ArchitectureUnknown: no group size of the scheme divides a layer's width; the layer is named.
        """
        key = (scheme.name, tp, stage)
        if key not in self._bytes:
            self._bytes[key] = self._measure(scheme, tp, stage)
        return self._bytes[key]

    def total_bytes(self, scheme: Scheme) -> int:
        """Bytes of the whole model on one GPU, its vocabulary padded.

        Raises:
            ArchitectureUnknown: as `gpu_bytes`.
        """
        return self.gpu_bytes(scheme, 1, Stage(0, self.shape.layers, True, True))

    def dense_bytes(self, bytes_each: int) -> int:
        """Bytes of the weights when every number takes the same."""
        return self.shape.parameters * bytes_each

    def group_size(self, scheme: Scheme) -> int | None:
        """The scheme's group size for this model, None where it has none.

        Raises:
            ArchitectureUnknown: none divides every layer's width; the layer is named.
        """
        if scheme.name not in self._groups:
            self._groups[scheme.name] = self._choose_group(scheme)
        return self._groups[scheme.name]

    def _choose_group(self, scheme: Scheme) -> int | None:
        if not scheme.group_sizes:
            return None
        layers = [piece for piece in self.linear if not scheme.keeps(piece.name)]
        for size in scheme.group_sizes:
            if all(layer.shape[-1] % size == 0 for layer in layers):
                return size
        odd = next(layer for layer in layers if layer.shape[-1] % scheme.group_sizes[-1])
        sizes = ", ".join(str(size) for size in scheme.group_sizes)
        raise ArchitectureUnknown(
            f"{scheme.name} needs a group size that divides every layer's width, and {odd.name} is {odd.shape[-1]} "
            f"wide (tried {sizes}).",
            "Leave this scheme out of the line; int8 has no groups.",
        )

    @cached_property
    def linear(self) -> tuple[Piece, ...]:
        """Pieces that a scheme touches."""
        return tuple(piece for piece in self.shape.pieces if piece.is_linear)

    @cached_property
    def _by_columns(self) -> dict[int, str]:
        """Widths that tensor parallelism cuts, each with the first piece that has it."""
        found: dict[int, str] = {}
        for piece in self.linear:
            if BY_COLUMNS.search(piece.name):
                found.setdefault(piece.shape[-1], piece.name)
        return found

    def odd_cut(self, scheme: Scheme, tp: int) -> str:
        """Why a scheme's groups do not survive the cut by columns, or nothing.

        Engines refuse a layer whose part on one GPU is no whole number of groups (vLLM: "not divisible by
        group_size").
        """
        group = self.group_size(self.published or scheme) if not self.shape.quantized_by or self.published else None
        if tp == 1 or group is None:
            return ""
        for width, name in self._by_columns.items():
            if width // tp % group:
                return f"TP {tp} leaves {width // tp} columns of {name}, no multiple of group {group}"
        return ""

    def _measure(self, scheme: Scheme, tp: int, stage: Stage) -> int:
        quantized = self.shape.quantized_by is not None
        if quantized:
            # Headers tell what lies in the files; a config alone tells how it was packed.
            scheme = self.published if self.published and self.shape.origin != "headers" else scheme
            if self.shape.origin == "headers":
                scheme = find_scheme("bf16")
        group = self.group_size(scheme)
        total = 0.0
        for cut, copies in self._count(stage, scheme.is_gguf or bool(scheme.kept)).items():
            share = self._share(cut.rule, tp)
            padded = _padded(cut) if not scheme.is_gguf else cut
            total += piece_bytes(padded, scheme, group, self.shape) * copies * share
        return int(total)

    def _share(self, rule: Rule, tp: int) -> float:
        """What one of `tp` GPUs holds of a tensor."""
        if tp == 1 or rule == "repeated":
            return 1.0
        if rule in ("cut", "vocabulary"):
            return 1 / tp
        text = self.shape.text
        keys = max(1 / tp, 1 / kv_heads(text))
        if rule == "keys":
            return keys
        queries, both = required(text, "num_attention_heads"), 2 * kv_heads(text)
        return (queries / tp + both * keys) / (queries + both)

    def _count(self, stage: Stage, named: bool) -> Counter[Cut]:
        key = (stage, named)
        if key not in self._counted:
            counted: Counter[Cut] = Counter()
            for piece in self.shape.pieces:
                if _on_stage(piece, stage, tied=self._tied):
                    name = piece.name if named else ""
                    by_columns = bool(BY_COLUMNS.search(piece.name))
                    cut = Cut(piece.shape, piece.dtype, piece.is_linear, by_columns, _rule(piece), name)
                    counted[cut] += piece.copies
            self._counted[key] = counted
        return self._counted[key]

    @cached_property
    def _tied(self) -> bool:
        return not any(HEAD.search(piece.name) for piece in self.shape.pieces)


def stages(layers: int, pp: int) -> tuple[Stage, ...]:
    """The pipeline's stages.

    Layers that cannot be shared evenly go to the stages before the last, which has the head already (vLLM,
    distributed/utils.py, get_pp_indices).
    """
    each, left = divmod(layers, pp)
    counts = [each] * pp
    for place in range(2, left + 2):
        counts[-place] += 1
    made, start = [], 0
    for rank, count in enumerate(counts):
        made.append(Stage(start, start + count, rank == 0, rank == pp - 1))
        start += count
    return tuple(made)


def piece_bytes(cut: Cut, scheme: Scheme, group: int | None, shape: ModelShape) -> float:
    """Bytes of one tensor under a scheme."""
    elements = 1
    for side in cut.shape:
        elements *= side
    if scheme.is_gguf:
        return gguf_bytes(cut.name, cut.shape, scheme.name, shape)
    if not scheme.changes_weights or not cut.linear or scheme.keeps(cut.name):
        return elements * BITS[cut.dtype] / 8
    width = cut.shape[-1]
    rows = elements // width
    row_bytes = width * scheme.weight_bits / 8
    if scheme.packed:
        row_bytes = -(-width // (WORD_BITS // scheme.weight_bits)) * (WORD_BITS // 8)
    if scheme.block:
        return rows * row_bytes + -(-rows // scheme.block[0]) * -(-width // scheme.block[1]) * 4
    scales = rows * (width // group if group else 1)
    zeros = scales * scheme.weight_bits / 8 if not scheme.symmetric else 0
    return rows * row_bytes + scales * scheme.scale_bytes + zeros + (SHAPE_BYTES if scheme.packed else 0)


def _on_stage(piece: Piece, stage: Stage, *, tied: bool) -> bool:
    if piece.layer is not None:
        return stage.first_layer <= piece.layer < stage.end_layer
    if HEAD.search(piece.name):
        return stage.answers
    if EMBEDDING.search(piece.name):
        return stage.embeds or (tied and stage.answers)
    return stage.embeds if piece.is_tower else stage.answers


def _rule(piece: Piece) -> Rule:
    if HEAD.search(piece.name) or EMBEDDING.search(piece.name):
        return "vocabulary"
    if REPEATED.search(piece.name):
        return "repeated"
    if not piece.is_tower and KEYS_VALUES.search(piece.name):
        return "keys"
    if not piece.is_tower and FUSED_QKV.search(piece.name):
        return "qkv"
    return "cut"


def _padded(cut: Cut) -> Cut:
    if cut.rule != "vocabulary" or len(cut.shape) != 2:
        return cut
    rows = -(-cut.shape[0] // PADDED_VOCABULARY) * PADDED_VOCABULARY
    return cut._replace(shape=(rows, cut.shape[1]))
