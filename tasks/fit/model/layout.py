"""The tensors of a known architecture, from `config.json` alone.

Names are those of published checkpoints, so that rules by name (what a scheme quantizes, how tensor parallelism cuts)
hold for every source of a layout. The experts of a layer are one part with `copies`. Towers are in `towers.py`,
architectures that only transformers knows in `from_transformers.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tasks.fit.model.architectures import Architecture, Experts, flag, head_size, kv_heads, required
from tasks.fit.model.parts import Part

Sides = Iterator[tuple[str, tuple[int, ...], int]]
"""Name, shape, copies."""


def text_layout(text: Mapping[str, Any], known: Architecture, dtype: str) -> tuple[Part, ...]:
    """Lay out the language model's tensors.

    Args:
        text: from `text_config`.
        known: its architecture's entry.
        dtype: of the weights, by its safetensors name.

    Raises:
        ArchitectureUnknown: a field is missing; it is named.
    """
    hidden, vocabulary = required(text, "hidden_size"), required(text, "vocab_size")
    parts = [Part("model.embed_tokens.weight", (vocabulary, hidden), dtype)]
    for layer in range(required(text, "num_hidden_layers")):
        parts += [
            Part(f"model.layers.{layer}.{name}", shape, dtype, copies)
            for name, shape, copies in _layer(text, known, layer)
        ]
    parts += [Part(name, shape, dtype) for name, shape, _ in _norm("model.norm", hidden, known)]
    if not text.get("tie_word_embeddings"):
        parts.append(Part("lm_head.weight", (vocabulary, hidden), dtype))
    return tuple(parts)


def sparse_layer(text: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer of a mixture has experts; the first layers, or every n-th, may be dense."""
    if layer < int(text.get("first_k_dense_replace") or 0) or layer in (text.get("mlp_only_layers") or ()):
        return False
    return (layer + 1) % int(text.get("decoder_sparse_step") or 1) == 0


def _layer(text: Mapping[str, Any], known: Architecture, layer: int) -> Sides:
    hidden = required(text, "hidden_size")
    yield from _latent_attention(text, known) if known.attention == "mla" else _attention(text, known)
    if known.experts and sparse_layer(text, layer):
        yield from _experts(text, known.experts, flag(text, known.mlp_bias))
    else:
        yield from _mlp("mlp", hidden, required(text, "intermediate_size"), known, flag(text, known.mlp_bias))
    for number in range(known.norms):
        yield from _norm(f"norm{number}", hidden, known)


def _attention(text: Mapping[str, Any], known: Architecture) -> Sides:
    hidden, size = required(text, "hidden_size"), head_size(text)
    queries, keys = required(text, "num_attention_heads") * size, kv_heads(text) * size
    for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
        yield from _linear(f"self_attn.{name}", rows, hidden, flag(text, known.qkv_bias))
    yield from _linear("self_attn.o_proj", hidden, queries, flag(text, known.o_bias))
    norm = known.qk_norm
    if isinstance(norm, dict):
        norm = "head" if text.get(norm["head"]) else "none"
    if norm != "none":
        wide = norm == "full"
        yield "self_attn.q_norm.weight", (queries if wide else size,), 1
        yield "self_attn.k_norm.weight", (keys if wide else size,), 1
    if known.sinks:
        yield "self_attn.sinks", (required(text, "num_attention_heads"),), 1


def _latent_attention(text: Mapping[str, Any], known: Architecture) -> Sides:
    """DeepSeek-V2's multi-head latent attention (arXiv 2405.04434, section 2.1)."""
    hidden, heads = required(text, "hidden_size"), required(text, "num_attention_heads")
    latent, rope = required(text, "kv_lora_rank"), required(text, "qk_rope_head_dim")
    nope, value = required(text, "qk_nope_head_dim"), required(text, "v_head_dim")
    queries, bias = heads * (nope + rope), flag(text, known.o_bias)
    if rank := text.get("q_lora_rank"):
        yield from _linear("self_attn.q_a_proj", rank, hidden, bias)
        yield "self_attn.q_a_layernorm.weight", (rank,), 1
        yield from _linear("self_attn.q_b_proj", queries, rank)
    else:
        yield from _linear("self_attn.q_proj", queries, hidden)
    yield from _linear("self_attn.kv_a_proj_with_mqa", latent + rope, hidden, bias)
    yield "self_attn.kv_a_layernorm.weight", (latent,), 1
    yield from _linear("self_attn.kv_b_proj", heads * (nope + value), latent)
    yield from _linear("self_attn.o_proj", hidden, heads * value, bias)


def _experts(text: Mapping[str, Any], experts: Experts, shared_bias: bool) -> Sides:
    hidden, count, width = required(text, "hidden_size"), required(text, *experts.count), required(text, *experts.width)
    yield from _linear("mlp.gate", count, hidden, experts.bias)
    if experts.correction:
        yield "mlp.gate.e_score_correction_bias", (count,), 1
    for name, rows, columns in _gated(hidden, width):
        for tensor, shape, _ in _linear(f"mlp.experts.*.{name}", rows, columns, experts.bias):
            yield tensor, shape, count
    shared = experts.shared
    if shared is None:
        return
    wide = (text.get(shared[0]) or 0) * required(text, shared[1]) if isinstance(shared, tuple) else text.get(shared)
    if wide:
        for name, rows, columns in _gated(hidden, wide):
            yield from _linear(f"mlp.shared_expert.{name}", rows, columns, shared_bias)
        if experts.shared_gate:
            yield from _linear("mlp.shared_expert_gate", 1, hidden)


def _mlp(name: str, hidden: int, width: int, known: Architecture, bias: bool) -> Sides:
    parts = _gated(hidden, width) if known.mlp == "gated" else (("c_fc", width, hidden), ("c_proj", hidden, width))
    for part, rows, columns in parts:
        yield from _linear(f"{name}.{part}", rows, columns, bias)


def _gated(hidden: int, width: int) -> tuple[tuple[str, int, int], ...]:
    return ("gate_proj", width, hidden), ("up_proj", width, hidden), ("down_proj", hidden, width)


def _linear(name: str, rows: int, columns: int, bias: bool = False) -> Sides:
    yield f"{name}.weight", (rows, columns), 1
    if bias:
        yield f"{name}.bias", (rows,), 1


def _norm(name: str, width: int, known: Architecture) -> Sides:
    yield f"{name}.weight", (width,), 1
    if known.norm_bias:
        yield f"{name}.bias", (width,), 1
