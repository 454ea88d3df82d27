"""The memory terms of one pipeline stage: weights, activation, non-torch, graphs and cache."""

from __future__ import annotations

from typing import NamedTuple

from tasks.engines import EngineProfile, graphs_gib, non_torch_gib
from tasks.fit.hardware.gpus import Gpu
from tasks.fit.memory.activation import activation_bytes
from tasks.fit.memory.extra_weights import extra_weight_bytes
from tasks.fit.memory.kv import CacheLayers, kv_bytes_per_token
from tasks.fit.memory.pages import Paging, capacity, request_bytes
from tasks.fit.memory.weights import Stage, Weights
from tasks.fit.model.architectures import has_towers
from tasks.fit.model.shape import ModelShape, published_dtype
from tasks.fit.request import KV_BITS, FitRequest
from tasks.schemes import Scheme
from tasks.source.headers import BITS
from weighbridge.errors import FitOptionUnknown
from weighbridge.units import GIB


class PlannedModel(NamedTuple):
    """What all rows of one model share."""

    shape: ModelShape
    weights: Weights
    cache: tuple[CacheLayers, ...]


class StageTerms(NamedTuple):
    """One stage's memory, bytes per GPU."""

    stage: Stage
    weights: float
    activation: float
    non_torch: float
    graphs: float
    kv: float
    """Memory that the engine has for the cache."""
    kv_needed: float
    """Cache that the requested concurrency takes."""
    tokens: int
    """Capacity of the cache."""
    requests: float
    """Concurrent requests at full context that the cache holds."""


def plan_stage(
    model: PlannedModel,
    profile: EngineProfile,
    request: FitRequest,
    gpu: Gpu,
    scheme: Scheme,
    stage: Stage,
    tp: int,
    pp: int,
) -> StageTerms:
    """Compute the memory of one stage.

    Args:
        model: what all rows of the model share.
        profile: the engine's.
        request: context, concurrency and engine settings.
        gpu: the kind of GPU.
        scheme: how the weights are stored.
        stage: one of `stages`.
        tp, pp: tensor and pipeline parallelism.

    Raises:
        ArchitectureUnknown: config.json lacks a field.
        FitOptionUnknown: the request has an unknown dtype.
    """
    text, layers = model.shape.text, stage.end_layer - stage.first_layer
    number = _number_bytes(model, profile, request, gpu)
    weights = _weights_bytes(model, profile, scheme, stage, tp, number)
    tokens = profile.step_tokens(gpu, request.context, request.max_num_batched_tokens)
    activation = activation_bytes(
        profile.activation,
        text,
        tokens=tokens,
        sequences=profile.step_sequences(gpu, request.concurrency, request.max_num_seqs),
        bytes_each=number,
        tp=tp,
        has_head=stage.has_head,
        pipelined=pp > 1,
        towers=has_towers(model.shape.config),
        packed_experts=(model.weights.published or scheme).format == "mxfp4-pack-quantized",
    )
    graphs = graphs_gib(profile, gpu, layers=layers, experts=model.shape.has_experts, eager=request.eager) * GIB
    other = non_torch_gib(profile, gpu, tp=tp, pp=pp, has_head=stage.has_head) * GIB
    paging = Paging(
        context=request.context,
        step_tokens=tokens,
        block_tokens=profile.block_tokens,
        bytes_each=_kv_number_bytes(profile, request, gpu, number),
        tp=tp,
        grouped=profile.pages == "grouped",
        state_bytes_each=number,
        window_slack_tokens=profile.window_slack_tokens,
    )
    cache = _cache_of_stage(model.cache, layers, model.shape.layers)
    needed = request_bytes(cache, paging) * request.concurrency
    terms = StageTerms(stage, weights, activation, other, graphs, 0, needed, 0, 0)
    within = inside(profile, terms)
    if profile.share_of == "need":
        free = gpu.memory_gib * GIB - within
        kv = needed
    elif profile.share_of == "free":
        free = kv = (gpu.memory_gib * GIB - within) * (request.utilization or profile.share_of_memory(gpu))
    else:
        free = kv = share_gib(profile, request, gpu) * GIB - within
    fits = capacity(cache, free, paging)
    return terms._replace(kv=kv, tokens=fits.tokens, requests=fits.requests)


def _weights_bytes(
    model: PlannedModel, profile: EngineProfile, scheme: Scheme, stage: Stage, tp: int, number: int
) -> float:
    stored: float = model.weights.gpu_bytes(scheme, tp, stage)
    if profile.weights == "dense":
        return max(stored, model.weights.dense_bytes(number))
    published = BITS[published_dtype(model.shape.config)] // 8
    if not scheme.changes_weights and not model.shape.quantized_by:
        stored *= number / published if model.shape.origin != "headers" else 1
    if profile.rope_tables:
        stored += extra_weight_bytes(model.shape, tp=tp, layers=stage.end_layer - stage.first_layer, bytes_each=number)
    return stored


def _number_bytes(model: PlannedModel, profile: EngineProfile, request: FitRequest, gpu: Gpu) -> int:
    named = {"float32": 4, "bfloat16": 2, "float16": 2, "half": 2, "float": 4}
    if request.dtype == "auto":
        return profile.number_bytes(gpu, published_dtype(model.shape.config))
    if request.dtype not in named:
        raise FitOptionUnknown(
            f"There is no dtype called {request.dtype!r} for weights; known: auto, {', '.join(named)}.",
            "Name one of these.",
        )
    return named[request.dtype]


def _kv_number_bytes(profile: EngineProfile, request: FitRequest, gpu: Gpu, number: int) -> float:
    if request.kv_dtype == "auto":
        return profile.kv_number_bytes or number
    if request.kv_dtype not in KV_BITS:
        raise FitOptionUnknown(
            f"There is no KV dtype called {request.kv_dtype!r}; known: auto, {', '.join(KV_BITS)}.",
            "Name one of these.",
        )
    return KV_BITS[request.kv_dtype] / 8


def stage_kv_bytes(
    model: PlannedModel, profile: EngineProfile, request: FitRequest, gpu: Gpu, stage: Stage, tp: int
) -> int:
    """Bytes that one GPU of a stage caches for each token, while a request is shorter than every window."""
    number = _number_bytes(model, profile, request, gpu)
    cache = _cache_of_stage(model.cache, stage.end_layer - stage.first_layer, model.shape.layers)
    return kv_bytes_per_token(cache, _kv_number_bytes(profile, request, gpu, number), tp)


def _cache_of_stage(cache: tuple[CacheLayers, ...], layers: int, of: int) -> tuple[CacheLayers, ...]:
    """The stage's share of each kind of layer; kinds alternate, so shares are even to within one layer."""
    if layers == of:
        return cache
    return tuple(kind._replace(layers=max(1, round(kind.layers * layers / of))) for kind in cache)


def inside(profile: EngineProfile, terms: StageTerms) -> float:
    """Memory inside the engine's share beside the cache, bytes."""
    sizes = {
        "weights": terms.weights,
        "activation": terms.activation,
        "non_torch": terms.non_torch,
        "graphs": terms.graphs,
    }
    return sum(sizes[name] for name in profile.inside)


def outside(profile: EngineProfile, terms: StageTerms) -> float:
    """Memory that must fit outside the engine's share, bytes."""
    return terms.weights + terms.activation + terms.non_torch + terms.graphs - inside(profile, terms)


def share_gib(profile: EngineProfile, request: FitRequest, gpu: Gpu) -> float:
    """GiB that the engine may use."""
    return gpu.memory_gib * (request.utilization or profile.share_of_memory(gpu))
