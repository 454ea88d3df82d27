"""The watch's flow without a server: its deployment, how it asks for a release, and how it ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml

from flows.watch import conclude
from registry.watch.ledger import Decision
from tasks.source import step
from tasks.source.watch_rows import Failure, Row, WatchReport
from weighbridge.errors import ReleaseNotStarted, SourceUnknown, StackDown, StackFailed
from weighbridge.settings import project_root


@pytest.fixture
def decision() -> Decision:
    return Decision(
        line="toy", kind="commit", repo="org/toy", commit="a" * 40, outcome="release", reasons=(), rules="r"
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Prefect is asked for; it answers with a run."""
    seen: list[dict[str, Any]] = []

    def run_deployment(**wanted: Any) -> Any:
        seen.append(wanted)
        return SimpleNamespace(id=uuid4())

    monkeypatch.setattr("prefect.deployments.run_deployment", run_deployment)
    return seen


def test_the_deployment_runs_daily_for_all_lines() -> None:
    described = yaml.safe_load((project_root() / "prefect.yaml").read_text())
    (daily,) = [one for one in described["deployments"] if one["entrypoint"] == "flows/watch.py:watch"]
    assert (daily["name"], "parameters" in daily) == ("daily", False)
    assert [schedule["active"] for schedule in daily["schedules"]] == [True]


def test_a_release_is_asked_for_under_the_decision_s_key(decision: Decision, asked: list[dict[str, Any]]) -> None:
    assert step.start_release(decision)
    step.start_release(decision.model_copy(update={"kind": "successor", "repo": "org/toy-2"}))
    assert [one["idempotency_key"] for one in asked] == [
        f"watch/toy/org/toy@{'a' * 40}",
        f"watch/toy/org/toy-2@{'a' * 40}",
    ]
    assert asked[0]["name"] == "release/toy"
    assert asked[0]["parameters"] == {"line": "toy", "revision": "a" * 40}
    assert asked[1]["parameters"]["source"] == "hf://org/toy-2"
    assert {(one["timeout"], one["as_subflow"]) for one in asked} == {(0, False)}


def answered(status: int) -> Exception:
    from prefect.exceptions import PrefectHTTPStatusError

    request = httpx.Request("POST", "http://prefect/api")
    return PrefectHTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (httpx.ConnectError("refused"), StackDown),
        (httpx.ReadTimeout("slow"), StackFailed),
        (answered(503), StackFailed),
        (answered(409), ReleaseNotStarted),
    ],
)
def test_what_prefect_answers_instead_is_named(
    decision: Decision, monkeypatch: pytest.MonkeyPatch, answer: Exception, named: type[Exception]
) -> None:
    def fails(**_: Any) -> None:
        raise answer

    monkeypatch.setattr("prefect.deployments.run_deployment", fails)
    with pytest.raises(named):
        step.start_release(decision)


def test_a_line_without_a_deployment_is_named(decision: Decision, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.exceptions import ObjectNotFound

    def fails(**_: Any) -> None:
        raise ObjectNotFound(Exception("404"))

    monkeypatch.setattr("prefect.deployments.run_deployment", fails)
    with pytest.raises(ReleaseNotStarted, match="no deployment release/toy"):
        step.start_release(decision)


def test_a_watch_ends_as_its_first_failure(decision: Decision) -> None:
    well = WatchReport(rows=(Row(line="toy", decision=decision, state="started"),))
    assert conclude(well) == well
    error = SourceUnknown("There is no repository org/gone.", "Check it.", "hub")
    with pytest.raises(SourceUnknown, match="org/gone"):
        conclude(WatchReport(rows=(*well.rows, Row(line="gone", error=Failure.of(error)))))
