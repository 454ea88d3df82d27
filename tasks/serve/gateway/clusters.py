"""The clusters (CDS): one for each engine that a route names, with its addresses, health check and key."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from tasks.serve.endpoint import Endpoint
from tasks.serve.gateway.discovery import MAX_REQUESTS, METADATA, TYPES, cluster_name, discovery_document, set_header
from tasks.serve.gateway.routes import Backend, QueuedRequests, Routes

REQUESTS_A_CONNECTION = 1
"""llama.cpp's server closes its connection after each stream without notice, and a request on such a connection fails
with 503. A new connection to an engine on this machine costs a fraction of a millisecond."""

KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES = 5, 2, 3
"""When the kernel asks an engine's machine whether it is still there: a machine that lost power closes no connection,
and its streams would hang until they are idle for STREAM_IDLE_SECONDS."""

UNACKNOWLEDGED_MS = 1000 * (KEEPALIVE_IDLE_SECONDS + KEEPALIVE_INTERVAL_SECONDS * KEEPALIVE_PROBES)
"""Longest time that sent bytes may stay unacknowledged. Keepalive says nothing while there are such bytes."""

_TCP, _TCP_USER_TIMEOUT = 6, 18  # of Linux; the numbers are the same on every architecture

UNREACHABLE = "/dev/null/nobody"
"""A socket's path at which nothing can ever listen: to connect to it fails at once."""

EngineKey = Callable[[str], str]
"""Returns the key that an engine demands, by its name in the fleet; empty if it demands none."""


def clusters_document(
    routes: Routes, leaving: tuple[dict[str, Any], ...] = (), engine_key: EngineKey = lambda engine: ""
) -> dict[str, Any]:
    """Build the CDS document: one cluster for each backend, whatever its weight.

    Args:
        routes: of all lines.
        leaving: clusters of an earlier document that must stay until no route names them.
        engine_key: of the fleet.
    """
    clusters = [
        _cluster(route.line, backend, engine_key(backend.engine))
        for route in routes.lines
        for backend in route.backends
    ]
    clusters += [
        _awaited_cluster(route.line, route.queued)
        for route in routes.lines
        if route.queued and route.queued.version not in [backend.version for backend in route.backends]
    ]
    named = {cluster["name"] for cluster in clusters}
    kept = [cluster for cluster in leaving if cluster["name"] not in named]
    return discovery_document(sorted([*clusters, *kept], key=lambda cluster: str(cluster["name"])))


def _cluster(line: str, backend: Backend, key: str) -> dict[str, Any]:
    """A backend's cluster; it does not contain the weight, so that a shift never touches its connections."""
    return {
        **_cluster_at(line, backend, [_address(endpoint) for endpoint in backend.endpoints], key),
        "type": "STATIC" if all(map(_is_ip, backend.endpoints)) else "STRICT_DNS",
        "health_checks": [_health_check(backend, key)],
        **_notice_silence(),
        # A cluster without a healthy engine answers 503 at once; by default Envoy would still send it requests.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
    }


def _awaited_cluster(line: str, queued: QueuedRequests) -> dict[str, Any]:
    """The cluster of a version whose engine still starts; the engine's cluster replaces it under the same name."""
    return _cluster_at(line, queued, [{"pipe": {"path": UNREACHABLE}}])


def _cluster_at(
    line: str, version: Backend | QueuedRequests, addresses: list[dict[str, Any]], key: str = ""
) -> dict[str, Any]:
    name = cluster_name(line, version.version)
    protocol = {
        "@type": f"{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": {"max_requests_per_connection": REQUESTS_A_CONNECTION},
        "explicit_http_config": {"http_protocol_options": {}},
        **({"http_filters": _send_key(key)} if key else {}),
    }
    limits = {
        "max_connections": MAX_REQUESTS,
        "max_pending_requests": MAX_REQUESTS,
        "max_requests": MAX_REQUESTS,
        "max_retries": MAX_REQUESTS,
    }
    return {
        "@type": f"{TYPES}.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}} for address in addresses]}],
        },
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol},
        "circuit_breakers": {"thresholds": [limits]},
        "metadata": {
            "filter_metadata": {METADATA: {"line": line, "version": version.version, "digest": version.digest}}
        },
    }


def _notice_silence() -> dict[str, Any]:
    """Options of a cluster's connections by which a machine that fell silent is noticed within seconds."""
    keepalive = {
        "keepalive_time": KEEPALIVE_IDLE_SECONDS,
        "keepalive_interval": KEEPALIVE_INTERVAL_SECONDS,
        "keepalive_probes": KEEPALIVE_PROBES,
    }
    option = {"level": _TCP, "name": _TCP_USER_TIMEOUT, "int_value": UNACKNOWLEDGED_MS, "state": "STATE_PREBIND"}
    return {
        "upstream_connection_options": {"tcp_keepalive": keepalive},
        "upstream_bind_config": {"socket_options": [option]},
    }


def _send_key(key: str) -> list[dict[str, Any]]:
    """Filters of a cluster that give the engine's key to every request to it, mirrored ones too."""
    types = f"{TYPES}.extensions.filters.http"
    mutations = {"request_mutations": [{"append": _authorization(key)}]}
    return [
        {
            "name": "weighbridge.engine_key",
            "typed_config": {"@type": f"{types}.header_mutation.v3.HeaderMutation", "mutations": mutations},
        },
        {
            "name": "envoy.filters.http.upstream_codec",
            "typed_config": {"@type": f"{types}.upstream_codec.v3.UpstreamCodec"},
        },
    ]


def _authorization(key: str) -> dict[str, Any]:
    return set_header("authorization", f"Bearer {key}")


def _address(endpoint: Endpoint) -> dict[str, Any]:
    # An engine that binds to every address of this machine is asked on its loopback.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(endpoint.host, endpoint.host)
    return {"socket_address": {"address": host, "port_value": endpoint.port}}


def _is_ip(endpoint: Endpoint) -> bool:
    try:
        ipaddress.ip_address(endpoint.host)
    except ValueError:
        return False
    return True


def _health_check(backend: Backend, key: str) -> dict[str, Any]:
    request = {"path": backend.health_path}
    return {
        # An engine on a small machine may take seconds to answer while it generates: slow is not unhealthy.
        "timeout": "10s",
        "unhealthy_threshold": 3,
        "healthy_threshold": 1,
        "interval": "2s",
        # By default a cluster without traffic is checked only once a minute.
        "no_traffic_interval": "2s",
        "unhealthy_interval": "1s",
        "http_health_check": {**request, **({"request_headers_to_add": [_authorization(key)]} if key else {})},
    }
