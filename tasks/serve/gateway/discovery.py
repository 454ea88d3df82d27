"""The part of Envoy's configuration that follows the routes: clusters (CDS) and routes with keys (RDS).

Each document's version is the digest of its content, so that the version that Envoy runs shows whether it has taken
exactly this document. A counter would not do: Envoy keeps the old version when nothing changed.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
from datetime import datetime
from typing import Any

from tasks.serve.endpoint import Endpoint
from tasks.serve.gateway.error_responses import (
    error_answer,
    health_answer,
    model_answer,
    model_not_found,
    models_answer,
)
from tasks.serve.gateway.keys import KeyRecord, Keys
from tasks.serve.gateway.routes import Backend, Limits, LineRoute, QueuedRequests, Routes

METADATA = "weighbridge"
"""Namespace of our own metadata on requests, routes and clusters."""

ROUTE_CONFIGURATION = "lines"
CLIENT_HEADER = "x-weighbridge-client"
VERSION_HEADER = "x-weighbridge-version"
DIGEST_HEADER = "x-weighbridge-digest"
CONVERSATION_HEADER = "x-conversation-id"
SHADOW_CLUSTER, SHADOW_HEADER = "shadow", "x-weighbridge-shadow"
"""Cluster that gets mirrored requests, and the header that names the version they are for."""

KEY_FILTER, LIMIT_FILTER = "weighbridge.keys", "weighbridge.limits"
JSON_FILTER = "envoy.filters.http.json_to_metadata"

STREAM_IDLE_SECONDS = 600
"""Longest silence within a response; as long as OpenAI's own client waits by default."""

REQUESTS_A_CONNECTION = 1
"""llama.cpp's server closes its connection after each stream without notice, and a request on such a connection fails
with 503. A new connection to an engine on this machine costs a fraction of a millisecond."""

RETRY_ON = "connect-failure,refused-stream,reset-before-request"
"""Conditions for a retry: only if the engine cannot have seen the request, so that nothing is generated twice."""

UNREACHABLE = "/dev/null/nobody"
"""A socket's path at which nothing can ever listen: to connect to it fails at once."""

RETRY_SECONDS = 1.0
"""Longest pause between two retries of a queued request; Envoy draws each between 0 and this."""

MAX_REQUESTS = 1024
"""Concurrent requests to one backend, and as many again that wait for a connection; more are refused with 429."""

_TYPES = "type.googleapis.com/envoy"


def cluster_name(line: str, version: str) -> str:
    """Envoy's name for a version of a line: `smollm2@3`."""
    return f"{line}@{version}"


