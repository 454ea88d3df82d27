"""What the registry receives and returns: releases, their candidates, and versions of registered models.

Everything that Weighbridge keeps in MLflow is found by tags that start with `weighbridge.`. Their names are defined
here, once.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from registry.store import Artifact

TAG = "weighbridge."
KIND, KEY, LINE = f"{TAG}kind", f"{TAG}key", f"{TAG}line"
DIGEST, SCHEME, SOURCE, SIZE_BYTES = f"{TAG}digest", f"{TAG}scheme", f"{TAG}source", f"{TAG}size_bytes"
OUTCOME, PASSES, SENTENCE = f"{TAG}outcome", f"{TAG}passes", f"{TAG}verdict"
PRODUCTION_DIGEST = f"{TAG}production_digest"
STATE, STATE_REASON = f"{TAG}state", f"{TAG}state_reason"
APPROVED_BY, APPROVED_REASON = f"{TAG}approved_by", f"{TAG}approved_reason"
SIGNED_VERDICT = f"{TAG}signed_verdict"
"""On a candidate: what the pipeline wrote about it, signed (`registry/models/verdicts.py`)."""
OVERRIDE = f"{TAG}override"
"""On a version whose verdict was overridden: hash of the audit log's entry about the override."""

RELEASE, CANDIDATE, WATCH = "release", "candidate", "watch"
"""Kinds of runs."""

REPORT_LINK = "weighbridge:report"
"""Placeholder in a card for the address of the report, which is known only once the run exists."""

CARD_LIMIT = 5000
"""Characters that MLflow's database keeps of a version's description (`String(5000)`)."""

EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag with which MLflow's UI opens an experiment on its runs; without it, on an empty page of GenAI traces."""

PRODUCTION, PREVIOUS = "production", "previous"
"""Aliases on `<line>`."""
CANDIDATES = "-candidates"

State = Literal["rolling", "serving", "previous", "retired", "refused", "failed", "rolled_back"]
STATES: tuple[State, ...] = get_args(State)


def candidates_model(line: str) -> str:
    """Name of the registered model that the pipeline writes. The reviewers' has the line's name."""
    return f"{line}{CANDIDATES}"


def line_of(model: str) -> str:
    """Name of the line that a registered model belongs to."""
    return model.removesuffix(CANDIDATES)


def lay_out(files: dict[str, str | bytes | Path], folder: Path) -> None:
    """Write a record's files into a folder; a file that is already on disk is copied.

    Args:
        files: Path below the folder -> text, bytes, or a file on disk.
        folder: Created if it is missing.
    """
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class DatasetRecord(_Frozen):
    """A suite that a candidate was weighed on."""

    name: str
    digest: str
    """Digest of its items and settings."""
    source: str
    """Path in the checkout."""


class CandidateRecord(_Frozen):
    """One artifact of a release with its verdict, ready to be recorded."""

    artifact: Artifact
    outcome: str
    passes: bool
    sentence: str
    """The verdict in one sentence."""
    verdict: dict[str, Any] = {}
    """The whole verdict, with each suite's outcome, margin, confidence and bounds."""
    metrics: dict[str, float] = {}
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    card_markdown: str = ""
    """The page that a reviewer decides from; `REPORT_LINK` in it becomes the report's address."""
    files: dict[str, str | bytes | Path] = {}
    """Path in MLflow -> text, bytes, or a file on disk."""
    datasets: tuple[DatasetRecord, ...] = ()
    report: str = "report.html"
    """The file that a reader opens first."""
    production_digest: str | None = None
    """Digest of the artifact that it was weighed against; None for a line's first."""


class ReleaseRecord(_Frozen):
    """A release that has been weighed."""

    line: str
    repo: str
    commit: str
    """40 hex digits."""
    key: str
    """Hex digest of everything that went into the release: the same key is the same release."""
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
    """Empty if MLflow is a database without a server."""


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
    """Empty for a version created by hand, without Weighbridge's tags; so are the next two."""
    scheme: str
    outcome: str
    passes: bool
    sentence: str
    state: str | None
    """One of `STATES`; None while nothing has been decided."""
    state_reason: str
    source_uri: str
    """Source in MLflow: `store://…` of a candidate, `models:/<line>-candidates/<n>` of an approved copy."""
    production_digest: str | None
    """Digest of the artifact that it was weighed against; None for a line's first."""
    approved_by: str
    """Name given to `approve`; empty after a click on *Promote model*, which `AuditLog.approver` can name."""
    approved_reason: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    created_at_ms: int
    """Milliseconds since 1970."""
    url: str

    @property
    def kind(self) -> str:
        """`version` of `<line>`, or `candidate`; a number without it could be either."""
        return "version" if self.model == self.line else "candidate"

    @property
    def name(self) -> str:
        """`candidate 2 of llama` or `version 3 of llama`."""
        return f"{self.kind} {self.version} of {self.line}"

    @property
    def short(self) -> str:
        """The digest's first 12 digits, for messages."""
        return self.digest[:12]

    @property
    def artifact_uri(self) -> str:
        """Address of the artifact in the store."""
        return f"store://{self.line}/{self.digest}"


class Approved(Version):
    """A version of `<line>`, as an approval left it."""

    earlier: bool = False
    """Whether the artifact was approved before, so that no version was created."""
    reason_added: bool = False
    """Whether the reason was written beside an earlier one."""
