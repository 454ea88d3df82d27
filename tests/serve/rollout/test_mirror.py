"""The mirror before the first canary step: the new version gets copies of requests; its responses are discarded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.serve.fleet.local import LocalFleet
from tasks.serve.gateway import Gateway, Mirror
from tasks.serve.rollout.canary import roll_out
from tasks.serve.rollout.canary_step import StepReport
from tasks.serve.rollout.report_table import step_rows
from tasks.serve.rollout.retire import retire
from tests.serve.rollout.rollout_support import clients, lock_of, serve_first, unproven, weights, with_rollout
from tests.serve.serve_support import make_artifact
from weighbridge.errors import RolloutAborted
from weighbridge.line import Rollout, ShadowStep
from weighbridge.settings import Settings

pytestmark = pytest.mark.timeout(300)

HALF = {"shadow": ShadowStep(per_cent=50, hold_seconds=2), "max_hold_seconds": 15}


def test_a_good_version_goes_from_mirror_to_canary_steps(
    settings: Settings, fleet: LocalFleet, gateway: Gateway
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    answers_at: dict[str, dict[str, int]] = {}

    def note(report: StepReport) -> None:
        answers_at[report.name] = dict(load.by_version)

    with clients(settings, gateway) as load, lock_of(settings) as lock:
        reports = roll_out(with_rollout(line, steps=[50, 100], **HALF), "2", new, gateway, lock, on_step=note)
    assert [report.name for report in reports] == ["mirror of 50 %", "50 %", "100 %"]
    assert "2" not in answers_at["mirror of 50 %"], "responses of the mirror were discarded"
    assert load.failed == []
    mirror_step = reports[0]
    assert mirror_step.requests > 4
    assert mirror_step.errors == 0
    by_name = {signal.name: signal for signal in mirror_step.signals}
    assert by_name["errors"].candidate == 0
    # Both are measured by the gateway's clocks and counts, so mirror and production are comparable.
    assert (by_name["latency p50"].candidate or 0) > 0
    assert by_name["first byte p50"].outcome in ("better", "no_worse")
    assert by_name["length"].candidate == pytest.approx(by_name["length"].production, rel=0.5)
    assert gateway.routes().line("toy").mirror is None
    assert weights(gateway) == {"1": 0, "2": 100}
    assert step_rows(reports)[0]["step"] == "mirror of 50 %"


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"status": 500}, "errors"),
        ({"die-on-first": True}, "errors|health check"),
        ({"answer": ""}, "empty answers"),
        ({"delay": 0.5}, "latency"),
    ],
    ids=["errors", "dying", "empty", "slow"],
)
def test_a_bad_version_is_stopped_before_it_answers_any_user(
    settings: Settings,
    fleet: LocalFleet,
    gateway: Gateway,
    record_property: Callable[[str, object], None],
    flags: dict[str, Any],
    why: str,
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    bad = unproven(fleet, settings, **{"delay": 0.05, **flags})
    with clients(settings, gateway) as load:
        with lock_of(settings) as lock, pytest.raises(RolloutAborted, match=f"stopped at mirror of 50 %.*({why})"):
            roll_out(with_rollout(line, **HALF), "2", bad, gateway, lock)
        record_property("requests", len(load.answers))
    assert load.failed == []
    assert set(load.by_version) == {"1"}
    assert weights(gateway) == {"1": 100, "2": 0}
    assert gateway.routes().line("toy").mirror is None


def test_a_mirror_without_requests_lets_no_version_through(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    # As with an Envoy started before mirrors existed: it accepts the change and mirrors nothing.
    monkeypatch.setattr(type(gateway), "set_mirror", lambda *_, **__: None)
    quick = with_rollout(line, **{**HALF, "max_hold_seconds": 6})
    with (
        clients(settings, gateway) as load,
        lock_of(settings) as lock,
        pytest.raises(RolloutAborted, match="requests was mirrored"),
    ):
        roll_out(quick, "2", new, gateway, lock)
    assert set(load.by_version) == {"1"}
    assert weights(gateway) == {"1": 100, "2": 0}


def test_the_next_flow_ends_the_mirror_of_a_killed_rollout(
    settings: Settings, fleet: LocalFleet, gateway: Gateway
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    slow = with_rollout(line, shadow=ShadowStep(per_cent=100, hold_seconds=0), hold_seconds=0)
    with lock_of(settings) as lock:
        roll_out(slow, "2", new, gateway, lock)
    gateway.shift("toy", {"1": 100})
    gateway.set_mirror("toy", Mirror(version="2", per_cent=100))
    retire(line, gateway, fleet)
    assert gateway.routes().line("toy").mirror is None


def test_a_line_has_no_mirror_by_default() -> None:
    assert Rollout().shadow is None
    configured = Rollout.model_validate({"shadow": {"per_cent": 5}}).shadow
    assert configured == ShadowStep(per_cent=5, hold_seconds=60)
