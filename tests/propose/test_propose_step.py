"""The step under Prefect: MLflow is down while a release ends, and is there again when the line is promoted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from registry.models.registry import Registry
from tasks.evaluate.weigh import Weighed
from tasks.fit.rows import FitReport
from tasks.propose.release import Release, require_candidate
from tasks.propose.step import propose
from tasks.serve.installation import ServingInstallation
from tasks.serve.step import record_waiting_releases
from tasks.source.pinned import Source
from weighbridge.line import Line

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


def test_a_release_succeeds_without_mlflow_and_is_recorded_when_it_answers(
    prefect: None,
    line: Line,
    source: Source,
    fit: FitReport,
    passed: Weighed,
    empty_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    # Nobody listens there.
    monkeypatch.setenv("WEIGHBRIDGE_MLFLOW_PORT", "9")

    installation = ServingInstallation.load()

    @flow
    def ending() -> Release:
        return require_candidate(propose(installation, line, source, fit, [passed], None))

    @flow
    def promoting() -> None:
        record_waiting_releases(installation, line)

    release = ending()
    assert (release.recorded, release.candidates[0].version) == (False, None)
    promoting()

    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db")
    installation.registry = registry
    promoting()
    assert [candidate.digest for candidate in registry.candidates(line.name)] == [passed.artifact.digest]
    repeated = ending()
    assert (repeated.recorded, repeated.candidates[0].version) == (True, 1), (
        "the same, and not what was kept of the first try"
    )
    assert len(registry.candidates(line.name)) == 1
