"""config.json: the fields that planning, admission and quantization read, with types and bounds."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import Field, StrictInt, StrictStr

from tasks.source.published.fields import (
    MAX_INTEGER,
    MAX_LAYERS,
    Id,
    Layers,
    Name,
    Number,
    Positions,
    Published,
    Size,
    Switch,
    read_object,
    refused,
    shown,
)

MAX_BYTES = 16 * 2**20
"""Real ones are kilobytes; those of mixed quantizations list every layer and reach megabytes."""
MAX_VALUES = 400_000
UNBOUNDED = "time_step"
"""Prefix of the fields that may be infinite: Mamba's `time_step_limit` is `[0.0, Infinity]`."""

Sizes = Size | Annotated[list[Size], Field(max_length=MAX_LAYERS)] | None
"""A width, or one a layer (Gemma 3n)."""
Block = Annotated[StrictInt, Field(ge=1, le=2**20)]
Places = Annotated[list[Layers], Field(max_length=MAX_LAYERS)] | None
Kinds = Annotated[list[Name], Field(max_length=MAX_LAYERS)] | None
Names = Annotated[list[Annotated[StrictStr, Field(max_length=1000)]], Field(max_length=MAX_VALUES)] | None
Rope = dict[str, Number | Name | Switch | list[Number] | dict[str, Number | Name | Switch | list[Number]]] | None


class QuantizedWeights(Published):
    """`weights` of a group of compressed-tensors."""

    num_bits: Annotated[StrictInt, Field(ge=1, le=32)] | None = None
    type: Name | None = None
    strategy: Name | None = None
    block_structure: Annotated[list[Block], Field(max_length=2)] | Name | None = None
    group_size: Annotated[StrictInt, Field(ge=-1, le=2**20)] | None = None
    symmetric: Switch = None


class QuantizationGroup(Published):
    """One entry of `config_groups`."""

    weights: QuantizedWeights | None = None
    input_activations: dict[str, Any] | None = None
    targets: Names = None


class Quantization(Published):
    """`quantization_config`, of any method."""

    quant_method: Name | None = None
    format: Name | None = None
    version: Name | None = None
    bits: Annotated[StrictInt, Field(ge=1, le=32)] | None = None
    group_size: Annotated[StrictInt, Field(ge=-1, le=2**20)] | None = None
    sym: Switch = None
    zero_point: Switch = None
    ignore: Names = None
    modules_to_not_convert: Names = None
    weight_block_size: Annotated[list[Block], Field(min_length=2, max_length=2)] | None = None
    config_groups: dict[str, QuantizationGroup] | None = None


class ModelConfig(Published):
    """config.json, and each model's own part of a composite one."""

    architectures: Annotated[list[Name], Field(max_length=16)] | None = None
    model_type: Name | None = None
    dtype: Name | None = None
    torch_dtype: Name | None = None
    tie_word_embeddings: Switch = None
    hidden_size: Size | None = None
    n_embd: Size | None = None
    d_model: Size | None = None
    intermediate_size: Sizes = None
    n_inner: Size | None = None
    moe_intermediate_size: Sizes = None
    vocab_size: Size | None = None
    num_hidden_layers: Layers | None = None
    n_layer: Layers | None = None
    n_layers: Layers | None = None
    num_layers: Layers | None = None
    num_attention_heads: Sizes = None
    n_head: Size | None = None
    n_heads: Size | None = None
    num_key_value_heads: Sizes = None
    head_dim: Size | None = None
    q_lora_rank: Size | None = None
    kv_lora_rank: Size | None = None
    qk_rope_head_dim: Size | None = None
    qk_nope_head_dim: Size | None = None
    v_head_dim: Size | None = None
    index_topk: Size | None = None
    num_local_experts: Sizes = None
    num_experts: Sizes = None
    n_routed_experts: Size | None = None
    moe_num_experts: Sizes = None
    n_shared_experts: Size | None = None
    moe_num_shared_experts: Size | None = None
    shared_expert_intermediate_size: Size | None = None
    shared_intermediate_size: Size | None = None
    moe_shared_expert_intermediate_size: Size | None = None
    num_experts_per_tok: Sizes = None
    experts_per_token: Sizes = None
    top_k_experts: Sizes = None
    moe_topk: Sizes = None
    first_k_dense_replace: Layers | None = None
    decoder_sparse_step: Layers | None = None
    mlp_only_layers: Places = None
    max_position_embeddings: Positions | None = None
    sliding_window: Positions | None = None
    attention_chunk_size: Positions | None = None
    max_window_layers: Layers | None = None
    num_kv_shared_layers: Layers | None = None
    sliding_window_pattern: Layers | Name | None = None
    use_sliding_window: Switch = None
    layer_types: Kinds = None
    layers_block_type: Kinds = None
    hybrid_override_pattern: Annotated[StrictStr, Field(max_length=MAX_LAYERS)] | None = None
    attn_layer_indices: Places = None
    full_attn_idxs: Places = None
    attn_layer_offset: Layers | None = None
    attn_layer_period: Layers | None = None
    full_attention_interval: Layers | None = None
    linear_conv_kernel_dim: Size | None = None
    linear_key_head_dim: Size | None = None
    linear_num_key_heads: Size | None = None
    linear_num_value_heads: Size | None = None
    linear_value_head_dim: Size | None = None
    rope_parameters: Rope = None
    rope_scaling: Rope = None
    rope_theta: Number | None = None
    rope_local_base_freq: Number | None = None
    partial_rotary_factor: Number | None = None
    image_size: Size | Annotated[list[Size], Field(max_length=2)] | None = None
    patch_size: Size | Annotated[list[Size], Field(max_length=2)] | None = None
    spatial_merge_size: Size | None = None
    init_pos_emb_height: Size | None = None
    init_pos_emb_width: Size | None = None
    merge_kernel_size: Annotated[list[Size], Field(min_length=2, max_length=2)] | Size | None = None
    vision_feature_layer: StrictInt | Annotated[list[StrictInt], Field(max_length=MAX_LAYERS)] | None = None
    bos_token_id: Id | list[Id] | None = None
    eos_token_id: Id | list[Id] | None = None
    pad_token_id: Id | list[Id] | None = None
    quantization_config: Quantization | None = None
    text_config: ModelConfig | None = None
    llm_config: ModelConfig | None = None
    language_config: ModelConfig | None = None
    vision_config: ModelConfig | None = None
    audio_config: ModelConfig | None = None


def read_config(content: bytes, file: str) -> dict[str, Any]:
    """Read config.json.

    Args:
        content: The file.
        file: Its name and release, for messages.

    Raises:
        SourceRefused: It is no JSON object, or a field has a wrong type or an impossible value.
    """
    config = read_object(content, file, MAX_BYTES, ModelConfig)
    _check_values(config, file)
    return config


def _check_values(config: dict[str, Any], file: str) -> None:
    """Bound what no model knows: the number of values, and every integer."""
    waiting: list[tuple[str, Any]] = [("", config)]
    values = 0
    while waiting:
        name, value = waiting.pop()
        values += 1
        if values > MAX_VALUES:
            raise refused(file, f"it has more than {MAX_VALUES:,} values")
        if isinstance(value, dict):
            waiting += [(str(key), part) for key, part in value.items()]
        elif isinstance(value, list):
            waiting += [(name, part) for part in value]
        elif isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise refused(file, f"`{name[:120]}` is {shown(value)}: no loader takes it")
        elif isinstance(value, float) and not math.isfinite(value) and not name.startswith(UNBOUNDED):
            raise refused(file, f"`{name[:120]}` is {value}: it must be a finite number")
