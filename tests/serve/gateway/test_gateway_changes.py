"""Configuration changes under load, with a real Envoy: no request in flight is cut."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tasks.serve.endpoint import Endpoint
from tasks.serve.gateway import Backend, Gateway, QueuedRequests, clusters, documents
from tests.serve.gateway.gateway_support import FakeEngine, Running, make_gateway
from tests.support.ports import free_ports
from tests.support.waiting import wait_for
from weighbridge.errors import GatewayFailed

Make = Callable[[], FakeEngine]


def stream(running: Running, model: str) -> str:
    """Read a complete streamed answer."""
    answer = running.request("/v1/chat/completions", {"model": model, "stream": True})
    assert answer.status_code == 200
    return answer.text


def test_a_version_drains_under_load_without_a_cut_stream(running: Running, engine: Make) -> None:
    gateway, old, new = running.gateway, engine(), engine()
    old.chunks, old.pause_seconds = 20, 0.1
    gateway.set_line("busy", [old.backend("1", 100), new.backend("2", 0)])
    with ThreadPoolExecutor(8) as pool:
        slow = [pool.submit(stream, running, "busy") for _ in range(8)]
        wait_for(lambda: gateway.active_requests("busy", "1") == 8, seconds=15)
        gateway.shift("busy", {"2": 100})
        assert running.chat("busy").headers["x-weighbridge-version"] == "2"
        assert not gateway.wait_drained("busy", "1", timeout_seconds=0.2)
        with pytest.raises(GatewayFailed, match="still has 8 active requests"):
            gateway.remove_backend("busy", "1")
        assert gateway.wait_drained("busy", "1", timeout_seconds=20)
        gateway.remove_backend("busy", "1")
        texts = [each.result() for each in slow]
    assert all("w19" in text and text.endswith("data: [DONE]\n\n") for text in texts)
    with pytest.raises(GatewayFailed):
        gateway.counters("busy", "1")
    assert running.chat("busy").headers["x-weighbridge-version"] == "2"


def test_repeated_weight_changes_under_load_fail_no_request(running: Running, engine: Make) -> None:
    gateway, old, new = running.gateway, engine(), engine()
    for fake in (old, new):
        fake.pause_seconds = 0.05
    gateway.set_line("swing", [old.backend("1", 100)])
    over, whole = threading.Event(), []

    def keep_asking() -> None:
        while not over.is_set():
            whole.append(stream(running, "swing").endswith("data: [DONE]\n\n"))

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(keep_asking) for _ in range(8)]
        try:
            for _ in range(2):
                gateway.set_line("swing", [old.backend("1", 100), new.backend("2", 0)])
                for share in (10, 50, 100):
                    gateway.shift("swing", {"1": 100 - share, "2": share})
                    time.sleep(0.1)
                assert gateway.wait_drained("swing", "1", timeout_seconds=10)
                gateway.remove_backend("swing", "1")
                # Back at once, as in a rollback.
                gateway.set_line("swing", [old.backend("1", 100), new.backend("2", 0)])
        finally:
            over.set()
        for each in asking:
            each.result()
    assert len(whole) > 40 and all(whole)


def test_an_engine_that_moved_to_another_port_is_followed(running: Running, engine: Make) -> None:
    first, second = engine(), engine()
    running.gateway.set_line("moved", [first.backend("1", 100)])
    assert running.chat("moved").status_code == 200
    running.gateway.set_line("moved", [second.backend("1", 100)])
    assert running.chat("moved").status_code == 200
    assert (len(first.requests), len(second.requests)) == (1, 1)


def test_requests_wait_for_a_starting_engine(running: Running, engine: Make) -> None:
    gateway, fake = running.gateway, engine()
    gateway.set_line("coming", [], queued=QueuedRequests(version="2", digest="2".rjust(64, "0"), seconds=30))
    # A retried request must have been buffered, however long it is.
    long = {"model": "coming", "messages": [{"role": "user", "content": "x" * 3 * 2**20}]}
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(stream, running, "coming") for _ in range(7)]
        waiting.append(pool.submit(lambda: running.request("/v1/chat/completions", long).text))
        time.sleep(3)
        assert not any(future.done() for future in waiting)
        gateway.set_line("coming", [fake.backend("2", 100)])
        texts = [future.result() for future in waiting]
    assert all(text.endswith("data: [DONE]\n\n") for text in texts[:7])
    assert "hello" in texts[7]
    # Each request reached the engine once.
    assert len(fake.requests) == 8


def test_queued_requests_end_when_their_line_is_removed(running: Running) -> None:
    gateway = running.gateway
    gateway.set_line("never", [], queued=QueuedRequests(version="2", digest="2".rjust(64, "0"), seconds=600))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(running.chat, "never")
        time.sleep(1)
        gateway.set_line("never", [])
        assert waiting.result().status_code == 503


def test_an_engine_killed_during_an_answer_is_counted(running: Running, engine: Make) -> None:
    fake = engine()
    fake.dies = True
    running.gateway.set_line("dying", [fake.backend("1", 100)])
    with pytest.raises(httpx.RemoteProtocolError):
        stream(running, "dying")
    counters = running.gateway.counters("dying", "1")
    # The status was sent before the engine died, so only `broken` counts it.
    assert (counters.requests, counters.errors_5xx, counters.broken) == (1, 0, 1)


def test_requests_to_a_stopped_engine_get_503_and_are_counted(running: Running, engine: Make) -> None:
    (port,) = free_ports(1)
    running.gateway.set_line(
        "gone", [Backend(version="1", digest="a" * 64, endpoints=(Endpoint(host="127.0.0.1", port=port),), weight=100)]
    )
    assert running.chat("gone").status_code == 503
    counters = running.gateway.counters("gone", "1")
    assert (counters.healthy, counters.errors_5xx, counters.active) == (False, 1, 0)


def test_endpoints_that_die_fail_no_request_while_one_is_left(running: Running, engine: Make) -> None:
    engines = [engine() for _ in range(5)]
    endpoints = tuple(Endpoint(host="127.0.0.1", port=fake.port) for fake in engines)
    running.gateway.set_line("several", [Backend(version="1", digest="a" * 64, endpoints=endpoints, weight=100)])
    for fake in engines[1:]:
        fake.shutdown()
        fake.server_close()
    # Sooner than the health checks notice.
    assert {running.chat("several").status_code for _ in range(30)} == {200}


def test_a_silent_machine_is_asked_after_five_seconds(running: Running, engine: Make) -> None:
    fake = engine()
    fake.pause_seconds = 0.5
    running.gateway.set_line("silent", [fake.backend("1", 100)])
    with ThreadPoolExecutor(1) as pool:
        body = {"model": "silent", "stream": True}
        asked = pool.submit(running.request, "/v1/chat/completions", body)
        wait_for(lambda: bool(fake.requests), seconds=5)
        time.sleep(0.2)
        timers = _kernel_timers(fake.port)
        assert asked.result().status_code == 200
    # 2: the next question of the kernel whether the other side is there, in hundredths of a second.
    assert any(kind == 2 and 0 < wait <= 500 for kind, wait in timers)


def _kernel_timers(port: int) -> list[tuple[int, int]]:
    """Kind and time left of the timers of connections to a port."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    timers = [row[5].split(":") for row in rows if row[2].endswith(f":{port:04X}") and row[3] == "01"]
    return [(int(kind), int(wait, 16)) for kind, wait in timers]


