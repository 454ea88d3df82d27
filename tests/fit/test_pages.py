"""Capacity of a cache in tokens and requests: vLLM's logs, and properties of every model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.fit.memory.kv import CacheLayers, cache_of, kv_bytes_per_token
from tasks.fit.memory.pages import Paging, capacity, request_bytes

GIB = 2**30
VLLM = Paging(context=8192, step_tokens=8192, block_tokens=16, bytes_each=2, tp=1, grouped=True, state_bytes_each=2)


@pytest.mark.parametrize(
    ("name", "paging", "kv_gib", "tokens", "requests"),
    [
        # Logs of vLLM 0.19.0 on one H100, of llm-d Planner's published sweep: GiB are rounded to 0.01.
        ("meta-llama--llama-3.1-8b-instruct", {}, 58.11, 476_000, 58.11),
        ("meta-llama--llama-3.1-8b-instruct", {"context": 2048}, 58.11, 476_016, 232.43),
        ("meta-llama--llama-3.1-8b-instruct", {"context": 32_768}, 58.11, 476_016, 14.53),
        ("meta-llama--llama-3.1-8b-instruct", {"bytes_each": 1}, 58.11, 952_032, 116.21),
        ("meta-llama--llama-3.1-8b-instruct", {"bytes_each": 4}, 42.8, 175_296, 21.4),
        ("meta-llama--llama-3.1-8b-instruct", {"tp": 4}, 67.44, 2_209_792, 269.75),
        ("qwen--qwen3-30b-a3b", {}, 15.41, 168_288, 20.54),
        ("moonshotai--kimi-vl-a3b-instruct", {}, 41.32, 1_426_368, 174.12),
        ("moonshotai--kimi-vl-a3b-instruct", {"tp": 2}, 54.78, 1_890_896, 230.82),
        ("google--gemma-2-9b-it", {}, 54.12, 168_880, 20.6),
        ("google--gemma-3-4b-it", {}, 62.51, 468_144, 57.05),
        ("google--gemma-3-27b-it", {}, 19.53, 36_560, 4.46),
    ],
)
def test_capacity_matches_vllm_logs(
    published_config: Callable[[str], dict[str, Any]],
    name: str,
    paging: dict[str, Any],
    kv_gib: float,
    tokens: int,
    requests: float,
) -> None:
    fits = capacity(cache_of(published_config(name)), kv_gib * GIB, VLLM._replace(**paging))
    assert fits.tokens == pytest.approx(tokens, rel=0.001)
    assert fits.requests == pytest.approx(requests, rel=0.002)


# Numbers of one token and layer of Llama 3.1 8B.
FULL = CacheLayers("full", 8, 2048, heads=8)
WINDOW = CacheLayers("window", 24, 2048, heads=8, window=1024)
TOKEN = 2048 * 2
PLAIN = VLLM._replace(grouped=False)


def test_requests_take_whole_blocks() -> None:
    assert request_bytes((FULL,), PLAIN._replace(context=17)) == 8 * 32 * TOKEN
    assert request_bytes((FULL,), PLAIN._replace(context=32)) == 8 * 32 * TOKEN
    assert request_bytes((FULL,), PLAIN._replace(context=17, block_tokens=1)) == 8 * 17 * TOKEN


def test_windowed_layers_stop_growing() -> None:
    assert request_bytes((FULL, WINDOW), PLAIN) == TOKEN * (8 * 8192 + 24 * 1024)
    assert request_bytes((FULL, WINDOW), PLAIN._replace(context=512)) == TOKEN * 32 * 512
    # llama.cpp keeps one more step beside the window.
    slack = PLAIN._replace(window_slack_tokens=512)
    assert request_bytes((FULL, WINDOW), slack) == TOKEN * (8 * 8192 + 24 * 1536)


def test_vllm_groups_layers_by_kind() -> None:
    # 24 windowed layers are three groups as large as the one of 8 full layers. A full one takes 512 pages, a windowed
    # one space for its window and a step of 2,048 tokens, wherever in a page it begins: (1024 - 1 + 2048) / 16, and 1.
    paging = VLLM._replace(step_tokens=2048)
    pages = 512 + 3 * (192 + 1)
    assert request_bytes((FULL, WINDOW), paging) == pages * 8 * 16 * TOKEN
    fits = capacity((FULL, WINDOW), 1000 * 8 * 16 * TOKEN, paging)
    assert fits.requests == pytest.approx(1000 / pages)
    assert fits.tokens == 1000 // 4 * 16
    # Kinds with nearly as many layers become one group each; the smaller is padded.
    nearly = (FULL._replace(layers=20), WINDOW)
    assert request_bytes(nearly, paging) == (512 + 193) * 24 * 16 * TOKEN


def test_pages_are_at_least_as_large_as_a_state() -> None:
    # 1 MB of state are 245 tokens, which take 16 blocks of 16.
    state = CacheLayers("state", 24, state_numbers=500_000)
    assert request_bytes((FULL, state), VLLM) == 8 * (256 * TOKEN) * (32 + 3)
    # A smaller cache dtype does not shrink the state, so a page holds twice the tokens.
    assert request_bytes((FULL, state), VLLM._replace(bytes_each=1)) == 8 * (496 * TOKEN / 2) * (17 + 3)


def test_states_take_the_same_at_any_length() -> None:
    state = (CacheLayers("state", 64, state_numbers=1000),)
    for paging in (VLLM, PLAIN, VLLM._replace(context=100_000)):
        assert request_bytes(state, paging) == 128_000
        fits = capacity(state, 1_300_000, paging)
        assert fits.requests == pytest.approx(10.16, abs=0.01) and fits.tokens == 10 * paging.context


def test_an_empty_cache_holds_no_requests() -> None:
    assert capacity((), 1e9, VLLM) == capacity((FULL,), 0, VLLM) == capacity((FULL,), -5, VLLM) == (0, 0.0)


# --- properties of every model ------------------------------------------------------------------

LAYERS = st.integers(1, 80)
HEADS = st.sampled_from([1, 2, 4, 8, 32])


@st.composite
def caches(draw: st.DrawFn, states: bool = True) -> tuple[CacheLayers, ...]:
    heads = draw(HEADS)
    numbers = 2 * heads * draw(st.sampled_from([64, 128, 256]))
    kinds = [CacheLayers("full", draw(LAYERS), numbers, heads)]
    if draw(st.booleans()):
        kinds.append(CacheLayers("window", draw(LAYERS), numbers, heads, window=draw(st.integers(1, 8192))))
    if states and draw(st.booleans()):
        kinds.append(CacheLayers("state", draw(LAYERS), state_numbers=draw(st.integers(1, 3_000_000))))
    if draw(st.booleans()):
        kinds[0] = CacheLayers("latent", kinds[0].layers, 576, heads=0)
    return tuple(kinds)


@st.composite
def pagings(draw: st.DrawFn) -> Paging:
    return Paging(
        context=draw(st.integers(1, 200_000)),
        step_tokens=draw(st.sampled_from([512, 2048, 8192])),
        block_tokens=draw(st.sampled_from([1, 16, 32, 256])),
        bytes_each=draw(st.sampled_from([0.5625, 1, 2, 4])),
        tp=draw(st.sampled_from([1, 2, 4, 8])),
        grouped=draw(st.booleans()),
        state_bytes_each=draw(st.sampled_from([2, 4])),
        window_slack_tokens=draw(st.sampled_from([0, 512])),
    )


@settings(deadline=None)
@given(caches(), pagings(), st.floats(0, 1e12), st.floats(0, 1e12))
def test_capacity_never_shrinks_with_more_memory(
    cache: tuple[CacheLayers, ...], paging: Paging, one: float, two: float
) -> None:
    less, more = sorted((one, two))
    fits, holds = capacity(cache, less, paging), capacity(cache, more, paging)
    assert holds.tokens >= fits.tokens and holds.requests >= fits.requests >= 0


@settings(deadline=None)
@given(caches(), pagings(), st.integers(1, 200_000), st.floats(1e6, 1e12))
def test_longer_requests_lower_the_concurrency(
    cache: tuple[CacheLayers, ...], paging: Paging, other: int, kv_bytes: float
) -> None:
    short, long = sorted((paging.context, other))
    few = capacity(cache, kv_bytes, paging._replace(context=long)).requests
    many = capacity(cache, kv_bytes, paging._replace(context=short)).requests
    assert few <= many * (1 + 1e-9)
    assert request_bytes(cache, paging._replace(context=short)) <= request_bytes(cache, paging._replace(context=long))


@settings(deadline=None)
@given(caches(states=False), pagings())
def test_more_gpus_never_raise_bytes_per_gpu(cache: tuple[CacheLayers, ...], paging: Paging) -> None:
    one, many = paging._replace(tp=1), paging
    assert request_bytes(cache, many) <= request_bytes(cache, one)
    assert kv_bytes_per_token(cache, 2, paging.tp) <= kv_bytes_per_token(cache, 2, 1)
    # All GPUs together never take less than a single one.
    assert request_bytes(cache, many) * paging.tp >= request_bytes(cache, one) * (1 - 1e-9)


@settings(deadline=None)
@given(caches(), pagings())
def test_a_request_takes_at_most_its_tokens_and_partial_pages(cache: tuple[CacheLayers, ...], paging: Paging) -> None:
    """Upper bound: every layer full, partial pages, and (vLLM) groups padded to the same length."""
    tokens = max(kind.bytes_per_token(paging.bytes_each, paging.tp) for kind in cache)
    state = max(kind.state_bytes(paging.state_bytes_each, paging.tp) for kind in cache)
    layers = sum(kind.layers for kind in cache)
    # A page is no larger than a state and a block; a request begins one and crosses into one more.
    page = tokens * paging.block_tokens + state
    padded = 3 * layers if paging.grouped else layers
    assert 0 < request_bytes(cache, paging) <= padded * (paging.context * tokens + 2 * page)


@settings(deadline=None)
@given(caches(), pagings(), st.floats(1e8, 1e12))
def test_held_requests_fit_the_memory(cache: tuple[CacheLayers, ...], paging: Paging, kv_bytes: float) -> None:
    whole = int(capacity(cache, kv_bytes, paging).requests)
    assert whole * request_bytes(cache, paging) <= kv_bytes * (1 + 1e-9)
