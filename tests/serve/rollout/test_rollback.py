"""Rollbacks move traffic first and the registry afterwards; a crash in between undoes nothing."""

from __future__ import annotations

import threading
import time

import pytest
from typer.testing import CliRunner

from cli.app import app
from registry.models.registry import Registry
from tasks.serve import serving_record, settled, step
from tasks.serve.endpoint import Endpoint
from tasks.serve.fleet.local import LocalFleet
from tasks.serve.gateway import Gateway
from tasks.serve.installation import ServingInstallation
from tasks.serve.rollback_choices import nothing_to_roll_back
from tasks.serve.rollout import rollback
from tasks.serve.rollout.canary import roll_out
from tests.serve.rollout.conftest import Promoted
from tests.serve.rollout.rollout_support import clients, lock_of, weights, with_rollout
from tests.serve.serve_support import body_of, make_artifact, make_line
from weighbridge.errors import EngineFailed, RolloutAborted, StackDown
from weighbridge.settings import Settings


def production_of(registry: Registry) -> int:
    production = registry.production("toy")
    assert production is not None
    return production.version


def test_after_a_rollback_no_request_reaches_the_bad_version_or_fails(
    settings: Settings, gateway: Gateway, promoted: Promoted
) -> None:
    with clients(settings, gateway) as load:
        while not load.by_version.get("2"):
            time.sleep(0.05)
        assert rollback.switch_warm(settings, "toy", None, "it stutters") == 1
        switched = time.time()
        while not load.by_version.get("1"):
            time.sleep(0.05)
    assert load.failed == []
    assert load.last_start("2", switched) is None
    assert weights(gateway) == {"1": 100, "2": 0}
    assert rollback.pending(settings, "toy") == rollback.PendingRollback(to=1, reason="it stutters")


def test_a_second_rollback_before_reconciling_changes_nothing(
    settings: Settings, gateway: Gateway, promoted: Promoted
) -> None:
    assert rollback.switch_warm(settings, "toy", None, "bad") == 1
    assert rollback.switch_warm(settings, "toy", None, "still bad") == 1
    assert weights(gateway) == {"1": 100, "2": 0}


def test_rollbacks_to_unknown_or_cold_versions_are_left_to_the_flow(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, promoted: Promoted
) -> None:
    _, old, _ = promoted
    assert rollback.switch_warm(settings, "other", None, "") is None
    assert rollback.switch_warm(settings, "toy", 7, "") is None
    fleet._supervisor.remove(old.name)
    assert rollback.switch_warm(settings, "toy", None, "") is None
    assert rollback.pending(settings, "toy") is None
    assert weights(gateway) == {"1": 0, "2": 100}


def test_a_rollback_during_a_rollout_returns_to_production(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, promoted: Promoted
) -> None:
    line, _, _ = promoted
    third = fleet.ensure(line, make_artifact(settings, "third"))
    slow = with_rollout(line, hold_seconds=60, max_hold_seconds=90)
    ended = []

    def rolling() -> None:
        with lock_of(settings) as lock, pytest.raises(RolloutAborted, match="rollback") as caught:
            roll_out(slow, "3", third, gateway, lock)
        ended.append(caught)

    thread = threading.Thread(target=rolling)
    thread.start()
    while weights(gateway).get("3") != 10:
        time.sleep(0.05)
    assert rollback.switch_warm(settings, "toy", None, "slow") == 2
    thread.join()
    assert ended
    assert weights(gateway) == {"1": 0, "2": 100, "3": 0}


def test_the_next_flow_records_a_rollback_after_a_crash(
    settings: Settings, gateway: Gateway, promoted: Promoted, installation: ServingInstallation
) -> None:
    line, _, _ = promoted
    rollback.switch_warm(settings, "toy", None, "it stutters")
    registry = installation.registry
    assert production_of(registry) == 2
    unfinished = step.unfinished_rollback(installation, line)
    assert unfinished is not None
    target, reason = unfinished
    engine = body_of(step.prepare_rollback)(installation, line, target, reason)
    body_of(step.roll_back_traffic)(installation, line, target, engine, reason)
    assert step.unfinished_rollback(installation, line) is None
    assert production_of(registry) == 1
    bad = registry.version("toy", 2)
    assert (bad.state, bad.state_reason) == ("rolled_back", "it stutters")
    # The next promotion finds the rollback's version in production and starts no rollout.
    requested = settled.requested_version(installation, line, None)
    assert requested is not None and requested.version == 1
    assert settled.is_serving(installation, line, requested)
    assert rollback.served(settings, "toy") == rollback.Served(production=1, previous=None)


