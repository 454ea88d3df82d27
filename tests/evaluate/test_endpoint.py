"""Descriptions of endpoints, the check for prompt log-probabilities, and retries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from examples.answering import Answering
from tasks.evaluate.scoring import retries
from tasks.evaluate.scoring.endpoint import describe, lacks_log_probabilities, make_client
from tasks.evaluate.scoring.retries import RetryBudget
from weighbridge.errors import EndpointRefused


def answer(question: str) -> str:
    return "yes"


def test_an_endpoint_is_described_by_model_and_engine(tmp_path: Path) -> None:
    with Answering(answer, model="llama", version="0.32.0", props={"chat_template": "{{ x }}"}) as toy:
        found = describe(toy.url, None, "secret", tmp_path)
        assert (found.model, found.engine, found.base) == ("llama", "toyworks 0.32.0", f"{toy.url}/v1")
        assert len(found.model_files.chat_template) == 16 and found.model_files.tokenizer == ""
        assert toy.keys == {"Bearer secret"}
        assert describe(f"{toy.url}/v1/", "llama", None, tmp_path).digest == found.digest, "`created` is new each time"
        toy.version = "0.33.0"
        assert describe(toy.url, None, None, tmp_path).digest != found.digest


def test_an_engine_without_a_version_is_unnamed(tmp_path: Path) -> None:
    with Answering(answer, version=None) as toy:
        assert describe(toy.url, None, None, tmp_path).engine.startswith("unnamed, behind BaseHTTP")


def test_a_model_that_is_not_served_is_refused_with_the_served_ones(tmp_path: Path) -> None:
    with Answering(answer, model="llama") as toy, pytest.raises(EndpointRefused, match="'gpt' but llama"):
        describe(toy.url, "gpt", None, tmp_path)


def test_an_endpoint_that_is_down_keeps_its_last_known_description(tmp_path: Path) -> None:
    with pytest.raises(EndpointRefused, match="does not answer"):
        describe("http://127.0.0.1:9", None, None, tmp_path)
    with Answering(answer) as toy:
        before = describe(toy.url, None, None, tmp_path)
    after = describe(toy.url, None, None, tmp_path)
    assert after.remembered and after.digest == before.digest


@pytest.mark.parametrize(
    ("echoes", "reason"),
    [("", "ignores `echo`"), ("text", "log-probabilities of 1 tokens"), ("log-probabilities", "")],
)
def test_prompt_log_probabilities_must_come_back(tmp_path: Path, echoes: str, reason: str) -> None:
    with Answering(answer, echoes=echoes) as toy:
        found = describe(toy.url, None, None, tmp_path)
        problem = lacks_log_probabilities(found.base, found.model, None)
    assert reason in problem and bool(problem) == bool(reason)


class Busy(ThreadingHTTPServer):
    """A server that refuses some requests, then answers."""

    daemon_threads = True

    def __init__(self, refusals: list[tuple[int, dict[str, str]]]) -> None:
        super().__init__(("127.0.0.1", 0), _BusyHandler)
        self.refusals, self.requests = refusals, 0
        self.url = f"http://127.0.0.1:{self.server_port}/x"


class _BusyHandler(BaseHTTPRequestHandler):
    server: Busy

    def do_POST(self) -> None:
        self.server.requests += 1
        status, headers = self.server.refusals.pop(0) if self.server.refusals else (200, {})
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "2"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Log nothing."""


StartBusy = Callable[[list[tuple[int, dict[str, str]]]], Busy]


@pytest.fixture
def busy() -> Iterator[StartBusy]:
    started: list[Busy] = []

    def start(refusals: list[tuple[int, dict[str, str]]]) -> Busy:
        started.append(Busy(refusals))
        threading.Thread(target=started[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return started[-1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("retry_after", "least_seconds"),
    [(lambda: "1", 0.9), (lambda: in_seconds(2), 0.9), (lambda: "0", 0.0), (lambda: "soon", 0.0)],
)
def test_retry_after_is_respected(busy: StartBusy, retry_after: Callable[[], str], least_seconds: float) -> None:
    toy, waits = busy([(429, {"Retry-After": retry_after()})]), list[float]()
    with make_client(None) as client:
        assert RetryBudget(10, sleep=waits.append).post(client, toy.url, {}).json() == {}
    assert toy.requests == 2 and len(waits) == 1
    assert max(waits[0], 0.5) == waits[0] >= least_seconds


def test_the_default_sleep_waits(busy: StartBusy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.05)
    toy, started = busy([(429, {})]), time.monotonic()
    with make_client(None) as client:
        RetryBudget(10).post(client, toy.url, {})
    assert toy.requests == 2 and time.monotonic() - started >= 0.05


def test_an_endpoint_that_asks_for_an_hour_is_not_retried(busy: StartBusy) -> None:
    toy, waits = busy([(503, {"Retry-After": "3600"})]), list[float]()
    with make_client(None) as client, pytest.raises(httpx.HTTPStatusError):
        RetryBudget(5, sleep=waits.append).post(client, toy.url, {})
    assert (toy.requests, waits) == (1, [])


def test_a_request_that_cannot_succeed_is_not_retried(busy: StartBusy) -> None:
    toy = busy([(400, {})])
    with make_client(None) as client, pytest.raises(httpx.HTTPStatusError):
        RetryBudget(5).post(client, toy.url, {})
    assert toy.requests == 1


def test_all_requests_share_one_budget(busy: StartBusy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "BUDGET_REQUESTS", 0.5)
    toy, waits = busy([(500, {})] * 100), list[float]()
    retry_budget = RetryBudget(4, sleep=waits.append)
    with make_client(None) as client:
        for _ in range(3):
            with pytest.raises(httpx.HTTPStatusError):
                retry_budget.post(client, toy.url, {})
    assert 0 < sum(waits) <= 2, "three requests alone would wait 12 s"
