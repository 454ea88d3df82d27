"""Capacity of a cache in tokens and requests, in the engine's own pages.

vLLM gives every page the same size. Layers of one kind form groups of equal length, each page serves one group, and
a request takes pages of every group (v1/core/kv_cache_utils.py and v1/kv_cache_interface.py,
0.19). That is why a hybrid model's `kv_tokens` is less than bytes divided by bytes a token.
"""

from __future__ import annotations

from typing import NamedTuple

from tasks.fit.memory.kv import CacheLayers

GROUPED_UP_TO = 1.5
"""One group for each kind if their numbers of layers differ by less than this factor; else groups of the smaller."""


class Paging(NamedTuple):
    """How requests share the cache."""

    context: int
    """Tokens of one request."""
    step_tokens: int
    """Tokens of one step; a window holds these too."""
    block_tokens: int
    bytes_each: float
    """Bytes of a cached number."""
    tp: int
    grouped: bool
    """Whether pages are shared as in vLLM."""
    state_bytes_each: float
    """Bytes of a number in a state, which has the model's dtype and not the cache's (vLLM: mamba_cache_dtype)."""
    window_slack_tokens: int = 0
    """Tokens that a windowed layer caches beside its window, if pages are not grouped."""


class Capacity(NamedTuple):
    """Capacity of a cache."""

    tokens: int
    """As the engine would report it."""
    requests: float
    """Concurrent, at full context."""


def capacity(cache: tuple[CacheLayers, ...], kv_bytes: float, paging: Paging) -> Capacity:
    """Compute the capacity of a cache.

    Args:
        cache: what one GPU's layers cache.
        kv_bytes: memory for the cache on that GPU.
        paging: how requests share it.
    """
    if not cache or kv_bytes <= 0:
        return Capacity(0, 0.0)
    if paging.grouped and len(cache) > 1:
        return _grouped(cache, kv_bytes, paging)
    need = request_bytes(cache, paging)
    requests = kv_bytes / need
    page = sum(kind.layers * kind.bytes_per_token(paging.bytes_each, paging.tp) for kind in cache) * paging.block_tokens
    if not page:  # states only: the size of a request does not depend on its length
        return Capacity(int(requests) * paging.context, requests)
    blocks = int(kv_bytes // page)
    if len(cache) == 1:
        requests = blocks / (need / page)
    return Capacity(blocks * paging.block_tokens, requests)


def request_bytes(cache: tuple[CacheLayers, ...], paging: Paging) -> float:
    """Bytes that one request takes at full context."""
    if paging.grouped and len(cache) > 1:
        size, page_bytes, blocks = _groups(cache, paging)
        return size * page_bytes * blocks
    return sum(
        kind.layers
        * (
            _blocks(kind, paging, paging.block_tokens)
            * paging.block_tokens
            * kind.bytes_per_token(paging.bytes_each, paging.tp)
            + kind.state_bytes(paging.state_bytes_each, paging.tp)
        )
        for kind in cache
    )


def _grouped(cache: tuple[CacheLayers, ...], kv_bytes: float, paging: Paging) -> Capacity:
    size, page_bytes, blocks = _groups(cache, paging)
    pages = int(kv_bytes // (page_bytes * size))
    block_tokens = _block_tokens(cache, paging)
    count = sum(-(-kind.layers // size) for kind in cache)
    return Capacity(pages // count * block_tokens, pages / blocks)


def _groups(cache: tuple[CacheLayers, ...], paging: Paging) -> tuple[int, float, int]:
    """Layers in a group, bytes of one layer's page, and pages that a request takes in all groups."""
    fewest, most = min(kind.layers for kind in cache), max(kind.layers for kind in cache)
    size = most if most < GROUPED_UP_TO * fewest else fewest
    block_tokens = _block_tokens(cache, paging)
    page_bytes = max(
        block_tokens * kind.bytes_per_token(paging.bytes_each, paging.tp)
        + kind.state_bytes(paging.state_bytes_each, paging.tp)
        for kind in cache
    )
    blocks = sum(-(-kind.layers // size) * _blocks(kind, paging, block_tokens) for kind in cache)
    return size, page_bytes, blocks


def _block_tokens(cache: tuple[CacheLayers, ...], paging: Paging) -> int:
    """Tokens of a page; in a model with states, enough to make the page at least as large as a state."""
    states = max(kind.state_bytes(paging.state_bytes_each, paging.tp) for kind in cache)
    token = max((kind.bytes_per_token(paging.bytes_each, paging.tp) for kind in cache), default=0)
    if not states or not token:
        return paging.block_tokens
    blocks = -(-states // (token * paging.block_tokens))
    return int(max(blocks, 1)) * paging.block_tokens


def _blocks(kind: CacheLayers, paging: Paging, block_tokens: int) -> int:
    """Blocks that one layer of this kind holds for a request."""
    if kind.kind == "state":
        return 1
    full = -(-paging.context // block_tokens)
    if kind.kind != "window" or kind.window is None:
        return full
    if not paging.grouped:
        return min(full, -(-(kind.window + paging.window_slack_tokens) // block_tokens))
    # A window may start anywhere in a block, and a step's tokens are added before old ones are freed.
    return -(-min(kind.window - 1 + paging.step_tokens, paging.context) // block_tokens) + 1
