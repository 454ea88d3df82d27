"""One row of the fit: a model under a scheme, on so many GPUs of a kind, for the requests asked for.

    available:  share x physical memory (or as the engine's profile states)
    needed:     weights + activation + non-torch (+ graphs) + cache for the requests

`fits` if the memory left over exceeds the planner's own error (`band_gib`); `no` if more than that is missing; `tight`
in between: the engine may or may not start, and the artifact's real size decides later.
"""

from __future__ import annotations

from tasks.engines import EngineProfile
from tasks.fit.hardware.gpus import Gpu
from tasks.fit.memory.terms import PlannedModel, StageTerms, inside, outside, plan_stage, share_gib, stage_kv_bytes
from tasks.fit.memory.weights import stages
from tasks.fit.model.architectures import kv_heads, required
from tasks.fit.request import FitRequest
from tasks.fit.rows import FitRow, StageMemory, Verdict
from tasks.schemes import AS_PUBLISHED, Scheme
from tasks.schemes import scheme as find_scheme
from weighbridge.errors import ArchitectureUnknown
from weighbridge.processor import processor_features
from weighbridge.units import GIB

RULE_OF_THUMB = 1.2
"""Common estimate: the weights plus 20 %."""
WEIGHTS_ERROR_SHARE = 0.005
"""Share of the weights that loaders leave behind in memory (vLLM 0.19, Qwen2.5-7B: 0.06 of 14.2 GiB)."""


def fit_row(model: PlannedModel, request: FitRequest, gpu: Gpu, scheme: Scheme, tp: int = 1, pp: int = 1) -> FitRow:
    """Fit a model under one scheme on one kind of GPU.

    Args:
        model: from `catalogue.model_of`.
        request: context, concurrency and engine.
        gpu: the kind of GPU.
        scheme: how the weights are stored.
        tp, pp: tensor and pipeline parallelism: GPUs that share each tensor, and stages.

    Raises:
        ArchitectureUnknown: config.json lacks what the planner needs.
        FitOptionUnknown: the request has an unknown dtype.
    """
    profile = request.profile
    obstacle = _obstacle(model, profile, gpu, scheme, tp, pp)
    try:
        model.weights.group_size(scheme)
    except ArchitectureUnknown as unsuitable:
        obstacle, scheme_of_bytes = obstacle or unsuitable.what, find_scheme(AS_PUBLISHED)
    else:
        scheme_of_bytes = scheme
    all_terms = [
        plan_stage(model, profile, request, gpu, scheme_of_bytes, stage, tp, pp)
        for stage in stages(model.shape.layers, min(pp, model.shape.layers))
    ]
    tightest = min(all_terms, key=lambda terms: terms.requests if terms.requests else terms.kv - terms.kv_needed)
    shown = all_terms[1] if len(all_terms) > 2 else all_terms[0]
    band = profile.band_gib * (2 if profile.nearest else 1) + WEIGHTS_ERROR_SHARE * shown.weights / GIB
    reserved = inside(profile, tightest)
    available = share_gib(profile, request, gpu) * GIB if profile.share_of != "need" else gpu.memory_gib * GIB
    verdict, reason = _verdict(profile, request, gpu, tightest, available, band * GIB, obstacle)
    return FitRow(
        gpu=gpu.name,
        count=tp * pp,
        scheme=scheme.name,
        tp=tp,
        pp=pp,
        weights_gib=_gib(shown.weights),
        kv_bytes_per_token=stage_kv_bytes(model, profile, request, gpu, shown.stage, tp),
        kv_gib=_gib(shown.kv),
        kv_needed_gib=_gib(shown.kv_needed),
        kv_tokens=tightest.tokens,
        activation_gib=_gib(shown.activation),
        non_torch_gib=_gib(shown.non_torch),
        cuda_graph_gib=_gib(shown.graphs),
        capacity_gib=_gib(available),
        total_gib=_gib(reserved + tightest.kv_needed),
        max_concurrency=round(max(tightest.requests, 0), 2),
        rule_of_thumb_gib=_gib(_rule_of_thumb(model, scheme) / (tp * pp)),
        verdict=verdict,
        band_gib=round(band, 3),
        reason=reason,
        stages=tuple(_stage_memory(terms) for terms in all_terms) if len(all_terms) > 1 else (),
    )


