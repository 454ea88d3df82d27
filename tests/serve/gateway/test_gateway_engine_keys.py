"""The gateway gives each engine its key: to clients' requests, mirrored ones and health checks, and to no other."""

from __future__ import annotations

from collections.abc import Callable

from tasks.serve.engine_keys import EngineKeys
from tasks.serve.gateway import Mirror
from tests.serve.gateway.gateway_support import FakeEngine, Running
from tests.support.waiting import wait_for

Make = Callable[[], FakeEngine]


def sent_keys(engine: FakeEngine) -> list[str | None]:
    """The keys that reached an engine."""
    return [headers.get("authorization") for _, headers in engine.requests]


def test_each_engine_gets_its_own_key_and_no_clients(running: Running, engine: Make) -> None:
    keys, new, old = EngineKeys(running.gateway.settings), engine(), engine()
    key = keys.make("engine-keyed-new")
    backends = [new.backend("2", 50, "engine-keyed-new"), old.backend("1", 50, "engine-keyed-old")]
    running.gateway.set_line("keyed", backends)
    assert {running.chat("keyed").status_code for _ in range(30)} == {200}
    assert set(sent_keys(new)) == {f"Bearer {key}"}
    assert set(sent_keys(old)) == {None}, "an engine of an older version has no key, and needs none"


def test_a_mirrored_request_has_the_key_of_the_mirrors_engine(running: Running, engine: Make) -> None:
    keys, serving, mirrored = EngineKeys(running.gateway.settings), engine(), engine()
    served, copied = keys.make("engine-serving"), keys.make("engine-mirrored")
    backends = [serving.backend("1", 100, "engine-serving"), mirrored.backend("2", 0, "engine-mirrored")]
    running.gateway.set_line("mirrored", backends)
    running.gateway.set_mirror("mirrored", Mirror(version="2", per_cent=100))
    assert running.chat("mirrored").status_code == 200
    wait_for(lambda: mirrored.requests, seconds=15)
    assert sent_keys(serving) == [f"Bearer {served}"] and sent_keys(mirrored) == [f"Bearer {copied}"]


def test_the_key_is_on_disk_for_its_user_only_and_in_no_route(running: Running, engine: Make) -> None:
    key = EngineKeys(running.gateway.settings).make("engine-quiet")
    running.gateway.set_line("quiet", [engine().backend("1", 100, "engine-quiet")])
    home = running.gateway.settings.home
    running.chat("quiet")
    holding = {path for path in home.rglob("*") if path.is_file() and key in path.read_text(errors="replace")}
    assert holding == {home / "engines" / "engine-quiet" / "key", home / "gateway" / "discovery" / "cds.json"}
    assert {path.stat().st_mode & 0o777 for path in holding} == {0o600}
    assert key not in running.envoy_log.read_text()
