"""The access log with a line for each request, and counts by line, version and client for Prometheus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.serve.gateway.discovery import CLIENT_HEADER, METADATA
from weighbridge.settings import Settings

_LOGGERS = "type.googleapis.com/envoy.extensions.access_loggers"
_LINE, _VERSION = f"%METADATA(ROUTE:{METADATA}:line)%", f"%METADATA(CLUSTER:{METADATA}:version)%"
_CLIENT, _STATUS = f"%REQ({CLIENT_HEADER})%", "%RESPONSE_CODE%"
_PROMPT, _COMPLETION = (f"%DYNAMIC_METADATA({METADATA}:{part}_tokens)%" for part in ("prompt", "completion"))
_FIRST_TOKEN = f"%DYNAMIC_METADATA({METADATA}:first_token_ms)%"

ACCESS_LOG: dict[str, str] = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "line": _LINE,
    "version": _VERSION,
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "client": _CLIENT,
    "method": "%REQ(:METHOD)%",
    # Without the query, which may contain a careless client's key.
    "path": "%PATH(NQ:ORIG_OR_PATH)%",
    "status": _STATUS,
    "prompt_tokens": _PROMPT,
    "completion_tokens": _COMPLETION,
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "content_type": "%RESP(CONTENT-TYPE)%",
    "duration_ms": "%DURATION%",
    "first_byte_ms": "%RESPONSE_DURATION%",
    # Of streams only: their first byte comes long before their first token.
    "first_token_ms": _FIRST_TOKEN,
    # The first fault that the text of a 200 shows (lua/answers.lua), such as an error's event in a stream.
    "fault": f"%DYNAMIC_METADATA({METADATA}:fault)%",
    # A number made of the conversation's name, which may be a person's.
    "conversation": f"%DYNAMIC_METADATA({METADATA}:conversation_id)%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "request_id": "%STREAM_ID%",
}


def access_log(settings: Settings) -> Path:
    """File of the access log; a request is in it within a second of its end."""
    return settings.logs_folder / "gateway-access.log"


def mirror_log(settings: Settings) -> Path:
    """File of the log of mirrored requests, whose responses no client sees."""
    return settings.logs_folder / "gateway-shadow.log"


def access_loggers(settings: Settings) -> list[dict[str, Any]]:
    """Envoy's loggers of clients' requests: the file and the counts."""
    return [
        _file(access_log(settings), ACCESS_LOG),
        {"name": "envoy.access_loggers.stats", "typed_config": _counts()},
    ]


def mirror_loggers(settings: Settings) -> list[dict[str, Any]]:
    """Envoy's logger of mirrored requests. They are not counted: the counts are of clients' requests."""
    # All mirrored requests share one route; each version has its own cluster.
    return [_file(mirror_log(settings), {**ACCESS_LOG, "line": f"%METADATA(CLUSTER:{METADATA}:line)%"})]


def _file(path: Path, fields: dict[str, str]) -> dict[str, Any]:
    file = {
        "@type": f"{_LOGGERS}.file.v3.FileAccessLog",
        "path": str(path),
        "log_format": {"json_format": fields},
    }
    return {"name": "envoy.access_loggers.file", "typed_config": file}


def _counts() -> dict[str, Any]:
    """Counts of clients' requests; unlike those of Envoy's clusters they contain no mirrored request."""
    where = {"line": _LINE, "version": _VERSION}
    return {
        "@type": f"{_LOGGERS}.stats.v3.Config",
        "stat_prefix": "weighbridge",
        "counters": [
            {"stat": _stat("answers", **where, client=_CLIENT, status=_STATUS), "value_fixed": 1},
            {"stat": _stat("prompt_tokens", **where, client=_CLIENT), "value_format": _PROMPT},
            {"stat": _stat("completion_tokens", **where, client=_CLIENT), "value_format": _COMPLETION},
        ],
        "histograms": [
            {"stat": _stat("duration_ms", **where), "unit": "Milliseconds", "value_format": "%DURATION%"},
            {"stat": _stat("first_token_ms", **where), "unit": "Milliseconds", "value_format": _FIRST_TOKEN},
        ],
    }


def _stat(name: str, **tags: str) -> dict[str, Any]:
    return {"name": name, "tags": [{"name": tag, "value_format": value} for tag, value in tags.items()]}
