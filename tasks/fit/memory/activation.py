"""Peak memory of one engine step, beside weights and cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.engines import Activation
from tasks.fit.model.architectures import largest, required


def activation_bytes(
    activation: Activation,
    text: Mapping[str, Any],
    *,
    tokens: int,
    sequences: int,
    bytes_each: int,
    tp: int,
    has_head: bool,
    pipelined: bool,
    towers: bool,
    packed_experts: bool = False,
) -> float:
    """Peak bytes of one step.

    The larger of a forward pass (each token: a few vectors as wide as the model, and of the feed-forward part's
    width divided by `tp`) and of sampling (each sequence: its logits, their float32 copy, the softmax of those and
    the noise that it is divided by), plus what outlives both: fused experts' workspaces, encoded images.

    Source: vLLM 0.19 (gpu_model_runner.py, profile_run) and its own logs (issue "Fit": 2 bytes x tokens x hidden +
    ~14.9 x sequences x vocabulary, of which 2 are the logits in bfloat16: 17 in float32; the code accounts for 14.5 of
    them); the forward term from CodeLlama-7B, where 32,016 words make sampling cheap, and from pipeline stages without
    a head; workspaces (tokens x experts a token x max(width, hidden) and x max(2 width, hidden)) from
    fused_moe.py, TritonExperts.workspace_shapes.

    Args:
        activation: the engine's figures.
        text: the language model's config.
        tokens, sequences: in one step.
        bytes_each: bytes of an unquantized number.
        tp: GPUs that share each tensor.
        has_head: whether this stage has the head and samples.
        pipelined: whether hidden states pass between stages.
        towers: whether the model has vision or audio towers.
        packed_experts: whether the experts are MXFP4, whose kernels need less (gpt_oss_triton_kernels_moe.py: only
            tokens x experts a token x width).

    Raises:
        ArchitectureUnknown: config.json lacks `hidden_size` or `vocab_size`.
    """
    bytes_each = activation.number_bytes or bytes_each
    hidden, vocabulary = required(text, "hidden_size"), required(text, "vocab_size")
    inner, workspace = _widths(text, hidden, tokens, bytes_each, tp, packed_experts)
    between = 2 * hidden if pipelined else 0
    forward = tokens * bytes_each * (activation.hidden_numbers * hidden + activation.inner_numbers * inner + between)
    forward += _unfolded(activation, text, bytes_each, tp)
    sampling = tokens * hidden * bytes_each + sequences * vocabulary * (activation.logits_bytes + bytes_each)
    peak = max(forward, sampling if has_head else 0)
    if activation.expert_workspace:
        peak += workspace
    if activation.tower_cache and towers:
        peak += tokens * hidden * bytes_each
    return peak


def _widths(
    text: Mapping[str, Any], hidden: int, tokens: int, bytes_each: int, tp: int, packed_experts: bool
) -> tuple[float, float]:
    """Feed-forward width on one GPU, and bytes of the experts' workspaces."""
    chosen = next(
        (largest(text[name]) for name in ("num_experts_per_tok", "experts_per_token", "moe_topk") if text.get(name)), 0
    )
    dense = largest(text.get("intermediate_size") or text.get("n_inner") or 4 * hidden)
    if not chosen:
        return dense / tp, 0.0
    width = largest(text.get("moe_intermediate_size") or dense) / tp
    # Experts compute in the workspaces; beside them only vectors of the model's width are live.
    numbers = width if packed_experts else max(width, hidden) + max(2 * width, hidden)
    return 0.0, tokens * chosen * numbers * bytes_each


def _unfolded(activation: Activation, text: Mapping[str, Any], bytes_each: int, tp: int) -> float:
    """MLA: keys and values of a long prompt, unfolded from their latents (vLLM 0.19, mla_attention.py)."""
    if not text.get("kv_lora_rank"):
        return 0.0
    width = required(text, "qk_nope_head_dim") + required(text, "v_head_dim")
    return activation.latent_tokens * required(text, "num_attention_heads") / tp * width * bytes_each
