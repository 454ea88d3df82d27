"""A release to record, and an MLflow that is a database in a temporary folder."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.models.records import REPORT_LINK, CandidateRecord, ReleaseRecord
from registry.models.registry import Registry
from registry.store import Artifact

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _candidate(line: str, scheme: str, passes: bool, variant: str) -> CandidateRecord:
    """Make a candidate's record; the same `scheme` and `variant` are the same artifact."""
    digest = hashlib.sha256(f"{scheme}{variant}".encode()).hexdigest()
    return CandidateRecord(
        artifact=Artifact(line=line, digest=digest, scheme=scheme, repo="org/toy", commit=COMMIT, size_bytes=1000),
        outcome="non_inferior" if passes else "regression",
        passes=passes,
        sentence="No worse." if passes else "Regression: general/choice lost 12 items.",
        metrics={"general/choice.mean": 0.75, "general/choice.difference": -0.01},
        params={"scheme": scheme},
        tags={"weighbridge.licence": "apache-2.0"},
        card_markdown=f"**The verdict.** [Report]({REPORT_LINK})",
        files={"report.html": "<p>report</p>", "items/choice.jsonl": "{}\n", "plots/suites.png": b"\x89PNG"},
        production_digest="f" * 64,
    )


@pytest.fixture(scope="session")
def release() -> Callable[..., ReleaseRecord]:
    """Make a release of int8 and int4; those named in `failing` did not pass."""

    def make(*, line: str = "toy", key: str = "a1", failing: tuple[str, ...] = (), variant: str = "") -> ReleaseRecord:
        candidates = tuple(_candidate(line, scheme, scheme not in failing, variant) for scheme in ("int8", "int4"))
        return ReleaseRecord(
            line=line, repo="org/toy", commit=COMMIT, key=key, params={"context": "2048"}, candidates=candidates
        )

    return make


@pytest.fixture
def registry(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry on an empty database; MLflow puts artifacts into the working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Registry(f"sqlite:///{tmp_path}/mlflow.db")
