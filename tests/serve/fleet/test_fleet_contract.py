"""The contract of every fleet: one class of tests, run on each kind of fleet.

A new kind of fleet is added to `KINDS`: a context manager that yields the fleet with `fake_engine.py` as its engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx
import pytest

from registry.store import Artifact, Store
from tasks.serve.fleet.choice import fleet_of
from tasks.serve.fleet.local import LocalFleet
from tasks.serve.fleet.protocol import Fleet, RunningEngine
from tasks.serve.fleet.supervisor import Supervisor
from tests.registry.store_support import rewrite
from tests.serve.serve_support import make_artifact, make_line, use_fake_engine
from tests.support.ports import free_ports
from weighbridge.errors import ArtifactDamaged, EngineFailed
from weighbridge.settings import Settings, load_settings


@contextmanager
def local_fleet(settings: Settings) -> Iterator[Fleet]:
    """Engines under a supervisord of this machine."""
    supervisor = Supervisor(settings)
    supervisor.start({})
    try:
        yield fleet_of(settings)
    finally:
        supervisor.shut_down()


KINDS: dict[str, Callable[[Settings], AbstractContextManager[Fleet]]] = {"local": local_fleet}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """An installation for the whole module, so that its supervisor is started once."""
    with pytest.MonkeyPatch.context() as patch:
        use_fake_engine(patch.setattr)
        patch.setenv("WEIGHBRIDGE_HOME", str(tmp_path_factory.mktemp("fleet")))
        patch.setenv("WEIGHBRIDGE_ENGINE_PORT_FIRST", str(free_ports(40)[0]))
        yield load_settings()


@pytest.fixture(scope="module", params=KINDS)
def running_fleet(home: Settings, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    with KINDS[request.param](home) as fleet:
        yield fleet


@pytest.fixture
def fleet(running_fleet: Fleet) -> Iterator[Fleet]:
    """A fleet without engines."""
    yield running_fleet
    for engine in running_fleet.engines():
        running_fleet.stop(engine)


def chat_status(engine: RunningEngine, key: str) -> int:
    """Status of a request to the engine itself."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"model": "toy", "messages": []}
    return httpx.post(f"{engine.url}/v1/chat/completions", json=body, headers=headers, trust_env=False).status_code


@pytest.fixture
def artifact(home: Settings, request: pytest.FixtureRequest) -> Artifact:
    """An artifact used by one test."""
    return make_artifact(home, request.node.name.replace("[", "-").replace("]", ""))


