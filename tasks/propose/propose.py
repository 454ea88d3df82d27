"""Propose: put weighed candidates before the person who decides.

Each candidate gets a card and a report; the registry gets everything; what passed waits for approval.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from registry.models.outbox import Outbox
from registry.models.records import CandidateRecord, DatasetRecord, RecordedCandidate, RecordedRelease, ReleaseRecord
from registry.models.registry import Registry
from registry.store import Artifact, Store
from tasks.propose.card import make_card
from tasks.propose.dossier import Dossier, Weighed
from tasks.propose.plots import as_png, forest_plot, memory_plot
from tasks.propose.report import items_jsonl, make_report
from tasks.source.changes import changes_markdown
from weighbridge.errors import ArtifactMissing, StackDown, WeighbridgeError
from weighbridge.files import READABLE, write_whole
from weighbridge.line import Line
from weighbridge.settings import load_settings
from weighbridge.units import GIB

if TYPE_CHECKING:
    from tasks.fit.rows import FitReport
    from tasks.quantize import QuantizationRecord
    from tasks.source.changes import ChangeReport
    from tasks.source.hub import Source

LOG_BYTES = 1_000_000
"""Of a log's end, which is where it says what went wrong."""
__all__ = ["ProposedCandidate", "Release", "Weighed", "propose", "unrecorded"]


class ProposedCandidate(BaseModel):
    """What became of one artifact of a release."""

    model_config = ConfigDict(frozen=True)

    scheme: str
    digest: str
    outcome: str
    sentence: str
    passes: bool = False
    version: int | None
    """Of `<line>-candidates`, waiting for approval; None for one that failed, or that MLflow does not have yet."""
    report: str
    """Where to read why: a page of MLflow's, or the file where MLflow has no pages."""
    report_file: str
    """The same report on this machine's disk."""


class Release(BaseModel):
    """A release that has been weighed and recorded."""

    model_config = ConfigDict(frozen=True)

    line: str
    commit: str
    run_url: str
    candidates: tuple[ProposedCandidate, ...]
    recorded: bool = True
    """Whether MLflow has it; else it waits in the journal for the line's next `promote`."""


def propose(
    line: Line,
    source: Source,
    fit: FitReport | None,
    weighed: list[Weighed],
    changed: ChangeReport | None = None,
    *,
    registry: Registry | None = None,
    store: Store | None = None,
    reports_folder: Path | None = None,
) -> Release:
    """Record every candidate in MLflow; those that pass await a person's approval.

    Args:
        line: the line.
        source: the release.
        fit: what fits where.
        weighed: the candidates, in the line's order.
        changed: what changed against production beside the weights; None where nothing serves yet.
        registry, store, reports_folder: the installation's by default.

    Returns:
        Where everything is. The same candidates with the same verdicts again give the same.

    Raises:
        StackDown: MLflow does not answer; nothing is lost, for the release waits in the journal (`unrecorded`).
        RegistryFailed: MLflow refuses; the reports are on disk nevertheless.
    """
    folder = _folder(line, reports_folder)
    dossiers = [Dossier(line, source, one, fit, _made(one.artifact, store), changed) for one in weighed]
    reports = [make_report(dossier) for dossier in dossiers]
    files = [_keep(_report_file(folder, one.artifact), report) for one, report in zip(dossiers, reports)]
    record = ReleaseRecord(
        line=line.name,
        repo=source.repo,
        commit=source.commit,
        key=_key(line, source, weighed),
        params={"repo": source.repo, "commit": source.commit, "schemes": ", ".join(line.schemes)},
        candidates=tuple(_record(dossier, report) for dossier, report in zip(dossiers, reports)),
    )
    recorded = _recorded(record, registry or Registry())
    return Release(
        line=line.name,
        commit=source.commit,
        run_url=recorded.run_url,
        candidates=tuple(_proposed(one, file, there) for one, file, there in zip(weighed, files, recorded.candidates)),
    )


def unrecorded(line: Line, source: Source, weighed: list[Weighed], reports_folder: Path | None = None) -> Release:
    """A release that `propose` has put into the journal; the line's next `promote` records it."""
    folder = _folder(line, reports_folder)
    return Release(
        line=line.name,
        commit=source.commit,
        run_url="",
        candidates=tuple(_proposed(one, _report_file(folder, one.artifact)) for one in weighed),
        recorded=False,
    )


def _recorded(record: ReleaseRecord, registry: Registry) -> RecordedRelease:
    """Give MLflow a release, which is in the journal until MLflow has it or refuses it."""
    outbox = Outbox()
    outbox.add(record)
    try:
        recorded = registry.record_release(record)
    except StackDown:
        raise
    except WeighbridgeError:
        # It answers and refuses: the same again would be refused again.
        outbox.remove(record)
        raise
    outbox.remove(record)
    return recorded


def _folder(line: Line, reports_folder: Path | None) -> Path:
    return (reports_folder or load_settings().home / "reports") / line.name


def _report_file(folder: Path, artifact: Artifact) -> Path:
    return folder / f"{artifact.short}.html"


def _proposed(weighed: Weighed, file: Path, there: RecordedCandidate | None = None) -> ProposedCandidate:
    return ProposedCandidate(
        scheme=weighed.artifact.scheme,
        digest=weighed.artifact.digest,
        outcome=weighed.verdict.outcome,
        sentence=weighed.verdict.sentence,
        passes=weighed.verdict.passes,
        version=there.version if there else None,
        report=(there.report_url if there else "") or str(file),
        report_file=str(file),
    )


