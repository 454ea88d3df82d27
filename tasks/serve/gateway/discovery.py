"""The part of Envoy's configuration that follows the routes: clusters (CDS) and routes with keys (RDS).

Each document's version is the digest of its content, so that the version that Envoy runs shows whether it has taken
exactly this document. A counter would not do: Envoy keeps the old version when nothing changed.
"""

from __future__ import annotations

import hashlib
import json
import math
from datetime import datetime
from typing import Any

from tasks.serve.gateway.error_responses import (
    error_answer,
    health_answer,
    model_answer,
    model_not_found,
    models_answer,
)
from tasks.serve.gateway.keys import KeyRecord, Keys
from tasks.serve.gateway.passed_paths import counted_paths, method_is, refusals
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

KEY_FILTER, LIMIT_FILTER, ANSWER_FILTER = "weighbridge.keys", "weighbridge.limits", "weighbridge.answers"
JSON_FILTER = "envoy.filters.http.json_to_metadata"

STREAM_IDLE_SECONDS = 600
"""Longest silence within a response; as long as OpenAI's own client waits by default."""

RETRY_ON = "connect-failure,refused-stream,reset-before-request"
"""Conditions for a retry: only if the engine cannot have seen the request, so that nothing is generated twice."""

SELECTIONS = 5
"""How often a retry draws an endpoint until it is one that the request has not tried; then it takes the last one."""

RETRY_SECONDS = 1.0
"""Longest pause between two retries of a queued request; Envoy draws each between 0 and this."""

MAX_REQUESTS = 1024
"""Concurrent requests to one backend, and as many again that wait for a connection; more are refused with 429."""

TYPES = "type.googleapis.com/envoy"


def cluster_name(line: str, version: str) -> str:
    """Envoy's name for a version of a line: `smollm2@3`."""
    return f"{line}@{version}"