def clusters_document(routes: Routes, leaving: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """Build the CDS document: one cluster for each backend, whatever its weight.

    Args:
        routes: of all lines.
        leaving: clusters of an earlier document that must stay until no route names them.
    """
    clusters = [_cluster(route.line, backend) for route in routes.lines for backend in route.backends]
    clusters += [
        _awaited_cluster(route.line, route.queued)
        for route in routes.lines
        if route.queued and route.queued.version not in [backend.version for backend in route.backends]
    ]
    named = {cluster["name"] for cluster in clusters}
    kept = [cluster for cluster in leaving if cluster["name"] not in named]
    return _discovery(sorted([*clusters, *kept], key=lambda cluster: str(cluster["name"])))


def routes_document(routes: Routes, keys: Keys) -> dict[str, Any]:
    """Build the RDS document: the routes of all lines, behind the clients' keys."""
    host = {
        "name": "all",
        "domains": ["*"],
        "routes": _routes(routes),
        "retry_policy": {"retry_on": RETRY_ON, "num_retries": 2},
        "typed_per_filter_config": {
            KEY_FILTER: filter_context({record.sha256: _known(name, record) for name, record in keys.root.items()}),
            LIMIT_FILTER: filter_context(
                {
                    **{f"client:{name}": _limits(record.limits) for name, record in keys.root.items()},
                    **{
                        f"line:{route.line}": {**_limits(route.limits), "back_at": _epoch(route.back_at)}
                        for route in routes.lines
                    },
                }
            ),
        },
    }
    configuration = {
        "@type": f"{_TYPES}.config.route.v3.RouteConfiguration",
        "name": ROUTE_CONFIGURATION,
        "virtual_hosts": [host],
        # The default of 4 KiB would refuse the list of a few dozen models.
        "max_direct_response_body_size_bytes": 2**20,
    }
    return _discovery([configuration])


def _known(client: str, record: KeyRecord) -> dict[str, Any]:
    return {"client": client, "expires": _epoch(record.expires)}


def _epoch(moment: datetime | None) -> int:
    """Seconds since the epoch, as the Lua filters count time; 0 for never."""
    return int(moment.timestamp()) if moment else 0


def _limits(limits: Limits) -> dict[str, int]:
    return {"requests": limits.requests_per_minute or 0, "tokens": limits.tokens_per_minute or 0}


def filter_context(values: dict[str, Any]) -> dict[str, Any]:
    """Values for a Lua filter to look up; its script and its counts are kept when they change."""
    return {"@type": f"{_TYPES}.extensions.filters.http.lua.v3.LuaPerRoute", "filter_context": values}


def _discovery(resources: list[dict[str, Any]]) -> dict[str, Any]:
    content = hashlib.sha256(json.dumps(resources, sort_keys=True).encode()).hexdigest()
    return {"version_info": content, "resources": resources}


def _cluster(line: str, backend: Backend) -> dict[str, Any]:
    """A backend's cluster; it does not contain the weight, so that a shift never touches its connections."""
    return {
        **_cluster_at(line, backend, [_address(endpoint) for endpoint in backend.endpoints]),
        "type": "STATIC" if all(map(_is_ip, backend.endpoints)) else "STRICT_DNS",
        "health_checks": [_health_check(backend)],
        # A cluster without a healthy engine answers 503 at once; by default Envoy would still send it requests.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
    }


def _awaited_cluster(line: str, queued: QueuedRequests) -> dict[str, Any]:
    """The cluster of a version whose engine still starts; the engine's cluster replaces it under the same name."""
    return _cluster_at(line, queued, [{"pipe": {"path": UNREACHABLE}}])


def _cluster_at(line: str, version: Backend | QueuedRequests, addresses: list[dict[str, Any]]) -> dict[str, Any]:
    name = cluster_name(line, version.version)
    protocol = {
        "@type": f"{_TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": {"max_requests_per_connection": REQUESTS_A_CONNECTION},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    limits = {
        "max_connections": MAX_REQUESTS,
        "max_pending_requests": MAX_REQUESTS,
        "max_requests": MAX_REQUESTS,
        "max_retries": MAX_REQUESTS,
    }
    return {
        "@type": f"{_TYPES}.config.cluster.v3.Cluster",
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


def _health_check(backend: Backend) -> dict[str, Any]:
    return {
        # An engine on a small machine may take seconds to answer while it generates: slow is not unhealthy.
        "timeout": "10s",
        "unhealthy_threshold": 3,
        "healthy_threshold": 1,
        "interval": "2s",
        # By default a cluster without traffic is checked only once a minute.
        "no_traffic_interval": "2s",
        "unhealthy_interval": "1s",
        "http_health_check": {"path": backend.health_path},
    }


def _routes(routes: Routes) -> list[dict[str, Any]]:
    """All routes, in the order in which they are matched."""
    names = [route.line for route in routes.lines]
    no_list = "`messages` must be a list of messages."
    found: list[dict[str, Any]] = [
        {"match": {"path": "/healthz"}, **health_answer(), **_without(KEY_FILTER, LIMIT_FILTER, JSON_FILTER)},
        {"match": {"path": "/v1/models"}, **models_answer(names)},
        {"match": {"prefix": "/", **_body_has("messages", None)}, **error_answer(400, no_list, "invalid_type")},
    ]
    for route in routes.lines:
        prefix = f"/{route.line}/v1/"
        found += [
            {"match": {"path": f"/v1/models/{route.line}"}, **model_answer(route.line)},
            {"match": {"path": f"{prefix}models"}, **models_answer([route.line])},
            {"match": {"prefix": prefix}, **_to_backends(route, {"prefix_rewrite": "/v1/"})},
        ]
    found += [
        {"match": {"prefix": "/v1/", **_body_has("model", route.line)}, **_to_backends(route, {})}
        for route in routes.lines
    ]
    missing = "The body must be JSON (content-type application/json) and name a model."
    return [
        *found,
        {"match": {"prefix": "/v1/models/"}, **model_not_found(routes)},
        {"match": {"prefix": "/v1/", **_body_has("problem", "no_json")}, **error_answer(400, missing, "invalid_json")},
        {
            "match": {"prefix": "/v1/", **_body_has("problem", "no_model")},
            **error_answer(400, missing, "model_missing"),
        },
        {"match": {"prefix": "/v1/"}, **model_not_found(routes)},
        {"match": {"prefix": "/"}, **error_answer(404, "Nothing here; ask below /v1.", "not_found")},
    ]


def _to_backends(route: LineRoute, action: dict[str, Any]) -> dict[str, Any]:
    head = {"name": route.line, "metadata": {"filter_metadata": {METADATA: {"line": route.line}}}}
    targets: list[tuple[Backend | QueuedRequests, int]]
    retries: dict[str, Any] = {}
    if any(backend.weight for backend in route.backends):
        targets = [(backend, backend.weight) for backend in route.backends]
    elif route.queued:
        targets, retries = [(route.queued, 100)], _retry_until_up(route.queued)
    else:
        # Envoy refuses a route whose weights are all zero.
        message = f"No version of {route.line} takes requests at the moment."
        return {**head, **error_answer(503, message, "model_unavailable", "server_error")}
    weighted = [
        {
            "name": cluster_name(route.line, target.version),
            "weight": weight,
            "response_headers_to_add": [
                _header(VERSION_HEADER, target.version),
                _header(DIGEST_HEADER, target.digest),
            ],
        }
        for target, weight in targets
    ]
    # A long response is no fault; only silence is.
    timeouts = {"timeout": "0s", "idle_timeout": f"{STREAM_IDLE_SECONDS}s"}
    sticky = _sticky(route)
    shares = {"clusters": weighted, **({"use_hash_policy": True} if sticky else {})}
    return {
        **head,
        "route": {"weighted_clusters": shares, **sticky, **_mirrored(route), **retries, **timeouts, **action},
    }


def _retry_until_up(queued: QueuedRequests) -> dict[str, Any]:
    """Retry until the engine is up; after the last retry a request is answered 503."""
    retries = math.ceil(queued.seconds / (RETRY_SECONDS / 2))
    pause = {"base_interval": f"{RETRY_SECONDS}s", "max_interval": f"{RETRY_SECONDS}s"}
    return {"retry_policy": {"retry_on": RETRY_ON, "num_retries": retries, "retry_back_off": pause}}


def _sticky(route: LineRoute) -> dict[str, Any]:
    """The header whose hash decides the version; requests without it are spread at random."""
    header = {"conversation": CONVERSATION_HEADER, "key": CLIENT_HEADER}.get(route.sticky_by)
    return {"hash_policy": [{"header": {"header_name": header}}]} if header else {}


def _mirrored(route: LineRoute) -> dict[str, Any]:
    if route.mirror is None:
        return {}
    header = _header(SHADOW_HEADER, cluster_name(route.line, route.mirror.version))
    mirror = {
        "cluster": SHADOW_CLUSTER,
        "request_headers_mutations": [{"append": header}],
        "runtime_fraction": {"default_value": {"numerator": route.mirror.per_cent, "denominator": "HUNDRED"}},
        "disable_shadow_host_suffix_append": True,
    }
    return {"request_mirror_policies": [mirror]}


def _header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _body_has(key: str, text: str | None) -> dict[str, Any]:
    """A condition on a field of the body: that it has this value, or (None) that it is present."""
    value = {"present_match": True} if text is None else {"string_match": {"exact": text}}
    return {"dynamic_metadata": [{"filter": METADATA, "path": [{"key": key}], "value": value}]}


def _without(*filters: str) -> dict[str, Any]:
    off = {"@type": f"{_TYPES}.config.route.v3.FilterConfig", "disabled": True}
    return {"typed_per_filter_config": dict.fromkeys(filters, off)}
