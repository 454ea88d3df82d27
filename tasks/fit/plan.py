"""One row of the fit: a model under a scheme, on so many GPUs of a kind, for the requests asked for.

    there:   share x physical memory (or what the engine's profile says instead)
    needed:  weights + activation + non-torch (+ graphs) + cache for the requests

`fits` when there is more to spare than the planner's own error (`band_gib`), `no` when more than that is
missing, `tight` between: it may or may not start, and the artifact's real size decides later.
"""

from __future__ import annotations

from tasks.engines import EngineProfile
from tasks.fit.hardware.gpus import Gpu
from tasks.fit.memory.terms import Model, Terms, inside, outside, share_gib, stage_kv_bytes, terms_of
from tasks.fit.memory.weights import stages
from tasks.fit.model.architectures import kv_heads, required
from tasks.fit.request import Request
from tasks.fit.rows import FitRow, StageMemory, Verdict
from tasks.schemes import Scheme
from tasks.schemes import scheme as find_scheme
from weighbridge.errors import ArchitectureUnknown
from weighbridge.processor import processor_features
from weighbridge.units import GIB

RULE_OF_THUMB = 1.2
"""The field's: weights and a fifth more."""
WEIGHTS_ERROR_SHARE = 0.005
"""Of the weights: what loaders leave behind (vLLM 0.19, Qwen2.5-7B: 0.06 of 14.2 GiB)."""


def plan_row(model: Model, request: Request, card: Gpu, scheme: Scheme, tp: int = 1, pp: int = 1) -> FitRow:
    """Plan one row.

    Args:
        model: from `catalogue.model_of`.
        request: what must be held, and by which engine.
        card: kind of GPU.
        scheme: of the weights.
        tp, pp: GPUs that share each tensor, and stages.

    Raises:
        ArchitectureUnknown: config.json lacks what the planner needs.
        FitOptionUnknown: a dtype that nobody knows.
    """
    profile = request.profile
    obstacle = _obstacle(model, profile, card, scheme, tp, pp)
    try:
        model.weights.group_size(scheme)
    except ArchitectureUnknown as unsuitable:
        obstacle, scheme_of_bytes = obstacle or unsuitable.what, find_scheme("bf16")
    else:
        scheme_of_bytes = scheme
    parts = [
        terms_of(model, profile, request, card, scheme_of_bytes, stage, tp, pp)
        for stage in stages(model.shape.layers, min(pp, model.shape.layers))
    ]
    tightest = min(parts, key=lambda part: part.requests if part.requests else part.kv - part.kv_needed)
    shown = parts[1] if len(parts) > 2 else parts[0]
    band = profile.band_gib * (2 if profile.nearest else 1) + WEIGHTS_ERROR_SHARE * shown.weights / GIB
    held_back = inside(profile, tightest)
    there = share_gib(profile, request, card) * GIB if profile.share_of != "need" else card.memory_gib * GIB
    verdict, reason = _verdict(profile, request, card, tightest, there, band * GIB, obstacle)
    return FitRow(
        gpu=card.name,
        count=tp * pp,
        scheme=scheme.name,
        tp=tp,
        pp=pp,
        weights_gib=_gib(shown.weights),
        kv_bytes_per_token=stage_kv_bytes(model, profile, request, card, shown.stage, tp),
        kv_gib=_gib(shown.kv),
        kv_needed_gib=_gib(shown.kv_needed),
        kv_tokens=tightest.tokens,
        activation_gib=_gib(shown.activation),
        non_torch_gib=_gib(shown.non_torch),
        cuda_graph_gib=_gib(shown.graphs),
        capacity_gib=_gib(there),
        total_gib=_gib(held_back + tightest.kv_needed),
        max_concurrency=round(max(tightest.requests, 0), 2),
        rule_of_thumb_gib=_gib(_rule_of_thumb(model, scheme) / (tp * pp)),
        verdict=verdict,
        band_gib=round(band, 3),
        reason=reason,
        stages=tuple(_stage_memory(part) for part in parts) if len(parts) > 1 else (),
    )


