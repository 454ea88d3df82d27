"""The source room's steps."""

from __future__ import annotations

from functools import partial

from prefect.artifacts import create_table_artifact

from registry.store import Artifact
from tasks.source import admission
from tasks.source import download as downloading
from tasks.source import watch as watching
from tasks.source.changes import ChangeReport, changes_against
from tasks.source.hub import Source
from tasks.source.progress import byte_bar
from tasks.source.start import start_release
from tasks.source.triage import Fits
from tasks.source.watch_rows import Row, cells, told
from tasks.steps import log_progress, run_logger, step
from weighbridge.line import Line
from weighbridge.settings import load_settings

ARTIFACT_KEY = "watch-daily"


@step("admit", key=lambda source, line: [source, line.admission])
def admit(source: Source, line: Line) -> str:
    """Hold a release against the line's rules; returns the commit that was admitted."""
    admission.admit(source, line)
    return source.commit


@step("download", key=lambda source, line: [source.repo, source.commit, line])
def download(source: Source, line: str) -> Artifact:
    """Bring a release home, verified file by file."""
    what = f"download {source.repo}"
    with byte_bar(what, also=log_progress(what, unit_bytes=True)) as progress:
        return downloading.download(source, line, progress=progress)


@step("decide-{line}")
def decide(line: str, fits: Fits) -> list[Row]:
    """Look at a line's source and decide about what is new there; a failure becomes a row."""
    rows = watching.decide(line, fits)
    for row in rows:
        for text in ([f"{row.error.code}: {row.error.what}"] if row.error else []) + told(row):
            run_logger().info("%s: %s", line, text)
    return rows


@step("settle-{line}")
def settle(line: str, rows: list[Row]) -> list[Row]:
    """Write down what is new and start its release, once for a commit."""
    settled = watching.settle(rows, partial(start_release, load_settings()))
    for row in settled:
        if row.state == "started" and row.decision:
            run_logger().info("%s: release of %s is flow run %s", line, row.decision.uri, row.flow_run)
    return settled


@step("remember")
def remember(lines: list[str]) -> None:
    """Record in MLflow every decision that it lacks; while it is down they wait in the ledger."""
    for problem in watching.remember(lines):
        run_logger().warning(problem)


@step("what-changed", key=lambda production, weights: [production.digest if production else None, weights.digest])
def what_changed(production: Artifact | None, weights: Artifact) -> ChangeReport | None:
    """Hold a release's small files against production's: chat template, tokenizer, configs, licence."""
    report = changes_against(production, weights)
    for change in report.warnings if report else ():
        run_logger().warning("%s changed: %s, %s -> %s", change.kind, change.what, change.before, change.after)
    return report


@step("show")
def show(rows: list[Row]) -> None:
    """Publish the rows as Prefect's table artifact `watch-daily`."""
    create_table_artifact(
        key=ARTIFACT_KEY, table=[cells(row) for row in rows], description="What the watch found and decided."
    )