def routes_document(routes: Routes, keys: Keys) -> dict[str, Any]:
    """Build the RDS document: the routes of all lines, behind the clients' keys."""
    host = {
        "name": "all",
        "domains": ["*"],
        "routes": _routes(routes),
        "retry_policy": {"retry_on": RETRY_ON, **_another_endpoint(routes)},
        "typed_per_filter_config": {
            KEY_FILTER: filter_context({record.sha256: _known(name, record) for name, record in keys.root.items()}),
            LIMIT_FILTER: filter_context(
                {
                    "paths": counted_paths(),
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
        "@type": f"{TYPES}.config.route.v3.RouteConfiguration",
        "name": ROUTE_CONFIGURATION,
        "virtual_hosts": [host],
        # The default of 4 KiB would refuse the list of a few dozen models.
        "max_direct_response_body_size_bytes": 2**20,
    }
    return discovery_document([configuration])


def _known(client: str, record: KeyRecord) -> dict[str, Any]:
    return {"client": client, "expires": _epoch(record.expires)}


def _epoch(moment: datetime | None) -> int:
    """Seconds since the epoch, as the Lua filters count time; 0 for never."""
    return int(moment.timestamp()) if moment else 0


def _limits(limits: Limits) -> dict[str, int]:
    return {"requests": limits.requests_per_minute or 0, "tokens": limits.tokens_per_minute or 0}


def filter_context(values: dict[str, Any]) -> dict[str, Any]:
    """Values for a Lua filter to look up; its script and its counts are kept when they change."""
    return {"@type": f"{TYPES}.extensions.filters.http.lua.v3.LuaPerRoute", "filter_context": values}


def discovery_document(resources: list[dict[str, Any]]) -> dict[str, Any]:
    """A document whose version is the digest of its content."""
    content = hashlib.sha256(json.dumps(resources, sort_keys=True).encode()).hexdigest()
    return {"version_info": content, "resources": resources}


def _routes(routes: Routes) -> list[dict[str, Any]]:
    """All routes, in the order in which they are matched."""
    names = [route.line for route in routes.lines]
    read = {"headers": [method_is("GET", "HEAD")]}
    no_list = "`messages` must be a list of messages."
    found: list[dict[str, Any]] = [
        {"match": {"path": "/healthz"}, **health_answer(), **_without(KEY_FILTER, LIMIT_FILTER, JSON_FILTER)},
        {"match": {"path": "/v1/models", **read}, **models_answer(names)},
    ]
    for route in routes.lines:
        found += [
            {"match": {"path": f"/v1/models/{route.line}", **read}, **model_answer(route.line)},
            {"match": {"path": f"/{route.line}/v1/models", **read}, **models_answer([route.line])},
        ]
    found += [
        {"match": {"prefix": "/v1/models/", **read}, **model_not_found(routes)},
        *refusals(),
        {"match": {"prefix": "/", **_body_has("messages", None)}, **error_answer(400, no_list, "invalid_type")},
    ]
    found += [
        {"match": {"prefix": f"/{route.line}/v1/"}, **_to_backends(route, {"prefix_rewrite": "/v1/"})}
        for route in routes.lines
    ]
    found += [
        {"match": {"prefix": "/v1/", **_body_has("model", route.line)}, **_to_backends(route, {})}
        for route in routes.lines
    ]
    return [*found, *_without_line(routes)]


def _without_line(routes: Routes) -> list[dict[str, Any]]:
    """Routes of requests that name no line, each with its reason."""
    missing = "The body must be JSON (content-type application/json) and name a model."
    form = "A form's model is not read: name the line in the path, as /LINE/v1/audio/transcriptions."
    is_form = {"name": "content-type", "string_match": {"prefix": "multipart/", "ignore_case": True}}
    return [
        {"match": {"prefix": "/v1/", "headers": [is_form]}, **error_answer(400, form, "model_missing")},
        {"match": {"prefix": "/v1/", **_body_has("problem", "no_json")}, **error_answer(400, missing, "invalid_json")},
        {
            "match": {"prefix": "/v1/", **_body_has("problem", "no_model")},
            **error_answer(400, missing, "model_missing"),
        },
        {"match": {"prefix": "/v1/"}, **model_not_found(routes)},
        {"match": {"prefix": "/"}, **error_answer(404, "No such line here; ask below /v1.", "not_found")},
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
                set_header(VERSION_HEADER, target.version),
                set_header(DIGEST_HEADER, target.digest),
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


def _another_endpoint(routes: Routes) -> dict[str, Any]:
    """Retry at another endpoint than those that did not answer; of two, one in two retries would meet it again."""
    most = max((len(backend.endpoints) for route in routes.lines for backend in route.backends), default=1)
    previous = f"{TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {
        "num_retries": max(2, most - 1),
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": previous}}
        ],
        "host_selection_retry_max_attempts": SELECTIONS,
    }


def _sticky(route: LineRoute) -> dict[str, Any]:
    """The header whose hash decides the version; requests without it are spread at random."""
    header = {"conversation": CONVERSATION_HEADER, "key": CLIENT_HEADER}.get(route.sticky_by)
    return {"hash_policy": [{"header": {"header_name": header}}]} if header else {}


def _mirrored(route: LineRoute) -> dict[str, Any]:
    if route.mirror is None:
        return {}
    header = set_header(SHADOW_HEADER, cluster_name(route.line, route.mirror.version))
    mirror = {
        "cluster": SHADOW_CLUSTER,
        "request_headers_mutations": [{"append": header}],
        "runtime_fraction": {"default_value": {"numerator": route.mirror.per_cent, "denominator": "HUNDRED"}},
        "disable_shadow_host_suffix_append": True,
    }
    return {"request_mirror_policies": [mirror]}


def set_header(name: str, value: str) -> dict[str, Any]:
    """Set a header, whatever it was."""
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _body_has(key: str, text: str | None) -> dict[str, Any]:
    """A condition on a field of the body: that it has this value, or (None) that it is present."""
    value = {"present_match": True} if text is None else {"string_match": {"exact": text}}
    return {"dynamic_metadata": [{"filter": METADATA, "path": [{"key": key}], "value": value}]}


def _without(*filters: str) -> dict[str, Any]:
    off = {"@type": f"{TYPES}.config.route.v3.FilterConfig", "disabled": True}
    return {"typed_per_filter_config": dict.fromkeys(filters, off)}
