"""What MLflow keeps of a candidate: metrics, parameters, the card, and files from the report to every item."""

from __future__ import annotations

import json
import math
import platform
import re
from importlib.metadata import distributions
from pathlib import Path

from registry.models.records import CandidateRecord, DatasetRecord
from tasks.propose.card import make_card
from tasks.propose.dossier import Dossier
from tasks.propose.plots import as_png, forest_plot, memory_plot
from tasks.propose.report import items_jsonl
from tasks.source.changes import changes_markdown
from weighbridge.units import GIB

LOG_BYTES = 1_000_000
"""Kept of a log's end, which is where the error is."""


def candidate_record(dossier: Dossier, report: str, logs_folder: Path) -> CandidateRecord:
    """What the registry keeps of one candidate.

    Args:
        dossier: the candidate's verdict, scores and provenance.
        report: its HTML page.
        logs_folder: has the logs of its engine and of the processes that read it.
    """
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
    if dossier.quantization is not None:
        # With the recipe, the coverage and the versions of the packages that quantized.
        files["quantization.json"] = dossier.quantization.model_dump_json(indent=1)
    # Logs of its engine, and of the processes that loaded it in transformers.
    for log in sorted(logs_folder.glob(f"*{artifact.short}*.log")):
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
        verdict=verdict.model_dump(mode="json"),
        metrics=_metrics(dossier),
        params=_params(dossier),
        tags={"weighbridge.licence": dossier.licence},
        card_markdown=make_card(dossier),
        files=files,
        datasets=tuple(
            DatasetRecord(name=scores.suite, digest=scores.suite_digest, source=f"eval_suites/{scores.suite}")
            for scores in dossier.weighed.candidate_scores
        ),
        production_digest=verdict.production_digest,
    )


def _metrics(dossier: Dossier) -> dict[str, float]:
    metrics = {"size_gib": dossier.size_gib}
    if (quantization := dossier.quantization) is not None:
        metrics |= {
            "quantize/seconds": quantization.seconds,
            "quantize/cpu_seconds": quantization.cpu_seconds,
            "quantize/peak_rss_gib": quantization.peak_rss_bytes / GIB,
        }
    metrics |= {f"{scores.suite}/seconds": scores.seconds for scores in dossier.weighed.candidate_scores}
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
    metrics |= {f"drift/{_metric_name(signal.name)}": signal.difference for signal in dossier.signals}
    for deviation in dossier.memory.deviations if dossier.memory else ():
        metrics |= {
            f"memory/{deviation.term}_predicted": deviation.predicted,
            f"memory/{deviation.term}_measured": deviation.measured,
        }
    # MLflow keeps infinity as the largest number that it has, which would differ from what was signed.
    return {name: number for name, number in metrics.items() if math.isfinite(number)}


def _metric_name(name: str) -> str:
    """A name without the characters that MLflow refuses."""
    return re.sub(r"[^\w ./-]", "", name).replace(" ", "_")


def _params(dossier: Dossier) -> dict[str, str]:
    params = {
        "scheme": dossier.artifact.scheme,
        "digest": dossier.artifact.digest,
        "source": dossier.source.uri,
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
    """Every installed package with its version, as a pip requirements file."""
    found = {f"{package.name}=={package.version}" for package in distributions() if package.name}
    return "\n".join([f"# Python {platform.python_version()} on {platform.platform()}", *sorted(found), ""])
