"""Swaps on a machine with memory for one engine only."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from registry.store import Artifact
from tasks.serve import memory_check
from tasks.serve.fleet import prove as proof
from tasks.serve.fleet.local import LocalFleet
from tasks.serve.fleet.protocol import Report, RunningEngine, no_report
from tasks.serve.gateway import Gateway
from tasks.serve.rollout.canary import roll_out
from tasks.serve.rollout.swap import ensure_or_swap
from tests.serve.rollout.rollout_support import lock_of, serve_first, weights, with_rollout
from tests.serve.serve_support import make_artifact, make_line
from weighbridge.errors import NoRoomBeside, RolloutAborted
from weighbridge.line import Line
from weighbridge.settings import Settings


@pytest.fixture
def room_for_one(fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet with memory for one engine of the line."""

    def check(rows: object, free_gib: object, who: str) -> None:
        if [engine for engine in fleet.engines("toy") if engine.name != who]:
            raise NoRoomBeside(f"{who} needs 20 GiB.", "Let the line swap.")

    monkeypatch.setattr(memory_check, "check_before_start", check)


def chat(settings: Settings, gateway: Gateway) -> httpx.Response:
    headers = {"Authorization": f"Bearer {gateway.key()}"}
    body = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}
    return httpx.post(f"{settings.gateway_url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def test_without_swap_a_line_is_refused_and_keeps_serving(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, room_for_one: None
) -> None:
    line, old = serve_first(settings, fleet, gateway)
    with pytest.raises(NoRoomBeside):
        ensure_or_swap(line, "2", make_artifact(settings, "new"), gateway, fleet)
    assert fleet.engines("toy") == [old]
    assert chat(settings, gateway).headers["x-weighbridge-version"] == "1"


def test_without_a_queue_a_swap_answers_503_until_the_engine_is_checked(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, room_for_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    swaps = with_rollout(line, when_no_room="swap", hold_requests_seconds=0)
    messages: list[str] = []
    meanwhile: list[httpx.Response] = []
    proves = proof.prove
    monkeypatch.setattr(fleet, "expected_start_seconds", lambda _: 40.0)

    def prove(*given: Any) -> None:
        meanwhile.append(chat(settings, gateway))
        proves(*given)

    monkeypatch.setattr(proof, "prove", prove)
    new = ensure_or_swap(swaps, "2", make_artifact(settings, "new"), gateway, fleet, messages.append)
    [refused] = meanwhile
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
    # Duration of earlier starts, less the time since; the value in the route does not count down.
    assert 5 <= int(refused.headers["retry-after"]) <= 40
    assert gateway.routes().line("toy").back_at is None
    assert fleet.engines("toy") == [new]
    assert chat(settings, gateway).headers["x-weighbridge-version"] == "2"
    text = " ".join(messages)
    assert "as its engines took before" in text
    assert "serves after a gap of" in text
    with lock_of(settings) as lock:
        roll_out(swaps, "2", new, gateway, lock)
    assert weights(gateway) == {"2": 100}


def test_queued_requests_wait_for_the_new_engine_and_none_fails(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, room_for_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    swaps = with_rollout(line, when_no_room="swap")
    proves = proof.prove
    futures: list[Future[httpx.Response]] = []

    def prove(*given: Any) -> None:
        futures.extend(pool.submit(chat, settings, gateway) for _ in range(8))
        time.sleep(3)
        assert not any(future.done() for future in futures)
        proves(*given)

    monkeypatch.setattr(proof, "prove", prove)
    with ThreadPoolExecutor(8) as pool:
        ensure_or_swap(swaps, "2", make_artifact(settings, "new"), gateway, fleet)
        answers = [future.result() for future in futures]
    assert [(response.status_code, response.headers["x-weighbridge-version"]) for response in answers] == [
        (200, "2")
    ] * 8
    assert gateway.routes().line("toy").queued is None


def test_queued_requests_that_time_out_get_retry_after(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, room_for_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    swaps = with_rollout(line, when_no_room="swap", hold_requests_seconds=2)
    proves, meanwhile = proof.prove, []
    monkeypatch.setattr(fleet, "expected_start_seconds", lambda _: 40.0)

    def prove(*given: Any) -> None:
        began = time.monotonic()
        meanwhile.append((chat(settings, gateway), time.monotonic() - began))
        proves(*given)

    monkeypatch.setattr(proof, "prove", prove)
    ensure_or_swap(swaps, "2", make_artifact(settings, "new"), gateway, fleet)
    [(refused, waited_seconds)] = meanwhile
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
    # Four pauses, each drawn between nothing and a second.
    assert 0.2 < waited_seconds < 10
    assert 5 <= int(refused.headers["retry-after"]) <= 40


def test_a_failed_swap_restarts_the_old_engine(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, room_for_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, old = serve_first(settings, fleet, gateway)
    bad = with_rollout(make_line(status=500), when_no_room="swap")
    # The old engine starts under its own line's flags; only what is new is broken.
    real = fleet.ensure

    def ensure(given: Line, artifact: Artifact, report: Report = no_report) -> RunningEngine:
        return real(line if artifact == old.artifact else bad, artifact, report)

    monkeypatch.setattr(fleet, "ensure", ensure)
    with pytest.raises(RolloutAborted, match="serves again after a gap"):
        ensure_or_swap(bad, "2", make_artifact(settings, "new"), gateway, fleet)
    assert chat(settings, gateway).headers["x-weighbridge-version"] == "1"
    assert weights(gateway) == {"1": 100}
