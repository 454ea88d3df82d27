"""The gateway's own responses, in the shapes of OpenAI's API."""

from __future__ import annotations

import json
from typing import Any

from tasks.serve.gateway.routes import Routes


def error_body(message: str, kind: str, code: str) -> dict[str, Any]:
    """Body of a failed request, as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "code": code, "param": None}}


def error_answer(status: int, message: str, code: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    """The part of a route that answers with an error."""
    return _direct(status, error_body(message, kind, code))


def models_answer(names: list[str]) -> dict[str, Any]:
    """The part of a route that lists models."""
    return _direct(200, {"object": "list", "data": [_model(name) for name in names]})


def model_answer(name: str) -> dict[str, Any]:
    """The part of a route that describes one model."""
    return _direct(200, _model(name))


def health_answer() -> dict[str, Any]:
    """The part of a route that answers the gateway's own health check."""
    return _direct(200, {"status": "ok"})


def model_not_found(routes: Routes) -> dict[str, Any]:
    """The answer to a request for a model that is not the name of any line."""
    names = ", ".join(route.line for route in routes.lines)
    message = f"No such model here; there are: {names}." if names else "No model is served here yet."
    return error_answer(404, message, "model_not_found")


def local_replies() -> dict[str, Any]:
    """Bodies for Envoy's own errors: one for each status that its codec, its filters and its router can produce.

    The responses above, and those of the Lua filters, are exempt: they have their JSON already.
    """
    cel = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
    written_here = "response.code_details == 'direct_response' || response.code_details == 'lua_response'"
    failed = {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {"@type": cel, "expression": f"!({written_here})"},
        }
    }
    overloaded = {"response_flag_filter": {"flags": ["UO"]}}
    return {
        "mappers": [
            _mapper(
                _status("EQ", 413), "The request's body is too large.", "invalid_request_error", "request_too_large"
            ),
            # Envoy sets no response flag on it; nothing of ours answers so.
            _mapper(_status("EQ", 408), "The request was sent too slowly.", "invalid_request_error", "request_timeout"),
            _mapper(
                _status("EQ", 431), "The request's headers are too large.", "invalid_request_error", "headers_too_large"
            ),
            _mapper(
                _both(_status("EQ", 403), failed),
                "The gateway passes no web sockets or other upgrades.",
                "invalid_request_error",
                "upgrade_refused",
            ),
            _mapper(
                overloaded, "The model has too many requests at once.", "rate_limit_error", "rate_limit_exceeded", 429
            ),
            _mapper(
                _both(_status("GE", 500), failed),
                "The model does not answer just now. Try again shortly.",
                "server_error",
                "model_unavailable",
            ),
            _mapper(
                _both(_status("GE", 400), failed),
                "The gateway cannot make sense of the request.",
                "invalid_request_error",
                "bad_request",
            ),
        ]
    }


def _direct(status: int, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "direct_response": {"status": status, "body": {"inline_string": json.dumps(body)}},
        "response_headers_to_add": [
            {
                "header": {"key": "content-type", "value": "application/json"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "weighbridge"}


def _status(comparison: str, status: int) -> dict[str, Any]:
    # Envoy's schema requires a runtime key; nothing sets it.
    value = {"default_value": status, "runtime_key": f"gateway.status_{comparison.lower()}_{status}"}
    return {"status_code_filter": {"comparison": {"op": comparison, "value": value}}}


def _both(*filters: dict[str, Any]) -> dict[str, Any]:
    return {"and_filter": {"filters": list(filters)}}


def _mapper(which: dict[str, Any], message: str, kind: str, code: str, status: int | None = None) -> dict[str, Any]:
    mapper: dict[str, Any] = {
        "filter": which,
        "body_format_override": {"json_format": error_body(message, kind, code)},
    }
    if status is not None:
        mapper["status_code"] = status
    return mapper
