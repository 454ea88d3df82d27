"""Proposing records everything and registers only what passed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry.records import RecordedCandidate, RecordedRelease, ReleaseRecord
from registry.store import Store
from tasks.fit.rows import FitReport
from tasks.propose.propose import Weighed, propose
from tasks.source.hub import Source
from weighbridge.errors import StackDown
from weighbridge.line import Line


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
    plan: Line, source: Source, fit: FitReport, passed: Weighed, damaged: Weighed, tmp_path: Path
) -> None:
    notebook: Any = Notebook()
    release = propose(
        plan,
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
        "items/general-agreement.jsonl",
        "items/general-choice.jsonl",
        "items/regression-toy.jsonl",
        "plots/suites.png",
        "plots/memory.png",
    }


def test_the_same_verdicts_are_the_same_release_and_others_are_not(
    plan: Line, source: Source, passed: Weighed, damaged: Weighed, tmp_path: Path
) -> None:
    notebook: Any = Notebook()
    for weighed in ([passed], [passed], [damaged], [passed, damaged]):
        propose(
            plan, source, None, weighed, registry=notebook, store=Store(tmp_path / "store"), reports_folder=tmp_path
        )
    first, again, *others = [record.key for record in notebook.records]
    assert first == again and len({first, *others}) == 3


def test_the_report_is_on_disk_even_when_mlflow_is_down(
    plan: Line, source: Source, passed: Weighed, tmp_path: Path
) -> None:
    class Down:
        def record_release(self, record: ReleaseRecord) -> RecordedRelease:
            raise StackDown("The MLflow server does not answer.", "Start it.")

    down: Any = Down()
    with pytest.raises(StackDown):
        propose(plan, source, None, [passed], registry=down, store=Store(tmp_path / "store"), reports_folder=tmp_path)
    assert (tmp_path / "toy" / f"{passed.artifact.short}.html").is_file()
