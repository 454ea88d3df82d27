"""Chat scoring: what is sent, how answers score, retries, and what is kept after a failure."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluate.scoring import retries
from tasks.evaluate.scoring.chat import ChatScorer, score_by_chat
from tasks.evaluate.scoring.scores import ScoreCache, SuiteScores
from tasks.evaluate.suites.suite import Suite, find_suite
from weighbridge.errors import ScoringFailed

Answer = Callable[[dict[str, Any], int], tuple[int, str]]
"""From (request, number of earlier requests with this question) to (status, body)."""


def completion(text: str | None) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]})


class Engine(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint whose answers a test chooses."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.answer: Answer = lambda request, before: (200, completion("Hi there"))
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    server: Engine

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = request["messages"][-1]["content"]
        with self.server.lock:
            before = self.server.asked[question]
            self.server.asked[question] += 1
            self.server.requests.append(request)
            self.server.headers.append(dict(self.headers))
            self.server.paths.add(self.path)
        status, body = self.server.answer(request, before)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as engine:
        threading.Thread(target=engine.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield engine
        engine.shutdown()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(retries, "LONGEST_WAIT_SECONDS", 0.02)
    monkeypatch.setattr(retries, "RETRY_SECONDS", 20)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    folder = tmp_path / "eval_suites/regression"
    folder.mkdir(parents=True)
    rows = [
        {
            "id": f"item-{number}",
            "messages": [{"role": "user", "content": f"question {number}"}],
            "assert": [{"type": "contains", "value": "Hi"}, {"type": "not-contains", "value": "<|im_end|>"}],
            "must_pass": number == 0,
            "max_tokens": 7,
        }
        for number in range(12)
    ]
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return find_suite("regression/chat", tmp_path)


def score(toy: Engine, suite: Suite, folder: Path, **changes: Any) -> SuiteScores:
    fields = {"endpoint": toy.url, "model": "the-model", "artifact_digest": "a" * 64, "engine": "toy 1 --fast"}
    fields |= {name: changes.pop(name) for name in list(fields) if name in changes}
    options: dict[str, Any] = {"api_key": None, "cache": ScoreCache(folder / "scores"), **changes}
    return score_by_chat(ChatScorer(**fields), suite, **options)


def test_an_item_is_right_when_all_its_assertions_hold(engine: Engine, suite: Suite, tmp_path: Path) -> None:
    answers = {"question 1": "Hi<|im_end|>", "question 2": "Bye"}
    engine.answer = lambda request, before: (200, completion(answers.get(request["messages"][-1]["content"], "Hi")))
    scores = score(engine, suite, tmp_path)
    assert [item.id for item in scores.items] == list(suite.ids)
    assert [item.score for item in scores.items] == [1, 0, 0, *[1] * 9]
    assert scores.items[2].answer == "Bye" and scores.items[2].question == "question 2"
    assert [item.must_pass for item in scores.items] == [True, *[False] * 11]
    assert "toy 1 --fast" in scores.scorer


def test_questions_are_sent_as_an_openai_client_would(engine: Engine, suite: Suite, tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    score(engine, suite, tmp_path, api_key="secret", progress=lambda done, total: reported.append((done, total)))
    request = engine.requests[0]
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("the-model", 0, 7)
    assert "max_completion_tokens" not in request
    assert engine.paths == {"/v1/chat/completions"}
    assert all(headers["authorization"] == "Bearer secret" for headers in map(_lower, engine.headers))
    assert reported == [(done, 12) for done in range(13)]


def _lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def test_scores_are_cached_by_artifact_and_engine(engine: Engine, suite: Suite, tmp_path: Path) -> None:
    first = score(engine, suite, tmp_path)
    assert score(engine, suite, tmp_path) == first
    assert len(engine.requests) == 12
    score(engine, suite, tmp_path, engine="toy 2")
    score(engine, suite, tmp_path, artifact_digest="b" * 64, endpoint=f"{engine.url}/v1/")
    assert len(engine.requests) == 36
    assert engine.paths == {"/v1/chat/completions"}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_transient_errors_are_retried(engine: Engine, suite: Suite, tmp_path: Path, status: int) -> None:
    engine.answer = lambda request, before: (status, "busy") if before < 2 else (200, completion("Hi"))
    assert score(engine, suite, tmp_path).mean == 1
    assert set(engine.asked.values()) == {3}


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (500, "broken kernel", "broken kernel"),
        (400, "no such model", "no such model"),
        (200, "<html>", "not an OpenAI chat completion"),
        (200, completion(None), "not an OpenAI chat completion"),
        (200, json.dumps({"choices": []}), "not an OpenAI chat completion"),
    ],
)
def test_a_missing_answer_fails_the_scoring_and_is_never_wrong(
    engine: Engine, suite: Suite, tmp_path: Path, status: int, body: str, reason: str
) -> None:
    engine.answer = lambda request, before: (
        (status, body) if request["messages"][-1]["content"] == "question 5" else (200, completion("Hi"))
    )
    with pytest.raises(ScoringFailed, match="item-5") as caught:
        score(engine, suite, tmp_path, retry_seconds=0.2)
    assert reason in caught.value.what
    assert not list((tmp_path / "scores").rglob("*.json"))
    assert engine.asked["question 5"] == 1 if status != 500 else engine.asked["question 5"] > 2


def test_an_empty_answer_is_an_answer(engine: Engine, suite: Suite, tmp_path: Path) -> None:
    engine.answer = lambda request, before: (200, completion(""))
    assert score(engine, suite, tmp_path).mean == 0


def test_an_unreachable_engine_is_named(engine: Engine, suite: Suite, tmp_path: Path) -> None:
    with pytest.raises(ScoringFailed, match="ConnectError") as caught:
        score(engine, suite, tmp_path, endpoint="http://127.0.0.1:9", concurrency=1, retry_seconds=0.2)
    assert caught.value.where == "http://127.0.0.1:9/v1"


def test_a_suite_that_changed_since_it_was_found_is_not_scored(engine: Engine, suite: Suite, tmp_path: Path) -> None:
    suite.path.write_text("".join(suite.path.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(ScoringFailed, match="changed"):
        score(engine, suite, tmp_path)


def test_answers_are_not_requested_again_after_a_failure(engine: Engine, suite: Suite, tmp_path: Path) -> None:
    engine.answer = lambda request, before: (
        (500, "down") if request["messages"][-1]["content"] == "question 9" else (200, completion("Hi"))
    )
    with pytest.raises(ScoringFailed, match="item-9"):
        score(engine, suite, tmp_path, concurrency=1, retry_seconds=0.2)
    engine.asked.clear()
    engine.answer = lambda request, before: (200, completion("Hi"))
    assert score(engine, suite, tmp_path).mean == 1
    # One request was in progress at the failure, and its answer may be kept too.
    assert {"question 9", "question 11"} <= set(engine.asked) <= {"question 9", "question 10", "question 11"}
    assert not list((tmp_path / "scores").rglob("*.jsonl")), "partial scores are deleted with the last item"


def test_defects_of_answers_are_recorded(engine: Engine, suite: Suite, tmp_path: Path) -> None:
    answers = {
        "question 1": (200, completion("")),
        "question 2": (200, completion("Hi").replace('"stop"', '"length"')),
        "question 3": (200, completion("Hi").replace('"stop"}]', '"length"}], "usage": {"completion_tokens": 3}')),
    }
    engine.answer = lambda request, before: answers.get(request["messages"][-1]["content"], (200, completion("Hi")))
    scores = score(engine, suite, tmp_path)
    assert [item.trouble for item in scores.items[:4]] == ["", "empty", "truncated", "truncated"]
    assert scores.conditions is not None and scores.conditions.engine == "toy 1 --fast"


def test_one_rejected_item_among_many_is_an_error(engine: Engine, tmp_path: Path, suite: Suite) -> None:
    rows = [{**json.loads(suite.path.read_text().splitlines()[1]), "id": f"i{n}"} for n in range(60)]
    for number, row in enumerate(rows):
        row["messages"] = [{"role": "user", "content": f"question {number}"}]
    suite.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    long = find_suite(suite.name, tmp_path)
    engine.answer = lambda request, before: (
        (400, "too long") if request["messages"][-1]["content"] == "question 9" else (200, completion("Hi"))
    )
    scores = score(engine, long, tmp_path)
    assert [item.id for item in scores.items if item.trouble == "error"] == ["i9"]
    assert scores.items[9].score == 0 and "too long" in scores.items[9].answer


def test_tools_and_weights_come_from_the_item(engine: Engine, tmp_path: Path, suite: Suite) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    row = {
        "id": "t",
        "messages": [{"role": "user", "content": "find it"}],
        "assert": [{"type": "is-valid-openai-tools-call", "weight": 3}, {"type": "contains", "value": "absent"}],
        "tools": [tool],
        "graded": True,
    }
    suite.path.write_text(json.dumps(row) + "\n")
    call = {"message": {"content": None, "tool_calls": [{"function": {"name": "look_up", "arguments": "{}"}}]}}
    engine.answer = lambda request, before: (200, json.dumps({"choices": [call]}))
    (item,) = score(engine, find_suite(suite.name, tmp_path), tmp_path).items
    assert engine.requests[0]["tools"] == [tool]
    assert item.score == 0.75 and "look_up" in item.answer
