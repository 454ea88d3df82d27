"""What the registry is given and gives back: releases, their candidates, and versions of registered models.

Everything MLflow keeps for us hangs on tags that start with `weighbridge.`; their names stand here, once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from registry.store import Artifact

TAG = "weighbridge."
KIND, KEY, LINE = f"{TAG}kind", f"{TAG}key", f"{TAG}line"
DIGEST, SCHEME, SOURCE, SIZE_BYTES = f"{TAG}digest", f"{TAG}scheme", f"{TAG}source", f"{TAG}size_bytes"
OUTCOME, PASSES, SENTENCE = f"{TAG}outcome", f"{TAG}passes", f"{TAG}verdict"
PRODUCTION_DIGEST = f"{TAG}production_digest"
STATE, STATE_REASON = f"{TAG}state", f"{TAG}state_reason"
APPROVED_BY, APPROVED_REASON = f"{TAG}approved_by", f"{TAG}approved_reason"
OVERRIDE = f"{TAG}override"
"""Of a version whose verdict was overridden: the hash of the audit log's entry that says so."""

REPORT_LINK = "weighbridge:report"
"""Stands in a card for the address of the report, which is known only once the run exists."""

CARD_LIMIT = 5000
"""Characters that MLflow's database keeps of a version's description (`String(5000)`)."""

EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag with which MLflow's UI opens an experiment on its runs; without it, on an empty page of GenAI traces."""

PRODUCTION, PREVIOUS = "production", "previous"
CANDIDATES = "-candidates"

State = Literal["rolling", "serving", "previous", "retired", "refused", "failed", "rolled_back"]
STATES: tuple[State, ...] = get_args(State)


def candidates_model(line: str) -> str:
    """Registered model that the pipeline writes; the reviewers' is called like the line."""
    return f"{line}{CANDIDATES}"


def line_of(model: str) -> str:
    """Line that a registered model belongs to."""
    return model.removesuffix(CANDIDATES)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class DatasetRecord(_Frozen):
    """A suite that a candidate was weighed by."""

    name: str
    digest: str
    """Of its items and settings."""
    source: str
    """Where it lies in the checkout."""


class CandidateRecord(_Frozen):
    """One artifact of a release with its verdict, as it is to be recorded."""

    artifact: Artifact
    outcome: str
    passes: bool
    sentence: str
    """The verdict in one sentence."""
    metrics: dict[str, float] = {}
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    card_markdown: str = ""
    """What a reviewer decides from; `REPORT_LINK` in it becomes the report's address."""
    files: dict[str, str | bytes | Path] = {}
    """Path in MLflow -> text, bytes, or a file on disk."""
    datasets: tuple[DatasetRecord, ...] = ()
    report: str = "report.html"
    """Which of the files a reader opens first."""
    production_digest: str | None = None
    """What it was weighed against; None for a line's first."""


class ReleaseRecord(_Frozen):
    """A release that has been weighed."""

    line: str
    repo: str
    commit: str
    """40 hex digits."""
    key: str
    """Hex digest of all that went into this release: the same key is the same release."""
    params: dict[str, str] = {}
    candidates: tuple[CandidateRecord, ...]


class RecordedCandidate(_Frozen):
    """Where one candidate is found in MLflow."""

    digest: str
    run_id: str
    model_id: str
    version: int | None
    """Version of `<line>-candidates`; None for a candidate that failed."""
    run_url: str
    report_url: str
    """Empty when MLflow is a database without a server."""


class RecordedRelease(_Frozen):
    """Where a release is found in MLflow."""

    run_id: str
    run_url: str
    candidates: tuple[RecordedCandidate, ...]


class FailedCandidate(_Frozen):
    """A candidate that was weighed and did not pass."""

    line: str
    digest: str
    scheme: str
    outcome: str
    sentence: str
    production_digest: str | None
    run_id: str
    run_url: str
    tags: dict[str, str]


class Version(_Frozen):
    """A version of one of a line's two registered models."""

    line: str
    model: str
    """`<line>-candidates` or `<line>`."""
    version: int
    digest: str
    """Empty when somebody made the version by hand, without our tags; so are the next two."""
    scheme: str
    outcome: str
    passes: bool
    sentence: str
    state: str | None
    """One of `STATES`; None while nothing has been decided."""
    state_reason: str
    source_uri: str
    """As MLflow has it: `store://…` of a candidate, `models:/<line>-candidates/<n>` of an approved copy."""
    production_digest: str | None
    """What it was weighed against; None for a line's first."""
    approved_by: str
    """As `approve` said; empty after a click on *Promote model*: `AuditLog.approver` knows whose that was."""
    approved_reason: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    created_at_ms: int
    """Since 1970."""
    url: str

    @property
    def short(self) -> str:
        """Enough of the digest for a person."""
        return self.digest[:12]

    @property
    def artifact_uri(self) -> str:
        """Where the model's files are."""
        return f"store://{self.line}/{self.digest}"
