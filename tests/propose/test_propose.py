"""Proposing records everything and registers only what passed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry.installation import Installation
from registry.models.records import RecordedCandidate, RecordedRelease, ReleaseRecord
from tasks.evaluate.weigh import Weighed
from tasks.fit.rows import FitReport
from tasks.propose.propose import propose, unrecorded
from tasks.propose.release import ProposedCandidate, Release, require_candidate
from tasks.source.pinned import Source
from weighbridge.errors import (
    RegistryFailed,
    StackDown,
    VerdictInconclusive,
    VerdictInvalid,
    VerdictRegression,
    WeighbridgeError,
)
from weighbridge.line import Line
from weighbridge.settings import load_settings


def installation_with(registry: object) -> Installation:
    """The test's own installation with a stand-in for its registry."""
    installation = Installation(load_settings())
    vars(installation)["registry"] = registry
    return installation


class RecordingRegistry:
    """Stands in for the registry and keeps every record."""

    def __init__(self) -> None:
        self.records: list[ReleaseRecord] = []

    def record_release(self, record: ReleaseRecord) -> RecordedRelease:
        self.records.append(record)
        candidates = tuple(
            RecordedCandidate(
                digest=candidate.artifact.digest,
                run_id="r",
                model_id="m",
                version=number if candidate.passes else None,
                run_url="http://mlflow/run",
                report_url="http://mlflow/report" if candidate.passes else "",
            )
            for number, candidate in enumerate(record.candidates, start=1)
        )
        return RecordedRelease(run_id="p", run_url="http://mlflow/parent", candidates=candidates)


def test_a_passed_candidate_gets_a_version_and_a_failed_one_only_a_report(
    line: Line, source: Source, fit: FitReport, passed: Weighed, damaged: Weighed
) -> None:
    registry = RecordingRegistry()
    installation = installation_with(registry)
    logs = load_settings().logs_folder
    logs.mkdir()
    (logs / f"engine-toy-{passed.artifact.short}-abc123.log").write_text("it is up")
    (logs / "worker.log").write_text("of something else")
    release = propose(installation, line, source, fit, [passed, damaged])

    assert [(candidate.scheme, candidate.outcome, candidate.version) for candidate in release.candidates] == [
        ("int8", "non_inferior", 1),
        ("int4", "regression", None),
    ]
    good, bad = release.candidates
    assert (release.run_url, good.report) == ("http://mlflow/parent", "http://mlflow/report")
    assert bad.report == bad.report_file == str(load_settings().home / "reports" / "toy" / f"{bad.digest[:12]}.html")
    assert "✗ regression" in Path(bad.report_file).read_text()
    (record,) = registry.records
    first = record.candidates[0]
    assert first.metrics["general/choice/difference"] == pytest.approx(-0.02)
    assert (first.passes, first.production_digest) == (True, passed.verdict.production_digest)
    assert set(first.files) == {
        "report.html",
        "verdict.json",
        "line.json",
        "environment.txt",
        "fit.json",
        f"logs/engine-toy-{passed.artifact.short}-abc123.log",
        "items/general-agreement.jsonl",
        "items/general-choice.jsonl",
        "items/regression-toy.jsonl",
        "plots/suites.png",
        "plots/memory.png",
    }


def test_the_same_verdicts_are_the_same_release_and_others_are_not(
    line: Line, source: Source, passed: Weighed, damaged: Weighed
) -> None:
    registry = RecordingRegistry()
    for weighed in ([passed], [passed], [damaged], [passed, damaged]):
        propose(installation_with(registry), line, source, None, weighed)
    first, repeated, *others = [record.key for record in registry.records]
    assert first == repeated and len({first, *others}) == 3


class FailingRegistry:
    """A registry that fails to record."""

    def __init__(self, error: WeighbridgeError) -> None:
        self.error = error

    def record_release(self, record: ReleaseRecord) -> RecordedRelease:
        raise self.error


def test_a_release_without_mlflow_is_recorded_later_and_once(
    line: Line, source: Source, fit: FitReport, passed: Weighed
) -> None:
    down: Any = FailingRegistry(StackDown("The MLflow server does not answer.", "Start it."))
    installation = installation_with(down)
    for _ in range(2):
        with pytest.raises(StackDown):
            propose(installation, line, source, fit, [passed])
    release = unrecorded(installation, line, source, [passed])
    assert (release.recorded, release.run_url) == (False, "")
    assert [(candidate.passes, candidate.version) for candidate in release.candidates] == [(True, None)]
    assert require_candidate(release) is release, "it is not the candidate's fault"
    assert Path(release.candidates[0].report_file).is_file()

    with pytest.raises(StackDown):
        installation.outbox.deliver(down, line.name)
    registry: Any = RecordingRegistry()
    installation.outbox.deliver(registry, line.name)
    propose(installation_with(registry), line, source, fit, [passed])
    late, at_once = registry.records
    assert late.key == at_once.key
    assert set(late.candidates[0].files) == set(at_once.candidates[0].files)
    assert installation.outbox.waiting(line.name) == []


def test_a_record_that_mlflow_refuses_is_not_retried_for_ever(line: Line, source: Source, passed: Weighed) -> None:
    installation = installation_with(FailingRegistry(RegistryFailed("No.", "Ask why.")))
    with pytest.raises(RegistryFailed):
        propose(installation, line, source, None, [passed])
    assert installation.outbox.waiting(line.name) == []


@pytest.mark.parametrize(
    ("outcomes", "error"),
    [
        (["inconclusive"], VerdictInconclusive),
        (["inconclusive", "regression"], VerdictRegression),
        (["regression", "invalid"], VerdictInvalid),
    ],
)
def test_a_release_without_a_candidate_fails_by_its_gravest_outcome(outcomes: list[str], error: type) -> None:
    candidates = tuple(
        ProposedCandidate(
            scheme="int8",
            digest=str(number) * 64,
            outcome=outcome,
            sentence=f"{outcome} it is.",
            version=None,
            report="report.html",
            report_file="report.html",
        )
        for number, outcome in enumerate(outcomes)
    )
    release = Release(line="toy", commit="c" * 40, run_url="", candidates=candidates)
    with pytest.raises(error) as caught:
        require_candidate(release)
    for number, outcome in enumerate(outcomes):
        assert f"[int8 {str(number) * 12}] {outcome} it is." in str(caught.value)
    passing = candidates[0].model_copy(update={"outcome": "non_inferior", "passes": True, "version": 3})
    saved = release.model_copy(update={"candidates": (*candidates, passing)})
    assert require_candidate(saved) is saved
