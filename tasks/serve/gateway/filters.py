"""The filters of a request: key, size, the model, limits, the engine, and the response's faults and token counts.

Three of them are in Lua, because Envoy's own can neither look up the digest of a key, nor charge a limit with the
tokens that a response turned out to have, nor find the errors inside a stream. All others are Envoy's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.serve.gateway.discovery import ANSWER_FILTER, JSON_FILTER, KEY_FILTER, LIMIT_FILTER, METADATA

REQUEST_BYTES = 16 * 2**20
"""Largest request body; a prompt of a million tokens is about 5 MB of text."""

EVENT_BYTES = 2**20
"""Largest event of a stream that is searched for token counts; one with log-probabilities may be 100 KB."""

_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
_JSON = {"regex": r"(?i)application/json\s*(;.*)?"}


def http_filters() -> list[dict[str, Any]]:
    """All filters, in the order of a request; a response passes them from the last to the first."""
    return [
        # What follows reads and measures bodies. A stranger's body is never unpacked: his head is refused first.
        _unpack_request(),
        # Keys and limits come with the routes, so that a new key needs no restart; without routes all are refused.
        _lua(KEY_FILTER, "keys.lua"),
        _filter("weighbridge.size", "body_size_limit.v3.BodySizeLimit", max_request_bytes=REQUEST_BYTES),
        _filter(JSON_FILTER, "json_to_metadata.v3.JsonToMetadata", request_rules=_read_request()),
        *answer_filters(),
    ]


def answer_filters() -> list[dict[str, Any]]:
    """The filters that measure a response."""
    return [
        _lua(LIMIT_FILTER, "limits.lua"),
        _lua(ANSWER_FILTER, "answers.lua"),
        # After the limits, which read the counts of a response that has passed these two.
        _filter("weighbridge.usage", "json_to_metadata.v3.JsonToMetadata", response_rules=_read_usage()),
        _filter("weighbridge.streamed_usage", "sse_to_metadata.v3.SseToMetadata", response_rules=_read_events()),
        router(),
    ]


def _unpack_request() -> dict[str, Any]:
    """Unpack gzip bodies of requests.

    Answers need none: `accept-encoding` goes no further than here. With unpacked answers Envoy 1.40 hangs, because the
    filter adds trailers to them.
    """
    gzip = "type.googleapis.com/envoy.extensions.compression.gzip.decompressor.v3.Gzip"
    off = {"enabled": {"default_value": False, "runtime_key": "gateway.unpack_answers"}}
    return _filter(
        "weighbridge.unpack",
        "decompressor.v3.Decompressor",
        # The largest window, with which every gzip writes; Envoy's own default reads few of them.
        decompressor_library={"name": "gzip", "typed_config": {"@type": gzip, "window_bits": 15}},
        request_direction_config={"advertise_accept_encoding": False},
        response_direction_config={"common_config": off},
    )


def router() -> dict[str, Any]:
    """The filter that forwards a request."""
    return _filter("envoy.filters.http.router", "router.v3.Router", suppress_envoy_headers=True)


def _read_request() -> dict[str, Any]:
    """Read `model` and the conversation's name from the request's body.

    `problem` is set for a body without a model or that is not JSON, and `messages` for one whose messages are invalid.
    """
    model = {
        "selectors": [{"key": "model"}],
        "on_present": _as("model"),
        "on_missing": {**_as("problem"), "value": "no_model"},
        "on_error": {**_as("problem"), "value": "no_json"},
    }
    # OpenAI's field for the conversation, and the one that it replaced.
    conversations: list[dict[str, Any]] = [
        {"selectors": [{"key": field}], "on_present": {**_as("conversation"), "preserve_existing_metadata_value": True}}
        for field in ("prompt_cache_key", "user")
    ]
    # The filter cannot read lists: `messages` that it can read are not a list.
    messages = {"selectors": [{"key": "messages"}], "on_present": _as("messages")}
    return {"allow_content_types_regex": _JSON, "rules": [model, messages, *conversations]}


def _read_usage() -> dict[str, Any]:
    return {"allow_content_types_regex": _JSON, "rules": _usage_rules()}


def _read_events() -> dict[str, Any]:
    parser = {
        "@type": "type.googleapis.com/envoy.extensions.content_parsers.json.v3.JsonContentParser",
        "rules": [{"rule": rule} for rule in _usage_rules()],
    }
    return {
        "content_parser": {"name": "envoy.content_parsers.json", "typed_config": parser},
        "max_event_size": EVENT_BYTES,
    }


def _usage_rules() -> list[dict[str, Any]]:
    """Where completions, responses and the last event of streamed responses report their tokens."""
    places = {
        "prompt_tokens": (("usage", "prompt_tokens"), ("usage", "input_tokens"), ("response", "usage", "input_tokens")),
        "completion_tokens": (
            *[("usage", "completion_tokens"), ("usage", "output_tokens")],
            ("response", "usage", "output_tokens"),
        ),
    }
    return [
        {"selectors": [{"key": key} for key in path], "on_present": {**_as(count), "type": "NUMBER"}}
        for count, paths in places.items()
        for path in paths
    ]


def _as(key: str) -> dict[str, Any]:
    return {"metadata_namespace": METADATA, "key": key}


def _lua(name: str, script: str) -> dict[str, Any]:
    text = (Path(__file__).parent / "lua" / script).read_text()
    return _filter(name, "lua.v3.Lua", default_source_code={"inline_string": text})


def _filter(name: str, kind: str, **config: object) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{_HTTP}.{kind}", **config}}
