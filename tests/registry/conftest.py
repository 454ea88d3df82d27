"""A release to record, an MLflow that is a database in a temporary folder, and an installation to back up."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.models.records import REPORT_LINK, CandidateRecord, ReleaseRecord
from registry.models.registry import Registry
from registry.store import Artifact, Store
from tests.registry.backup_support import Home, registry_of
from tests.registry.store_support import make_artifact
from weighbridge.settings import Settings, load_settings

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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Switch to an installation by name; a new one is empty, or has the keys of another."""

    def go(name: str, keys_of: Settings | None = None) -> Settings:
        monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / name))
        (tmp_path / name).mkdir(exist_ok=True)
        if keys_of is not None:
            # As a person does on a new machine, from the place where the keys are kept.
            shutil.copytree(keys_of.home / "keys", tmp_path / name / "keys", dirs_exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        return load_settings()

    return go


@pytest.fixture(scope="session")
def recorded_home(
    empty_database: Path, release: Callable[..., ReleaseRecord], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The home of `installation`, made once because MLflow takes seconds for it; tests copy it."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHBRIDGE_HOME", str(folder))
        patch.chdir(folder)
        settings = load_settings()
        (folder / "mlflow" / "artifacts").mkdir(parents=True)
        shutil.copy(empty_database, folder / "mlflow" / "mlflow.db")
        (folder / "mlflow" / "artifacts" / "report.html").write_text("<p>report</p>")
        registry = registry_of(settings)
        registry.record_release(release())
        registry.approve("toy", 1, "better on words", "anna")
        registry.set_production("toy", 1)
        make_artifact(Store.of(settings))
    return folder


@pytest.fixture
def installation(home: Home, recorded_home: Path, tmp_path: Path) -> Settings:
    """An installation with a release, an approved version in production, files and an artifact."""
    shutil.copytree(recorded_home, tmp_path / "old")
    return home("old")
