"""Propose: put weighed candidates before the person who decides.

Each candidate gets a card and a report, the registry gets everything, and a candidate that passes waits for approval.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from registry.installation import Installation
from registry.models.records import RecordedCandidate, RecordedRelease, ReleaseRecord
from registry.store import Artifact, Store
from tasks.evaluate.weigh import Weighed
from tasks.propose.candidate_record import candidate_record
from tasks.propose.dossier import Dossier
from tasks.propose.release import ProposedCandidate, Release
from tasks.propose.report import make_report
from weighbridge.errors import ArtifactMissing, StackDown, WeighbridgeError
from weighbridge.files import READABLE, write_whole
from weighbridge.line import Line

if TYPE_CHECKING:
    from tasks.fit.rows import FitReport
    from tasks.quantize import QuantizationRecord
    from tasks.source.changes import ChangeReport
    from tasks.source.pinned import Source


def propose(
    installation: Installation,
    line: Line,
    source: Source,
    fit: FitReport | None,
    weighed: list[Weighed],
    changed: ChangeReport | None = None,
) -> Release:
    """Record every candidate in MLflow; a candidate that passes awaits a person's approval.

    Args:
        installation: has the artifacts, the registry, the outbox and the folder of reports.
        line: the line.
        source: the release.
        fit: what fits on which GPU.
        weighed: the candidates, in the line's order.
        changed: changes against production beside the weights; None while nothing serves.

    Returns:
        The addresses of everything. The same candidates with the same verdicts give the same release.

    Raises:
        StackDown: MLflow does not answer; the release waits in the outbox (`unrecorded`).
        RegistryFailed: MLflow refuses; the reports are on disk nevertheless.
    """
    dossiers = [
        Dossier(line, source, candidate, fit, _quantization(candidate.artifact, installation.store), changed)
        for candidate in weighed
    ]
    reports = [make_report(dossier) for dossier in dossiers]
    files = [_report_file(installation, line, dossier.artifact) for dossier in dossiers]
    for file, report in zip(files, reports):
        write_whole(file, report, READABLE)
    logs_folder = installation.settings.logs_folder
    record = ReleaseRecord(
        line=line.name,
        repo=source.repo,
        commit=source.commit,
        key=_key(line, source, weighed),
        params={"repo": source.repo, "commit": source.commit, "schemes": ", ".join(line.schemes)},
        candidates=tuple(candidate_record(dossier, report, logs_folder) for dossier, report in zip(dossiers, reports)),
    )
    recorded = _record(installation, record)
    return Release(
        line=line.name,
        commit=source.commit,
        run_url=recorded.run_url,
        candidates=tuple(map(_proposed, weighed, files, recorded.candidates)),
    )


def unrecorded(installation: Installation, line: Line, source: Source, weighed: list[Weighed]) -> Release:
    """A release that `propose` has put into the outbox; the line's next `promote` records it."""
    return Release(
        line=line.name,
        commit=source.commit,
        run_url="",
        candidates=tuple(
            _proposed(candidate, _report_file(installation, line, candidate.artifact)) for candidate in weighed
        ),
        recorded=False,
    )


def _record(installation: Installation, record: ReleaseRecord) -> RecordedRelease:
    """Record a release in MLflow; it stays in the outbox until MLflow has it or refuses it."""
    outbox = installation.outbox
    outbox.add(record)
    try:
        recorded = installation.registry.record_release(record)
    except StackDown:
        raise
    except WeighbridgeError:
        # MLflow answers and refuses: it would refuse the same again.
        outbox.remove(record)
        raise
    outbox.remove(record)
    return recorded


def _report_file(installation: Installation, line: Line, artifact: Artifact) -> Path:
    return installation.settings.home / "reports" / line.name / f"{artifact.short}.html"


def _proposed(weighed: Weighed, file: Path, recorded: RecordedCandidate | None = None) -> ProposedCandidate:
    return ProposedCandidate(
        scheme=weighed.artifact.scheme,
        digest=weighed.artifact.digest,
        outcome=weighed.verdict.outcome,
        sentence=weighed.verdict.sentence,
        passes=weighed.verdict.passes,
        version=recorded.version if recorded else None,
        report=(recorded.report_url if recorded else "") or str(file),
        report_file=str(file),
    )


def _quantization(artifact: Artifact, store: Store) -> QuantizationRecord | None:
    """How an artifact was quantized; None where the store no longer has it."""
    from tasks.quantize import quantization_record

    try:
        return quantization_record(artifact, store)
    except ArtifactMissing:
        # A failed candidate may have been removed; its verdict is recorded all the same.
        return None


def _key(line: Line, source: Source, weighed: list[Weighed]) -> str:
    """Digest of everything that this release's verdicts rest on."""
    identity = [
        [
            candidate.verdict.model_dump(),
            [[scores.suite_digest, scores.scorer] for scores in candidate.candidate_scores],
        ]
        for candidate in weighed
    ]
    text = json.dumps([line.name, source.repo, source.commit, identity], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
