"""What an endpoint tells of itself, whether it really echoes log-probabilities, and how long it is waited for."""

from __future__ import annotations

import json
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
from tasks.evaluate.scoring.endpoint import describe, lacks_log_probabilities, make_client
from tasks.evaluate.scoring.retries import RetryBudget
from weighbridge.errors import EndpointRefused


def answer(question: str) -> str:
    return "yes"


def test_an_endpoint_says_what_it_is(tmp_path: Path) -> None:
    with Answering(answer, model="llama", version="0.32.0", props={"chat_template": "{{ x }}"}) as toy:
        found = describe(toy.url, None, "secret", tmp_path)
        assert (found.model, found.engine, found.base) == ("llama", "toyworks 0.32.0", f"{toy.url}/v1")
        assert len(found.model_files.chat_template) == 16 and found.model_files.tokenizer == ""
        assert toy.keys == {"Bearer secret"}
        assert describe(f"{toy.url}/v1/", "llama", None, tmp_path).digest == found.digest, "`created` is new each time"
        toy.version = "0.33.0"
        assert describe(toy.url, None, None, tmp_path).digest != found.digest


def test_an_engine_that_tells_nothing_is_unnamed(tmp_path: Path) -> None:
    with Answering(answer, version=None) as toy:
        assert describe(toy.url, None, None, tmp_path).engine.startswith("unnamed, behind BaseHTTP")


def test_a_model_that_is_not_served_is_named_with_those_that_are(tmp_path: Path) -> None:
    with Answering(answer, model="llama") as toy, pytest.raises(EndpointRefused, match="'gpt' but llama"):
        describe(toy.url, "gpt", None, tmp_path)


def test_one_that_is_down_is_what_it_was_the_last_time(tmp_path: Path) -> None:
    with pytest.raises(EndpointRefused, match="does not answer"):
        describe("http://127.0.0.1:9", None, None, tmp_path)
    with Answering(answer) as toy:
        before = describe(toy.url, None, None, tmp_path)
    after = describe(toy.url, None, None, tmp_path)
    assert after.remembered and after.digest == before.digest


@pytest.mark.parametrize(
    ("echoes", "said"),
    [("", "ignores `echo`"), ("text", "log-probabilities of 1 tokens"), ("log-probabilities", "")],
)
def test_log_probabilities_are_believed_only_when_they_come(tmp_path: Path, echoes: str, said: str) -> None:
    with Answering(answer, echoes=echoes) as toy:
        found = describe(toy.url, None, None, tmp_path)
        problem = lacks_log_probabilities(found.base, found.model, None)
    assert said in problem and bool(problem) == bool(said)


class Busy(ThreadingHTTPServer):
    """Refuses a few times, as it is told, then answers."""

    daemon_threads = True

    def __init__(self, refusals: list[tuple[int, dict[str, str]]]) -> None:
        super().__init__(("127.0.0.1", 0), _BusyHandler)
        self.refusals, self.times = refusals, list[float]()
        self.url = f"http://127.0.0.1:{self.server_port}/x"


class _BusyHandler(BaseHTTPRequestHandler):
    server: Busy

    def do_POST(self) -> None:
        self.server.times.append(time.monotonic())
        status, headers = self.server.refusals.pop(0) if self.server.refusals else (200, {})
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "2"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def busy() -> Iterator[Callable[[list[tuple[int, dict[str, str]]]], Busy]]:
    started: list[Busy] = []

    def start(refusals: list[tuple[int, dict[str, str]]]) -> Busy:
        started.append(Busy(refusals))
        threading.Thread(target=started[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return started[-1]

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


def in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(("asked", "least"), [("1", 0.9), (lambda: in_seconds(2), 0.9), ("0", 0.0), ("soon", 0.0)])
def test_an_endpoint_that_asks_to_wait_is_given_the_time(busy, asked, least: float) -> None:  # type: ignore[no-untyped-def]
    toy = busy([(429, {"Retry-After": asked if isinstance(asked, str) else asked()})])
    with make_client(None) as client:
        assert RetryBudget(10).post(client, toy.url, {}).json() == {}
    assert toy.times[1] - toy.times[0] >= least


def test_one_that_asks_for_an_hour_is_not_waited_for(busy) -> None:  # type: ignore[no-untyped-def]
    toy = busy([(503, {"Retry-After": "3600"})])
    started = time.monotonic()
    with make_client(None) as client, pytest.raises(httpx.HTTPStatusError):
        RetryBudget(5).post(client, toy.url, {})
    assert time.monotonic() - started < 2 and len(toy.times) == 1


def test_a_request_that_cannot_succeed_is_not_repeated(busy) -> None:  # type: ignore[no-untyped-def]
    toy = busy([(400, {})])
    with make_client(None) as client, pytest.raises(httpx.HTTPStatusError):
        RetryBudget(5).post(client, toy.url, json.loads("{}"))
    assert len(toy.times) == 1


def test_all_requests_together_wait_no_longer_than_their_share(busy, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("tasks.evaluate.scoring.retries.REQUESTS_WORTH", 0.5)
    toy = busy([(500, {})] * 100)
    retry_budget = RetryBudget(4)
    started = time.monotonic()
    with make_client(None) as client:
        for _ in range(3):
            with pytest.raises(httpx.HTTPStatusError):
                retry_budget.post(client, toy.url, {})
    assert time.monotonic() - started < 4, "three requests alone would wait 12 s"
