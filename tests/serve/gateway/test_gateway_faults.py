"""Faults inside answers of status 200, as the access log names them: for each dialect, streamed and whole."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.serve.gateway.gateway_support import FakeEngine, Running
from tests.support.waiting import wait_for

pytestmark = pytest.mark.server

Make = Callable[[], FakeEngine]
ERROR = {"error": {"message": "CUDA error", "type": "InternalServerError", "code": 500}}
DONE = "[DONE]"


def chat(**delta: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def tool(arguments: str) -> dict[str, object]:
    return chat(tool_calls=[{"index": 0, "function": {"arguments": arguments}}])


def end(reason: str = "stop") -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


SAID = chat(content='a "word", \\ and {"error": 1}')
TEXT = {"choices": [{"index": 0, "text": "a", "finish_reason": None}]}
PIECE = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}
INPUT = {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a": '}}
STOP = {"type": "message_stop"}
DELTA = {"type": "response.output_text.delta", "output_index": 0, "delta": "a"}
CALL = {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": '{"a'}
COMPLETED = {"type": "response.completed", "response": {"status": "completed", "error": None}}

STREAMS: list[tuple[str, str | None, list[object]]] = [
    ("chat/completions", None, [chat(role="assistant"), SAID, end(), DONE]),
    ("chat/completions", None, [tool('{"a": '), tool("[1]}"), end("tool_calls"), DONE]),
    ("chat/completions", None, [tool('{"a": '), end("length"), DONE]),
    ("chat/completions", None, [SAID, end(), {"choices": [], "usage": {"completion_tokens": 3}}, DONE]),
    ("chat/completions", "error_event", [SAID, ERROR, DONE]),
    ("chat/completions", "error_event", [{"object": "error", "message": "out of memory"}]),
    ("chat/completions", "no_finish", [SAID, DONE]),
    ("chat/completions", "no_finish", []),
    ("chat/completions", "no_done", [SAID, end()]),
    ("chat/completions", "aborted", [SAID, end("abort"), DONE]),
    ("chat/completions", "aborted", [SAID, end("error"), DONE]),
    ("chat/completions", "tool_call_cut", [tool('{"a": '), end("tool_calls"), DONE]),
    ("chat/completions", "broken_json", ['{"choices": [{"delta": {"content": "a', end(), DONE]),
    ("chat/completions", "broken_json", [SAID, "Internal Server Error"]),
    ("completions", None, [TEXT, {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}, DONE]),
    ("completions", "no_finish", [TEXT, TEXT, DONE]),
    ("responses", None, [DELTA, COMPLETED]),
    ("responses", None, [CALL, {"type": "response.incomplete", "response": {}}]),
    ("responses", "no_finish", [DELTA]),
    ("responses", "error_event", [DELTA, {"type": "response.failed", "response": {"error": {"code": "x"}}}]),
    ("responses", "error_event", [DELTA, {"type": "error", "code": "server_error", "message": "m"}]),
    ("responses", "tool_call_cut", [CALL, COMPLETED]),
    ("messages", None, [{"type": "message_start"}, {"type": "ping"}, PIECE, STOP]),
    ("messages", None, [INPUT, {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}}, STOP]),
    ("messages", "no_finish", [{"type": "message_start"}, PIECE]),
    ("messages", "error_event", [PIECE, {"type": "error", "error": {"type": "overloaded_error"}}]),
    ("messages", "tool_call_cut", [INPUT, STOP]),
]

MESSAGE = {"message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
CUT_CALL = {"message": {"tool_calls": [{"function": {"name": "f", "arguments": '{"a'}}]}, "finish_reason": "tool_calls"}
WHOLE: list[tuple[str, str | None, str]] = [
    ("chat/completions", None, json.dumps({"choices": [MESSAGE], "error": None})),
    ("chat/completions", "error_event", json.dumps(ERROR)),
    ("chat/completions", "no_choices", json.dumps({"choices": []})),
    ("chat/completions", "aborted", json.dumps({"choices": [{**MESSAGE, "finish_reason": "abort"}]})),
    ("chat/completions", "tool_call_cut", json.dumps({"choices": [CUT_CALL]})),
    ("chat/completions", "broken_json", '{"choices": [{"message": {"content": "a'),
    ("responses", None, json.dumps({"object": "response", "status": "completed", "error": None})),
    ("responses", "aborted", json.dumps({"object": "response", "status": "failed"})),
    ("messages", None, json.dumps({"type": "message", "content": [], "stop_reason": "end_turn"})),
    ("messages", "error_event", json.dumps({"type": "error", "error": {"type": "api_error"}})),
    ("embeddings", None, json.dumps({"data": [{"embedding": [0.5]}]})),
]


def fault_of(running: Running, request_id: str) -> object:
    return entry_of(running, request_id)["fault"]


def entry_of(running: Running, request_id: str) -> dict[str, object]:
    log = running.gateway.settings.logs_folder / "gateway-access.log"
    found: list[dict[str, object]] = []

    def logged() -> bool:
        lines = log.read_text().splitlines() if log.is_file() else []
        found[:] = [entry for entry in map(json.loads, lines) if entry["request_id"] == request_id]
        return bool(found)

    wait_for(logged, seconds=15)
    return found[0]


def test_each_fault_inside_a_stream_is_named(running: Running, engine: Make) -> None:
    fake = engine()
    running.gateway.set_line("streams", [fake.backend("1", 100)])
    found = []
    for path, _, events in STREAMS:
        texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
        fake.stream_bytes = "".join(f"data: {text}\n\n" for text in texts).encode()
        answer = running.request(f"/v1/{path}", {"model": "streams", "stream": True})
        assert answer.content == fake.stream_bytes
        found.append(answer.headers["x-request-id"])
    told = [(path, fault_of(running, request_id), events) for (path, _, events), request_id in zip(STREAMS, found)]
    assert told == STREAMS


def test_each_fault_of_a_whole_answer_is_named(running: Running, engine: Make) -> None:
    fake = engine()
    running.gateway.set_line("wholes", [fake.backend("1", 100)])
    found = []
    for path, _, text in WHOLE:
        fake.answer_bytes = text.encode()
        found.append(running.request(f"/v1/{path}", {"model": "wholes"}).headers["x-request-id"])
    told = [(path, fault_of(running, request_id), text) for (path, _, text), request_id in zip(WHOLE, found)]
    assert told == WHOLE


def test_other_forms_of_server_sent_events_are_read(running: Running, engine: Make) -> None:
    fake = engine()
    running.gateway.set_line("forms", [fake.backend("1", 100)])
    good = f"data:{json.dumps(SAID)}\r\n\r\n: a comment\r\n\r\ndata: {json.dumps(end())}\r\n\r\ndata: [DONE]"
    spread = f'data: {{"choices": [\ndata: {json.dumps(end()["choices"])[1:]}}}\n\ndata: [DONE]\n\n'
    old = f"data: {json.dumps(SAID)}\n\nerror: {json.dumps(ERROR)}\n\n"
    for text, fault in ((good, None), (spread, None), (old, "error_event")):
        fake.stream_bytes = text.encode()
        answer = running.request("/v1/chat/completions", {"model": "forms", "stream": True})
        assert fault_of(running, answer.headers["x-request-id"]) == fault


def test_a_first_token_is_content_and_not_the_role(running: Running, engine: Make) -> None:
    fake = engine()
    fake.pause_seconds = 0.4
    running.gateway.set_line("roles", [fake.backend("1", 100)])
    role, said = f"data: {json.dumps(chat(role='assistant', content=''))}\n\n", f"data: {json.dumps(SAID)}\n\n"
    fake.stream_bytes = (role + said[:-2].ljust(len(role), " ") + "\n\n").encode()
    answer = running.request("/v1/chat/completions", {"model": "roles", "stream": True})
    first = entry_of(running, answer.headers["x-request-id"])["first_token_ms"]
    assert isinstance(first, int | float)
    assert first >= 350


def test_a_conversation_is_logged_as_a_number(running: Running, engine: Make) -> None:
    running.gateway.set_line("talks", [engine().backend("1", 100)])
    entries = []
    for name in ("ann@example.com", "ann@example.com", "bob"):
        answer = running.request("/v1/chat/completions", {"model": "talks", "user": name})
        entries.append(str(entry_of(running, answer.headers["x-request-id"])["conversation"]))
    assert entries[0] == entries[1] != entries[2]
    assert all(len(entry) == 8 and "ann" not in entry for entry in entries)