def _verdict(
    profile: EngineProfile, request: Request, card: Gpu, terms: Terms, there: float, band: float, obstacle: str
) -> tuple[Verdict, str]:
    if obstacle:
        return "no", obstacle
    within, beyond = inside(profile, terms), outside(profile, terms)
    spare = terms.kv - terms.kv_needed if profile.share_of != "need" else there - within - terms.kv_needed
    beside = card.memory_gib * GIB - there - beyond if profile.share_of == "physical" else spare
    if beside < spare and beside < band and beyond:
        word: Verdict = "no" if beside < -band else "tight"
        return word, (
            f"{max(-beside, 0) / GIB:.2f} GiB missing" if beside < 0 else f"{beside / GIB:.2f} GiB to spare"
        ) + f" outside the engine's share, for {beyond / GIB:.2f} GiB of graphs and buffers"
    if spare > band:
        return "fits", f"{spare / GIB:.2f} GiB to spare"
    if spare >= 0:
        return "tight", f"{spare / GIB:.2f} GiB to spare, less than the planner's error of {band / GIB:.2f}"
    if terms.weights > there:
        why = f"the weights alone are {(terms.weights - there) / GIB:.2f} GiB too large"
    else:
        largest = max(
            ("the weights", terms.weights), ("the cache", terms.kv_needed), ("activations", terms.activation),
            key=lambda one: one[1],
        )  # fmt: skip
        why = f"{-spare / GIB:.2f} GiB missing, most of it {largest[0]} ({largest[1] / GIB:.2f} GiB)"
    return ("no" if spare < -band else "tight"), why


def _obstacle(model: Model, profile: EngineProfile, card: Gpu, scheme: Scheme, tp: int, pp: int) -> str:
    """Why it cannot be had whatever the memory, or nothing."""
    shape, published = model.shape, model.weights.published
    if shape.quantized_by and scheme.name not in ("bf16", published.name if published else ""):
        return f"the release is quantized already ({shape.quantized_by}); it can only be served as published"
    served = published or scheme
    if not profile.serves(served):
        return f"{profile.name} does not serve {served.name}"
    if not card.runs(served):
        return f"{card.name} does not run {served.name}"
    if card.is_host and served.kernel in profile.processor_needs:
        feature = profile.processor_needs[served.kernel]
        if feature is None:
            return f"{profile.name} runs {served.name} on GPUs only"
        if feature not in processor_features():
            return f"{profile.name} runs {served.name} on processors with {feature} only, and this one has none"
    return _parallel_obstacle(model, card, scheme, tp, pp)


def _parallel_obstacle(model: Model, card: Gpu, scheme: Scheme, tp: int, pp: int) -> str:
    text = model.shape.text
    if tp * pp > 1 and card.is_host:
        return "this machine's memory cannot be cut"
    if pp > model.shape.layers:
        return f"{pp} stages for {model.shape.layers} layers"
    if tp == 1:
        return ""
    heads = int(text.get("num_attention_heads") or 0)
    if heads and heads % tp:
        return f"TP {tp} does not divide {heads} attention heads"
    padded = -(-required(text, "vocab_size") // 64) * 64
    if padded % tp:
        return f"TP {tp} does not divide the vocabulary of {padded}"
    keys = kv_heads(text) if heads and not text.get("kv_lora_rank") else 0
    if keys and keys % tp and tp % keys:
        return f"TP {tp} and {keys} key-value heads do not divide each other"
    return model.weights.odd_cut(scheme, tp)


def _rule_of_thumb(model: Model, scheme: Scheme) -> float:
    return model.shape.parameters * scheme.weight_bits / 8 * RULE_OF_THUMB


def _stage_memory(part: Terms) -> StageMemory:
    return StageMemory(
        layers=part.stage.end_layer - part.stage.first_layer,
        weights_gib=_gib(part.weights),
        activation_gib=_gib(part.activation),
        non_torch_gib=_gib(part.non_torch),
        kv_gib=_gib(part.kv),
        kv_tokens=part.tokens,
    )


def _gib(size: float) -> float:
    return round(size / GIB, 4)
