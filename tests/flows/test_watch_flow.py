"""The watch's flow without a server: its deployment, the start of a release, and its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from flows.watch import conclude
from registry.watch.ledger import Decision
from tasks.source.start import start_release
from tasks.source.watch_rows import Failure, Row, WatchReport
from tests.support.recorded_prefect import RecordedPrefect
from weighbridge.errors import ReleaseNotStarted, SourceUnknown, StackDown, StackFailed
from weighbridge.home import project_root
from weighbridge.settings import load_settings


@pytest.fixture
def decision() -> Decision:
    return Decision(
        line="toy", kind="commit", repo="org/toy", commit="a" * 40, outcome="release", reasons=(), rules="r"
    )


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordedPrefect]:
    server = RecordedPrefect({"release/toy": False})
    monkeypatch.setenv("WEIGHBRIDGE_PREFECT_PORT", str(server.port))
    yield server
    server.close()


def test_the_deployment_runs_daily_for_all_lines() -> None:
    described = yaml.safe_load((project_root() / "prefect.yaml").read_text())
    (daily,) = [
        deployment for deployment in described["deployments"] if deployment["entrypoint"] == "flows/watch.py:watch"
    ]
    assert (daily["name"], "parameters" in daily) == ("daily", False)
    assert [schedule["active"] for schedule in daily["schedules"]] == [True]


def test_a_release_run_has_the_decision_s_idempotency_key(decision: Decision, prefect: RecordedPrefect) -> None:
    assert start_release(load_settings(), decision)
    start_release(load_settings(), decision.model_copy(update={"kind": "successor", "repo": "org/toy-2"}))
    assert list(prefect.runs) == [f"watch/toy/org/toy@{'a' * 40}", f"watch/toy/org/toy-2@{'a' * 40}"]
    first, second = prefect.asked("release/toy")
    assert first["parameters"] == {"line": "toy", "revision": "a" * 40}
    assert second["parameters"]["source"] == "hf://org/toy-2"


@pytest.mark.parametrize(("refusal", "named"), [(503, StackFailed), (409, ReleaseNotStarted)])
def test_an_unexpected_answer_of_prefect_is_reported(
    decision: Decision, prefect: RecordedPrefect, refusal: int, named: type[Exception]
) -> None:
    prefect.refusal = refusal
    with pytest.raises(named):
        start_release(load_settings(), decision)


def test_a_lost_answer_differs_from_a_server_that_is_down(decision: Decision, prefect: RecordedPrefect) -> None:
    prefect.hangs_up = True
    with pytest.raises(StackFailed):
        start_release(load_settings(), decision)
    prefect.close()
    with pytest.raises(StackDown):
        start_release(load_settings(), decision)


def test_a_line_without_a_deployment_is_reported(decision: Decision, prefect: RecordedPrefect) -> None:
    prefect.deployments.clear()
    with pytest.raises(ReleaseNotStarted, match="no deployment release/toy"):
        start_release(load_settings(), decision)


def test_a_watch_raises_its_first_failure(decision: Decision) -> None:
    well = WatchReport(rows=(Row(line="toy", decision=decision, state="started"),))
    assert conclude(well) == well
    error = SourceUnknown("There is no repository org/gone.", "Check it.", "hub")
    with pytest.raises(SourceUnknown, match="org/gone"):
        conclude(WatchReport(rows=(*well.rows, Row(line="gone", error=Failure.of(error)))))