def test_requests_beyond_a_backend_s_limit_get_429(
    running: Running, engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "MAX_REQUESTS", 1)
    gateway, fake = running.gateway, engine()
    fake.pause_seconds = 0.5
    gateway.set_line("full", [fake.backend("1", 100)])
    # The number accepted depends on Envoy's threads: each may always hold one request.
    with ThreadPoolExecutor(16) as pool:
        body = {"model": "full", "stream": True}
        answers = list(pool.map(lambda _: running.request("/v1/chat/completions", body), range(16)))
    passed = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert passed and refused and len(passed) + len(refused) == 16
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in passed)
    assert {answer.json()["error"]["code"] for answer in refused} == {"rate_limit_exceeded"}


def test_two_writers_take_turns(running: Running, engine: Make) -> None:
    fake = engine()
    lines = [f"turn-{number}" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        writers = [
            pool.submit(Gateway(running.gateway.settings).set_line, line, [fake.backend("1", 100)]) for line in lines
        ]
        for writer in writers:
            writer.result()
    assert {running.chat(line).status_code for line in lines} == {200}


def test_bootstrap_again_while_it_runs_changes_nothing(running: Running, engine: Make) -> None:
    running.gateway.set_line("again", [engine().backend("1", 100)])
    running.gateway.bootstrap()
    assert running.gateway.health()
    assert running.chat("again").status_code == 200


@pytest.mark.server
def test_bootstrap_again_before_there_is_any_line_changes_nothing(tmp_path: Path) -> None:
    running = Running(make_gateway(tmp_path))
    try:
        running.start()
        running.gateway.bootstrap()
        assert running.gateway.health()
    finally:
        running.stop()


def test_a_configuration_that_envoy_rejects_is_reported_and_reverted(
    running: Running, engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, fake = running.gateway, engine()
    gateway.set_line("refused", [fake.backend("1", 100)])
    monkeypatch.setattr(documents, "TAKE_SECONDS", 1.0)
    real = documents.routes_document

    def broken(*args: object) -> dict[str, object]:
        document = real(*args)  # type: ignore[arg-type]
        document["version_info"] = "broken"
        document["resources"][0]["virtual_hosts"] *= 2
        return document

    with monkeypatch.context() as patched:
        patched.setattr(documents, "routes_document", broken)
        with pytest.raises(GatewayFailed, match=r"did not take the new routes within 1 seconds"):
            gateway.set_line("refused", [fake.backend("2", 100)])
    # The previous version keeps serving, and the next write repairs the configuration.
    assert running.chat("refused").headers["x-weighbridge-version"] == "1"
    gateway.set_line("refused", [fake.backend("2", 100)])
    assert running.chat("refused").headers["x-weighbridge-version"] == "2"


@pytest.mark.server
def test_a_start_serves_the_stored_routes(tmp_path: Path, engine: Make) -> None:
    gateway = make_gateway(tmp_path)
    gateway.set_line("kept", [engine().backend("3", 100)], wait=False)
    running = Running(gateway)
    try:
        running.start()
        assert running.chat("kept").headers["x-weighbridge-version"] == "3"
    finally:
        running.stop()


def test_another_service_on_the_admin_port_is_not_taken_for_envoy(running: Running, tmp_path: Path) -> None:
    stranger = Gateway(running.gateway.settings.model_copy(update={"home": tmp_path}))
    assert not stranger.health()
    with pytest.raises(GatewayFailed, match="not up"):
        stranger.set_line("a", [])
