"""Proposing records everything and registers only what passed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.release import conclude
from registry.models.outbox import Outbox
from registry.models.records import RecordedCandidate, RecordedRelease, ReleaseRecord
from registry.store import Store
from tasks.fit.rows import FitReport
from tasks.propose.propose import Weighed, propose, unrecorded
from tasks.source.hub import Source
from weighbridge.errors import RegistryFailed, StackDown, WeighbridgeError
from weighbridge.line import Line
from weighbridge.settings import load_settings


class Notebook:
    """Takes the registry's place and keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[ReleaseRecord] = []

    def record_release(self, record: ReleaseRecord) -> RecordedRelease:
        self.records.append(record)
        candidates = tuple(
            RecordedCandidate(
                digest=one.artifact.digest,
                run_id="r",
                model_id="m",
                version=number if one.passes else None,
                run_url="http://mlflow/run",
                report_url="http://mlflow/report" if one.passes else "",
            )
            for number, one in enumerate(record.candidates, start=1)
        )
        return RecordedRelease(run_id="p", run_url="http://mlflow/parent", candidates=candidates)


def test_what_passed_gets_a_version_and_what_failed_only_a_report(
    line: Line, source: Source, fit: FitReport, passed: Weighed, damaged: Weighed, tmp_path: Path
) -> None:
    notebook: Any = Notebook()
    logs = load_settings().logs_folder
    logs.mkdir()
    (logs / f"engine-toy-{passed.artifact.short}-abc123.log").write_text("it is up")
    (logs / "worker.log").write_text("of something else")
    release = propose(
        line,
        source,
        fit,
        [passed, damaged],
        registry=notebook,
        store=Store(tmp_path / "store"),
        reports_folder=tmp_path,
    )

    assert [(one.scheme, one.outcome, one.version) for one in release.candidates] == [
        ("int8", "non_inferior", 1),
        ("int4", "regression", None),
    ]
    good, bad = release.candidates
    assert (release.run_url, good.report) == ("http://mlflow/parent", "http://mlflow/report")
    assert bad.report == bad.report_file == str(tmp_path / "toy" / f"{bad.digest[:12]}.html")
    assert "✗ regression" in Path(bad.report_file).read_text()
    (record,) = notebook.records
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
    line: Line, source: Source, passed: Weighed, damaged: Weighed, tmp_path: Path
) -> None:
    notebook: Any = Notebook()
    for weighed in ([passed], [passed], [damaged], [passed, damaged]):
        propose(
            line, source, None, weighed, registry=notebook, store=Store(tmp_path / "store"), reports_folder=tmp_path
        )
    first, again, *others = [record.key for record in notebook.records]
    assert first == again and len({first, *others}) == 3


class Failing:
    """A registry that does not take a release."""

    def __init__(self, error: WeighbridgeError) -> None:
        self.error = error

    def record_release(self, record: ReleaseRecord) -> RecordedRelease:
        raise self.error


def test_while_mlflow_is_down_nothing_is_lost_and_it_is_recorded_later_and_once(
    line: Line, source: Source, fit: FitReport, passed: Weighed, tmp_path: Path
) -> None:
    down: Any = Failing(StackDown("The MLflow server does not answer.", "Start it."))
    there = {"store": Store(tmp_path / "store"), "reports_folder": tmp_path}
    for _ in range(2):
        with pytest.raises(StackDown):
            propose(line, source, fit, [passed], registry=down, **there)
    release = unrecorded(line, source, [passed], tmp_path)
    assert (release.recorded, release.run_url) == (False, "")
    assert [(one.passes, one.version) for one in release.candidates] == [(True, None)]
    assert conclude(release) is release, "it is not the candidate's fault"
    assert Path(release.candidates[0].report_file).is_file()

    with pytest.raises(StackDown):
        Outbox().deliver(down, line.name)
    notebook: Any = Notebook()
    Outbox().deliver(notebook, line.name)
    propose(line, source, fit, [passed], registry=notebook, **there)
    late, at_once = notebook.records
    assert late.key == at_once.key
    assert set(late.candidates[0].files) == set(at_once.candidates[0].files)
    assert Outbox().waiting(line.name) == []


def test_what_mlflow_refuses_is_not_tried_for_ever(line: Line, source: Source, passed: Weighed, tmp_path: Path) -> None:
    refusing: Any = Failing(RegistryFailed("No.", "Ask why."))
    with pytest.raises(RegistryFailed):
        propose(line, source, None, [passed], registry=refusing, store=Store(tmp_path / "s"), reports_folder=tmp_path)
    assert Outbox().waiting(line.name) == []