def _verdict(
    profile: EngineProfile,
    request: FitRequest,
    gpu: Gpu,
    terms: StageTerms,
    available: float,
    band: float,
    obstacle: str,
) -> tuple[Verdict, str]:
    if obstacle:
        return "no", obstacle
    within, beyond = inside(profile, terms), outside(profile, terms)
    spare = terms.kv - terms.kv_needed if profile.share_of != "need" else available - within - terms.kv_needed
    beside = gpu.memory_gib * GIB - available - beyond if profile.share_of == "physical" else spare
    if beside < spare and beside < band and beyond:
        word: Verdict = "no" if beside < -band else "tight"
        return word, (
            f"{max(-beside, 0) / GIB:.2f} GiB missing" if beside < 0 else f"{beside / GIB:.2f} GiB to spare"
        ) + f" outside the engine's share, for {beyond / GIB:.2f} GiB of graphs and buffers"
    if spare > band:
        return "fits", f"{spare / GIB:.2f} GiB to spare"
    if spare >= 0:
        return "tight", f"{spare / GIB:.2f} GiB to spare, less than the planner's error of {band / GIB:.2f}"
    if terms.weights > available:
        why = f"the weights alone are {(terms.weights - available) / GIB:.2f} GiB too large"
    else:
        largest = max(
            ("the weights", terms.weights), ("the cache", terms.kv_needed), ("activations", terms.activation),
            key=lambda term: term[1],
        )  # fmt: skip
        why = f"{-spare / GIB:.2f} GiB missing, most of it {largest[0]} ({largest[1] / GIB:.2f} GiB)"
    return ("no" if spare < -band else "tight"), why


def _obstacle(model: PlannedModel, profile: EngineProfile, gpu: Gpu, scheme: Scheme, tp: int, pp: int) -> str:
    """Why the combination is impossible whatever the memory; empty if it is possible."""
    shape, published = model.shape, model.weights.published
    if shape.quantized_by and scheme.name not in (AS_PUBLISHED, published.name if published else ""):
        return f"the release is quantized already ({shape.quantized_by}); it can only be served as published"
    served = published or scheme
    if not profile.serves(served):
        return f"{profile.name} does not serve {served.name}: its memory profile lists no kernel {served.kernel}"
    if not gpu.runs(served):
        return f"{gpu.name} does not run {served.name}"
    if gpu.is_host and served.kernel in profile.processor_needs:
        feature = profile.processor_needs[served.kernel]
        if feature is None:
            return f"{profile.name} runs {served.name} on GPUs only"
        if feature not in processor_features():
            return f"{profile.name} runs {served.name} on processors with {feature} only, and this one has none"
    return _parallel_obstacle(model, gpu, scheme, tp, pp)


def _parallel_obstacle(model: PlannedModel, gpu: Gpu, scheme: Scheme, tp: int, pp: int) -> str:
    text = model.shape.text
    if tp * pp > 1 and gpu.is_host:
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
    return model.weights.group_split_reason(scheme, tp)


def _rule_of_thumb(model: PlannedModel, scheme: Scheme) -> float:
    return model.shape.parameters * scheme.weight_bits / 8 * RULE_OF_THUMB


def _stage_memory(terms: StageTerms) -> StageMemory:
    return StageMemory(
        layers=terms.stage.end_layer - terms.stage.first_layer,
        weights_gib=_gib(terms.weights),
        activation_gib=_gib(terms.activation),
        non_torch_gib=_gib(terms.non_torch),
        kv_gib=_gib(terms.kv),
        kv_tokens=terms.tokens,
    )


def _gib(size: float) -> float:
    return round(size / GIB, 4)