def _made(artifact: Artifact, store: Store | None) -> QuantizationRecord | None:
    """How an artifact was quantized, where the store still knows."""
    from tasks.quantize import quantization_record

    try:
        return quantization_record(artifact, store)
    except ArtifactMissing:
        # A candidate that failed may have been tidied away; its verdict is worth recording all the same.
        return None


def _key(line: Line, source: Source, weighed: list[Weighed]) -> str:
    """Digest of all that this release's verdicts rest on."""
    identity = [
        [one.verdict.model_dump(), [[scores.suite_digest, scores.scorer] for scores in one.candidate_scores]]
        for one in weighed
    ]
    text = json.dumps([line.name, source.repo, source.commit, identity], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _record(dossier: Dossier, report: str) -> CandidateRecord:
    verdict, artifact = dossier.verdict, dossier.artifact
    files: dict[str, str | bytes | Path] = {"report.html": report, "verdict.json": verdict.model_dump_json(indent=1)}
    if dossier.changes is not None:
        files["changes.md"] = changes_markdown(dossier.changes)
    if dossier.signals:
        files["drift.json"] = json.dumps([signal.model_dump() for signal in dossier.signals], indent=1)
    files["line.json"] = dossier.line.model_dump_json(indent=1)
    files["environment.txt"] = _environment()
    if dossier.fit is not None:
        files["fit.json"] = dossier.fit.model_dump_json(indent=1)
    if dossier.made is not None:
        # With the recipe, the coverage and the versions of what quantized.
        files["quantization.json"] = dossier.made.model_dump_json(indent=1)
    # Of its engine on trial, and of what asked transformers about it.
    for log in sorted(load_settings().logs_folder.glob(f"*{artifact.short}*.log")):
        files[f"logs/{log.name}"] = log.read_bytes()[-LOG_BYTES:]
    files |= {f"items/{suite.suite.replace('/', '-')}.jsonl": items_jsonl(dossier, suite) for suite in verdict.suites}
    for name, figure in (("suites", forest_plot(dossier)), ("memory", memory_plot(dossier))):
        if figure is not None:
            files[f"plots/{name}.png"] = as_png(figure)
    return CandidateRecord(
        artifact=artifact,
        outcome=verdict.outcome,
        passes=verdict.passes,
        sentence=verdict.sentence,
        metrics=_metrics(dossier),
        params=_params(dossier),
        tags={"weighbridge.licence": dossier.licence},
        card_markdown=make_card(dossier),
        files=files,
        datasets=tuple(
            DatasetRecord(name=one.suite, digest=one.suite_digest, source=f"eval_suites/{one.suite}")
            for one in dossier.weighed.candidate_scores
        ),
        production_digest=verdict.production_digest,
    )


def _metrics(dossier: Dossier) -> dict[str, float]:
    metrics = {"size_gib": dossier.size_gib}
    if (made := dossier.made) is not None:
        metrics |= {
            "quantize/seconds": made.seconds,
            "quantize/cpu_seconds": made.cpu_seconds,
            "quantize/peak_rss_gib": made.peak_rss_bytes / GIB,
        }
    metrics |= {f"{one.suite}/seconds": one.seconds for one in dossier.weighed.candidate_scores}
    for suite in dossier.verdict.suites:
        numbers = {
            "mean": suite.candidate_mean,
            "production_mean": suite.production_mean,
            "difference": suite.estimate,
            "low": suite.low,
            "high": suite.high,
            "gained": suite.gained,
            "lost": suite.lost,
        }
        metrics |= {f"{suite.suite}/{name}": float(number) for name, number in numbers.items() if number is not None}
    metrics |= {f"drift/{_metric(signal.name)}": signal.difference for signal in dossier.signals}
    for one in dossier.memory.deviations if dossier.memory else ():
        metrics |= {f"memory/{one.term}_predicted": one.predicted, f"memory/{one.term}_measured": one.measured}
    return metrics


def _metric(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w ./-]", "", name).replace(" ", "_")


def _params(dossier: Dossier) -> dict[str, str]:
    params = {
        "scheme": dossier.artifact.scheme,
        "digest": dossier.artifact.digest,
        "source": f"hf://{dossier.source.repo}@{dossier.source.commit}",
        "confidence": str(dossier.line.confidence),
        "engine": dossier.line.engine.name,
        "engine_flags": json.dumps(dossier.line.engine.flags),
        "context": str(dossier.line.target.context),
        "concurrency": str(dossier.line.target.concurrency),
        "gpus": ", ".join(dossier.line.target.gpus),
    }
    if dossier.weighed.attempts:
        params["methods_tried"] = "; ".join(
            f"{attempt.method}: {attempt.outcome}" for attempt in dossier.weighed.attempts
        )
    params |= {f"{suite.suite}/margin": str(suite.margin) for suite in dossier.verdict.suites}
    return params | {f"{scores.suite}/scorer": scores.scorer for scores in dossier.weighed.candidate_scores}


def _environment() -> str:
    """Every package that this ran with, by name and version, as pip takes it."""
    found = {f"{one.name}=={one.version}" for one in distributions() if one.name}
    return "\n".join([f"# Python {platform.python_version()} on {platform.platform()}", *sorted(found), ""])


def _keep(path: Path, report: str) -> Path:
    """Write a report, whole or not at all."""
    write_whole(path, report, READABLE)
    return path
