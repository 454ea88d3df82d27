"""Mirrored requests, measured like any other: Envoy mirrors them to a listener inside itself, which logs them.

Mirrored straight to an engine, they would leave only the counters of its cluster: neither the duration of a response
nor its length. The listener has no address; only Envoy reaches it.
"""

from __future__ import annotations

from typing import Any

from tasks.serve.gateway.discovery import (
    LIMIT_FILTER,
    MAX_REQUESTS,
    SHADOW_CLUSTER,
    SHADOW_HEADER,
    STREAM_IDLE_SECONDS,
    filter_context,
)
from tasks.serve.gateway.filters import answer_filters
from tasks.serve.gateway.logs import mirror_loggers
from weighbridge.settings import Settings

_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_INTERNAL = "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"


def mirror_extension() -> dict[str, Any]:
    """The extension that Envoy needs for internal listeners."""
    return {"name": "envoy.bootstrap.internal_listener", "typed_config": {"@type": _INTERNAL}}


def mirror_listener(settings: Settings, answer_bytes: int) -> dict[str, Any]:
    """The internal listener.

    Args:
        settings: of the installation.
        answer_bytes: largest response that is not a stream.
    """
    route = {
        "name": "shadow",
        "match": {"prefix": "/"},
        "route": {
            "cluster_header": SHADOW_HEADER,
            "timeout": "0s",
            "idle_timeout": f"{STREAM_IDLE_SECONDS}s",
        },
        "request_headers_to_remove": [SHADOW_HEADER],
        # Mirrored requests are not limited: the filter only measures the time of a stream's first event.
        "typed_per_filter_config": {LIMIT_FILTER: filter_context({})},
    }
    manager = {
        "@type": _MANAGER,
        "stat_prefix": "shadow",
        "route_config": {"name": "shadow", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": answer_filters(),
        "access_log": mirror_loggers(settings),
        # A line of its log has the id of the original request.
        "preserve_external_request_id": True,
        "stream_idle_timeout": f"{STREAM_IDLE_SECONDS}s",
    }
    return {
        "name": SHADOW_CLUSTER,
        "internal_listener": {},
        "per_connection_buffer_limit_bytes": answer_bytes,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def mirror_cluster() -> dict[str, Any]:
    """The cluster that gets mirrored requests: the internal listener."""
    address = {"envoy_internal_address": {"server_listener_name": SHADOW_CLUSTER}}
    limits = {"max_connections": MAX_REQUESTS, "max_pending_requests": MAX_REQUESTS, "max_requests": MAX_REQUESTS}
    return {
        "name": SHADOW_CLUSTER,
        "load_assignment": {
            "cluster_name": SHADOW_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "circuit_breakers": {"thresholds": [limits]},
    }
