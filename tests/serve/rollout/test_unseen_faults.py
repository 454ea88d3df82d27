"""Faults that a status does not show: streams that stall or break, odd clients, an engine with all of the load."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tasks.serve.fleet.local import LocalFleet
from tasks.serve.gateway import Backend, Gateway
from tasks.serve.rollout.canary import roll_out
from tasks.serve.rollout.canary_step import StepReport
from tests.serve.rollout.rollout_support import (
    GIVEN,
    clients,
    lock_of,
    outcome,
    serve_first,
    unproven,
    weights,
    with_rollout,
)
from tests.serve.serve_support import make_artifact, make_line
from weighbridge.errors import RolloutAborted
from weighbridge.settings import Settings

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


class ImpatientClients:
    """Streaming clients that give up after a silence, each with its key and its own addition to the body."""

    def __init__(self, url: str, bodies: dict[str, dict[str, object]], silence_seconds: float = 2.0) -> None:
        self._url, self._bodies, self._silence_seconds = url, bodies, silence_seconds
        self._stop = threading.Event()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self._threads = [threading.Thread(target=self._ask, args=(key,), daemon=True) for key in bodies]

    def __enter__(self) -> ImpatientClients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def _ask(self, key: str) -> None:
        body = {"model": "toy", "messages": [], "stream": True, **self._bodies[key]}
        timeout = httpx.Timeout(10, read=self._silence_seconds)
        with httpx.Client(timeout=timeout, trust_env=False, headers={"authorization": f"Bearer {key}"}) as client:
            while not self._stop.is_set():
                version = "?"
                try:
                    with client.stream("POST", self._url, json=body) as answer:
                        version = answer.headers.get("x-weighbridge-version", "?")
                        text = answer.read().decode()
                        self.outcomes[version, "error" if '"error"' in text else "whole"] += 1
                except httpx.HTTPError as error:
                    self.outcomes[version, type(error).__name__] += 1
                self._stop.wait(0.2 if "bad" in body else 0)


@pytest.mark.parametrize(
    ("flags", "why"),
    [({"stall": 20}, "errors|first byte"), ({"stream-errors": 1.0}, "errors"), ({"stream-errors": 0.5}, "errors")],
    ids=["stalls", "every stream breaks", "half of the streams break"],
)
def test_a_version_that_stalls_or_breaks_inside_its_streams_is_stopped(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, flags: dict[str, Any], why: str
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    bad = unproven(fleet, settings, delay=0.05, **flags)
    keys: dict[str, dict[str, object]] = {gateway.add_key(f"client-{number}"): {} for number in range(8)}
    with (
        ImpatientClients(f"{settings.gateway_url}/v1/chat/completions", keys) as load,
        lock_of(settings) as lock,
        pytest.raises(RolloutAborted, match=f"stopped at 10 %.*({why})"),
    ):
        roll_out(with_rollout(line, **GIVEN), "2", bad, gateway, lock)
    assert weights(gateway) == {"1": 100, "2": 0}
    assert load.outcomes["1", "error"] == 0


def test_an_odd_client_does_not_condemn_a_good_version(settings: Settings, fleet: LocalFleet, gateway: Gateway) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    sticky = with_rollout(line, **{**GIVEN, "max_hold_seconds": 10}, sticky_by="key")
    url = f"{settings.gateway_url}/v1/chat/completions"
    odd = _key_at_new_version(gateway, url)
    others: dict[str, dict[str, object]] = {gateway.add_key(f"client-{number}"): {} for number in range(8)}
    with ImpatientClients(url, {**others, odd: {"bad": 1}}), lock_of(settings) as lock:
        threading.Event().wait(3)
        end = outcome(lambda: roll_out(sticky, "2", new, gateway, lock))
    assert end == ""
    assert weights(gateway) == {"1": 0, "2": 100}


def _key_at_new_version(gateway: Gateway, url: str) -> str:
    """A key whose requests go to version 2 at 10 %."""
    [present] = gateway.routes().line("toy").backends
    second = Backend(**{**present.model_dump(), "version": "2", "weight": 10})
    gateway.set_sticky("toy", "key")
    gateway.set_line("toy", [present.model_copy(update={"weight": 90}), second])
    try:
        for number in range(200):
            key = gateway.add_key(f"odd-{number}")
            answer = httpx.post(
                url, json={"model": "toy", "messages": []}, headers={"authorization": f"Bearer {key}"}, trust_env=False
            )
            if answer.headers.get("x-weighbridge-version") == "2":
                return key
    finally:
        gateway.shift("toy", {"1": 100})
        gateway.remove_backend("toy", "2")
    raise AssertionError("no key of 200 goes to a version with 10 %")


def test_an_engine_is_not_slower_for_having_all_of_the_load(
    settings: Settings, fleet: LocalFleet, gateway: Gateway
) -> None:
    line = make_line(busy=0.02)
    old = fleet.ensure(line, make_artifact(settings, "old"))
    with lock_of(settings) as lock:
        roll_out(line, "1", old, gateway, lock)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    reports: list[StepReport] = []
    seen: list[dict[str, int]] = []
    note: Callable[[StepReport], None] = reports.append
    with clients(settings, gateway), lock_of(settings) as lock:
        threading.Event().wait(5)
        given = {**GIVEN, "steps": [50, 100], "hold_seconds": 8, "max_hold_seconds": 20}
        watch = threading.Thread(target=lambda: seen.extend(_weights_for(gateway, 30)), daemon=True)
        watch.start()
        end = outcome(lambda: roll_out(with_rollout(line, **given), "2", new, gateway, lock, on_step=note))
    assert end == ""
    assert weights(gateway) == {"1": 0, "2": 100}
    assert [report.weight for report in reports] == [50, 100]
    watch.join()
    assert {"1": 1, "2": 99} in seen, "production keeps a little at the last step"


def _weights_for(gateway: Gateway, seconds: int) -> list[dict[str, int]]:
    found = []
    for _ in range(seconds * 2):
        found.append(weights(gateway))
        if found[-1].get("2") == 100:
            break
        threading.Event().wait(0.5)
    return found
