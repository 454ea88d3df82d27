"""Bytes of a model's weights on one GPU, under a scheme, with tensor and pipeline parallelism.

Tensors are cut as in vLLM and SGLang: the vocabulary and every Linear by rows or columns; key and value heads are
repeated if there are fewer of them than GPUs; norms, routers and MLA's down-projections are on every GPU.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property
from typing import Literal, NamedTuple

from tasks.fit.memory.gguf_sizes import gguf_bytes
from tasks.fit.model.architectures import kv_heads, required
from tasks.fit.model.parts import EMBEDDING, HEAD, Part
from tasks.fit.model.published_scheme import published_scheme
from tasks.fit.model.shape import ModelShape
from tasks.schemes import AS_PUBLISHED, Scheme
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
    """Parts of the same kind on one stage, counted in a Counter."""

    shape: tuple[int, ...]
    dtype: str
    linear: bool
    by_columns: bool
    rule: Rule
    name: str
    """Set only if the name decides the bytes: GGUF mixes types by name and layer."""


class Stage(NamedTuple):
    """One pipeline stage: its layers, and whether it has the embedding or the head."""

    first_layer: int
    end_layer: int
    has_embedding: bool
    has_head: bool


class Weights:
    """A model's weights, for any scheme and parallelism.

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
            return None  # the files' headers show its size, whatever the method

    def gpu_bytes(self, scheme: Scheme, tp: int, stage: Stage) -> int:
        """Bytes on one GPU of a stage.

        Args:
            scheme: how to store the weights; ignored for a release that is quantized already.
            tp: tensor parallelism.
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
        """Bytes of the weights if every number takes `bytes_each`."""
        return self.shape.parameters * bytes_each

    def group_size(self, scheme: Scheme) -> int | None:
        """Choose the scheme's group size for this model; None if it has no groups.

        Raises:
            ArchitectureUnknown: none divides every layer's width; the layer is named.
        """
        if scheme.name not in self._groups:
            self._groups[scheme.name] = self._choose_group(scheme)
        return self._groups[scheme.name]

    def _choose_group(self, scheme: Scheme) -> int | None:
        if not scheme.group_sizes:
            return None
        layers = [part for part in self.linear if not scheme.keeps(part.name)]
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
    def linear(self) -> tuple[Part, ...]:
        """Parts that a scheme quantizes."""
        return tuple(part for part in self.shape.parts if part.is_linear)

    @cached_property
    def _by_columns(self) -> dict[int, str]:
        """Widths that tensor parallelism cuts, each with the first part that has it."""
        found: dict[int, str] = {}
        for part in self.linear:
            if BY_COLUMNS.search(part.name):
                found.setdefault(part.shape[-1], part.name)
        return found

    def group_split_reason(self, scheme: Scheme, tp: int) -> str:
        """Why tensor parallelism would split a scheme's groups; empty if it does not.

        Engines refuse a layer whose share on one GPU is not a whole number of groups (vLLM: "not divisible by
        group_size").
        """
        group = self.group_size(self.published or scheme) if not self.shape.quantized_by or self.published else None
        if tp == 1 or group is None:
            return ""
        for width, name in self._by_columns.items():
            if width // tp % group:
                return f"TP {tp} leaves {width // tp} columns of {name}, not a multiple of group {group}"
        return ""

    def _measure(self, scheme: Scheme, tp: int, stage: Stage) -> int:
        quantized = self.shape.quantized_by is not None
        if quantized:
            # Headers describe the files themselves; a config alone says only how they were packed.
            scheme = self.published if self.published and self.shape.origin != "headers" else scheme
            if self.shape.origin == "headers":
                scheme = find_scheme(AS_PUBLISHED)
        group = self.group_size(scheme)
        total = 0.0
        for cut, copies in self._count(stage, scheme.is_gguf or bool(scheme.kept)).items():
            share = self._share(cut.rule, tp)
            padded = _padded(cut) if not scheme.is_gguf else cut
            total += part_bytes(padded, scheme, group, self.shape) * copies * share
        return int(total)

    def _share(self, rule: Rule, tp: int) -> float:
        """Share of a tensor that one of `tp` GPUs holds."""
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
            for part in self.shape.parts:
                if _on_stage(part, stage, tied=self._tied):
                    name = part.name if named else ""
                    by_columns = bool(BY_COLUMNS.search(part.name))
                    cut = Cut(part.shape, part.dtype, part.is_linear, by_columns, _rule(part), name)
                    counted[cut] += part.copies
            self._counted[key] = counted
        return self._counted[key]

    @cached_property
    def _tied(self) -> bool:
        return not any(HEAD.search(part.name) for part in self.shape.parts)


def stages(layers: int, pp: int) -> tuple[Stage, ...]:
    """Split the layers into pipeline stages.

    Layers left over go to the stages before the last, which has the head already (vLLM, distributed/utils.py,
    get_pp_indices).
    """
    each, left = divmod(layers, pp)
    counts = [each] * pp
    for place in range(2, left + 2):
        counts[-place] += 1
    split, start = [], 0
    for rank, count in enumerate(counts):
        split.append(Stage(start, start + count, rank == 0, rank == pp - 1))
        start += count
    return tuple(split)


def part_bytes(cut: Cut, scheme: Scheme, group: int | None, shape: ModelShape) -> float:
    """Bytes of one tensor under a scheme."""
    elements = 1
    for side in cut.shape:
        elements *= side
    if scheme.gguf:
        return gguf_bytes(cut.name, cut.shape, scheme.gguf, shape)
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


def _on_stage(part: Part, stage: Stage, *, tied: bool) -> bool:
    if part.layer is not None:
        return stage.first_layer <= part.layer < stage.end_layer
    if HEAD.search(part.name):
        return stage.has_head
    if EMBEDDING.search(part.name):
        return stage.has_embedding or (tied and stage.has_head)
    return stage.has_embedding if part.is_tower else stage.has_head


def _rule(part: Part) -> Rule:
    if HEAD.search(part.name) or EMBEDDING.search(part.name):
        return "vocabulary"
    if REPEATED.search(part.name):
        return "repeated"
    if not part.is_tower and KEYS_VALUES.search(part.name):
        return "keys"
    if not part.is_tower and FUSED_QKV.search(part.name):
        return "qkv"
    return "cut"


def _padded(cut: Cut) -> Cut:
    if cut.rule != "vocabulary" or len(cut.shape) != 2:
        return cut
    rows = -(-cut.shape[0] // PADDED_VOCABULARY) * PADDED_VOCABULARY
    return cut._replace(shape=(rows, cut.shape[1]))