def test_a_route_to_an_address_that_its_engine_has_left_does_not_serve(
    gateway: Gateway, promoted: Promoted, installation: ServingInstallation
) -> None:
    """As after a kill between the start of an engine and the shift of traffic to it: `promote` must go on."""
    line, _, _ = promoted
    production = installation.registry.version("toy", 2)
    assert settled.is_serving(installation, line, production)
    routes = gateway.routes()
    left = (Endpoint(host="127.0.0.1", port=1),)
    backends = [backend.model_copy(update={"endpoints": left}) for backend in routes.line("toy").backends]
    # Not through the gateway, which would wait for the engine at that address.
    gateway._file.save(routes.with_line(routes.line("toy").model_copy(update={"backends": tuple(backends)})))
    assert not settled.is_serving(installation, line, production)


def test_an_impossible_rollback_is_discarded(
    settings: Settings,
    fleet: LocalFleet,
    gateway: Gateway,
    promoted: Promoted,
    installation: ServingInstallation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line, old, _ = promoted
    fleet.stop(old)

    def fails(*_: object) -> None:
        raise EngineFailed("It does not start.", "Read its log.")

    monkeypatch.setattr(LocalFleet, "ensure", fails)
    with pytest.raises(EngineFailed):
        body_of(step.prepare_rollback)(installation, line, installation.registry.version("toy", 1), "bad")
    assert rollback.pending(settings, "toy") is None
    assert weights(gateway) == {"1": 0, "2": 100}


def test_where_nothing_is_previous_the_versions_that_served_are_named_with_the_command(
    settings: Settings, installation: ServingInstallation
) -> None:
    line, registry = make_line(), installation.registry
    registry.set_production("toy", 1)
    registry.set_state("toy", 2, "rolled_back", "it stutters")
    registry.set_previous("toy", None)
    error = nothing_to_roll_back(installation, line, registry.production("toy"))
    assert "Version 1 serves. It may go to version 2 (int8, rolled_back)." in error.what
    assert "weighbridge rollback toy --to 2" in error.next_step
    assert step.rollback_target(installation, line, 2).version == 2, "what the message says can be done"
    registry.set_state("toy", 2, "failed", "it fell over")
    error = nothing_to_roll_back(installation, line, registry.production("toy"))
    assert "have failed since" in error.what
    assert "weighbridge lines retire toy" in error.next_step, "there is no lines/toy.yaml, so nothing can be released"
    error = nothing_to_roll_back(installation, line.model_copy(update={"name": "llama"}), None)
    assert "weighbridge release llama" in error.next_step


def test_the_command_moves_traffic_without_mlflow_and_prefect(
    settings: Settings, gateway: Gateway, promoted: Promoted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weighbridge.line.Line.load", lambda name: promoted[0])
    result = CliRunner().invoke(app, ["rollback", "toy", "--reason", "it stutters"])
    assert isinstance(result.exception, StackDown)
    assert "version 1 gets all new requests" in result.output
    assert weights(gateway) == {"1": 100, "2": 0}
    assert rollback.pending(settings, "toy") == rollback.PendingRollback(to=1, reason="it stutters")


def test_a_promotion_with_nothing_to_do_is_known_before_its_flow_starts(
    settings: Settings, promoted: Promoted, installation: ServingInstallation
) -> None:
    line, _, _ = promoted
    kept_warm = with_rollout(line, keep_warm_minutes=60)
    serving_record.record_serving(installation, kept_warm, installation.registry.version("toy", 2))
    serving_record.retire_engines(installation, kept_warm)
    unchanged = settled.settled(installation, kept_warm, None)
    assert unchanged is not None
    assert set(unchanged.model_dump()) == set(step.Serving(line="toy", version=2).model_dump())
    assert (unchanged.version, unchanged.changed) == (2, False)
    assert settled.settled(installation, with_rollout(line, keep_warm_minutes=0), None) is None, "an engine has to go"
    assert settled.settled(installation, kept_warm, 1) is None, "another version is named"
    rollback.switch_warm(settings, "toy", None, "it stutters")
    assert settled.settled(installation, kept_warm, None) is None, "a rollback has to be recorded"