class TestFleet:
    """The contract of `Fleet`."""

    def test_an_engine_is_started_and_checked_once(self, fleet: Fleet, artifact: Artifact) -> None:
        sentences: list[str] = []
        engine = fleet.ensure(make_line(), artifact, sentences.append)
        assert fleet.ensure(make_line(), artifact) == engine
        assert (engine.line, engine.artifact, engine.plan.model_name) == ("toy", artifact, "toy")
        assert all(httpx.get(url).status_code == 200 for url in engine.health_urls)
        assert any("is warm" in sentence for sentence in sentences)
        assert fleet.is_warm(engine)
        state = fleet.state(engine)
        assert state is not None and state.alive
        assert fleet.expected_start_seconds(make_line()) is not None

    def test_an_engine_is_found_by_line_and_artifact(self, fleet: Fleet, artifact: Artifact, home: Settings) -> None:
        assert fleet.find(make_line(), artifact) is None
        engine = fleet.ensure(make_line(), artifact)
        assert fleet.find(make_line(), artifact) == engine
        assert fleet.find(make_line(delay=0.01), artifact) is None, "another plan is another engine"
        assert fleet.find(make_line(), make_artifact(home, "another")) is None
        assert fleet.engines() == fleet.engines("toy") == [engine]
        assert fleet.engines("another-line") == []

    def test_another_plan_gets_another_engine_and_other_endpoints(self, fleet: Fleet, artifact: Artifact) -> None:
        first = fleet.ensure(make_line(), artifact)
        second = fleet.ensure(make_line(delay=0.01), artifact)
        assert first.name != second.name
        assert not set(first.endpoints) & set(second.endpoints)
        assert [engine.name for engine in fleet.engines()] == sorted([first.name, second.name])

    def test_an_engine_answers_only_with_its_own_key(self, fleet: Fleet, artifact: Artifact) -> None:
        first, second = fleet.ensure(make_line(), artifact), fleet.ensure(make_line(delay=0.01), artifact)
        assert first.key and second.key and first.key != second.key
        statuses = [chat_status(first, key) for key in (first.key, second.key, "", f"{first.key}x")]
        assert statuses == [200, 401, 401, 401]
        assert first.key not in repr(first) and first.key not in first.model_dump_json()

    def test_stop_removes_an_engine_and_is_idempotent(self, fleet: Fleet, artifact: Artifact) -> None:
        engine = fleet.ensure(make_line(), artifact)
        fleet.stop(engine)
        assert fleet.engines() == []
        assert not fleet.is_warm(engine)
        assert fleet.state(engine) is None
        assert fleet.log_tail(engine, 1) == fleet.log_tail(engine)[-1:]
        with pytest.raises(httpx.ConnectError):
            httpx.get(engine.health_urls[0])
        fleet.stop(engine)

    def test_a_failed_engine_leaves_nothing(self, fleet: Fleet, artifact: Artifact) -> None:
        with pytest.raises(EngineFailed):
            fleet.ensure(make_line(status=500), artifact)
        assert fleet.engines() == []

    def test_damaged_weights_are_never_started(self, fleet: Fleet, artifact: Artifact, home: Settings) -> None:
        rewrite(Store.of(home).unverified_folder(artifact) / "model/config.json", "{}")
        with pytest.raises(ArtifactDamaged):
            fleet.ensure(make_line(), artifact)

    def test_an_engine_on_trial_is_stopped_after_the_block(self, fleet: Fleet, artifact: Artifact) -> None:
        with fleet.trial(make_line(), artifact) as engine:
            assert fleet.on_trial(engine)
            assert fleet.is_warm(engine)
        assert fleet.engines() == []

    def test_an_engine_is_on_trial_while_it_starts_and_until_the_last_block(
        self, fleet: Fleet, artifact: Artifact
    ) -> None:
        seen: list[bool] = []

        def look(_: str) -> None:
            seen.extend(fleet.on_trial(engine) for engine in fleet.engines())

        with fleet.trial(make_line(), artifact, look) as engine:
            assert seen and all(seen), "or a promotion meanwhile would stop it"
            with fleet.trial(make_line(), artifact):
                pass
            assert fleet.is_warm(engine)
        assert fleet.engines() == []

    def test_a_trial_does_not_stop_a_running_engine(self, fleet: Fleet, artifact: Artifact) -> None:
        engine = fleet.ensure(make_line(), artifact)
        with fleet.trial(make_line(), artifact) as same:
            assert same == engine
            assert not fleet.on_trial(engine)
        assert fleet.is_warm(engine)

    def test_a_promotion_takes_over_an_engine_on_trial(self, fleet: Fleet, artifact: Artifact) -> None:
        with fleet.trial(make_line(), artifact):
            engine = fleet.ensure(make_line(), artifact)
        assert fleet.is_warm(engine)
        assert not fleet.on_trial(engine)

    def test_the_end_of_an_engine_s_rotation_is_recorded(self, fleet: Fleet, artifact: Artifact) -> None:
        engine = fleet.ensure(make_line(), artifact)
        assert fleet.out_since(engine) == fleet.out_since(None) == 0
        fleet.mark_rotation(engine, serves=False)
        since = fleet.out_since(engine)
        assert abs(since - time.time()) < 60
        fleet.mark_rotation(engine, serves=False)
        assert fleet.out_since(engine) == since, "only the first change is recorded"
        fleet.mark_rotation(engine, serves=True)
        assert fleet.out_since(engine) == 0

    def test_free_memory_is_reported_by_kind(self, fleet: Fleet) -> None:
        assert all(free > 0 for free in fleet.free_memory()["host"])


def test_only_fleet_of_chooses_a_fleet(home: Settings) -> None:
    assert isinstance(fleet_of(home), LocalFleet)
