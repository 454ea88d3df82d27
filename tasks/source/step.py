"""The source room's Prefect steps: admit, download, compare, and the watch's four."""

from __future__ import annotations

from functools import partial

from prefect.artifacts import create_table_artifact

from registry.installation import Installation
from registry.store import Artifact
from tasks.source import admission
from tasks.source import download as downloading
from tasks.source import watch as watching
from tasks.source.changes import ChangeReport, changes_against
from tasks.source.pinned import Source
from tasks.source.progress import byte_bar
from tasks.source.provider import pin as pin_source
from tasks.source.provider import provider_of
from tasks.source.released import last_release, source_of
from tasks.source.start import start_release
from tasks.source.triage import ArchitectureLookup, FitCheck
from tasks.source.watch_rows import Row, sentences, table_cells
from tasks.steps import flow_run_id, log_progress, run_logger, step
from weighbridge.line import Line

ARTIFACT_KEY = "watch-daily"


def pin(installation: Installation, line: Line, revision: str | None = None) -> Source:
    """Resolve a line's source to one commit; no step, because a branch leads elsewhere tomorrow.

    Args:
        installation: Names the Hub and other servers.
        line: Names the source and the branch to follow.
        revision: A branch, tag or commit instead of the line's.
    """
    what = f"read {line.source}"
    with byte_bar(what, also=log_progress(what, unit_bytes=True)) as progress:
        return pin_source(installation, line, revision, progress)


def as_released(installation: Installation, line: Line, source: Source) -> Source:
    """Take a line's last release in place of a commit that changes nothing but documents.

    Everything of that release is in the cache, so its candidates are what the release of this commit would give.
    """
    last = last_release(installation, line.name, source.repo)
    if last is None or not last.is_same(source) or line.watch.on_unchanged == "release":
        return source
    earlier = source_of(installation, line.name, source, last)
    if earlier is None:
        return source
    run_logger().warning(
        "Weights unchanged since the release of %s on %s: %s differs in documents only. That release is taken, with "
        "nothing to do; `weighbridge release %s --revision %s` releases this commit all the same.",
        last.commit[:12], last.at[:10], source.commit[:12], line.name, source.commit,
    )  # fmt: skip
    return earlier


@step("admit", key=lambda source, line: [source, line.admission])
def admit(installation: Installation, source: Source, line: Line) -> str:
    """Check a release against the line's admission rules; return the admitted commit."""
    admission.admit(source, line)
    return source.commit


@step("download", key=lambda source, line: [source.repo, source.commit, line])
def download(installation: Installation, source: Source, line: str) -> Artifact:
    """Download a release into the store, verified file by file."""
    what = f"download {source.repo}"
    with byte_bar(what, also=log_progress(what, unit_bytes=True)) as progress:
        return downloading.download(
            provider_of(installation.settings, source.repo), source, line, installation.store, progress, flow_run_id()
        )


@step("triage-{line}")
def triage_line(
    installation: Installation, line: str, fits: FitCheck, known_architectures: ArchitectureLookup
) -> list[Row]:
    """Read a line's source and decide about each new commit; a failure becomes a row."""
    rows = watching.triage_line(installation, line, fits, known_architectures)
    for row in rows:
        for text in ([f"{row.error.code}: {row.error.what}"] if row.error else []) + sentences(row):
            run_logger().info("%s: %s", line, text)
    return rows


@step("start-releases-{line}")
def start_releases(installation: Installation, line: str, rows: list[Row]) -> list[Row]:
    """Write new decisions to the ledger, and start each release once a commit."""
    started = watching.start_releases(installation, rows, partial(start_release, installation.settings))
    for row in started:
        if row.state == "started" and row.decision:
            run_logger().info("%s: release of %s is flow run %s", line, row.decision.uri, row.flow_run)
    return started


@step("record-decisions")
def record_decisions(installation: Installation, lines: list[str]) -> None:
    """Record in MLflow every decision that it lacks; while it is down they wait in the ledger."""
    for problem in watching.record_decisions(installation, lines):
        run_logger().warning(problem)


@step("what-changed", key=lambda production, weights: [production.digest if production else None, weights.digest])
def what_changed(installation: Installation, production: Artifact | None, weights: Artifact) -> ChangeReport | None:
    """Compare a release's small files with production's: chat template, tokenizer, configs, licence."""
    report = changes_against(production, weights, installation.store)
    for change in report.warnings if report else ():
        run_logger().warning("%s changed: %s, %s -> %s", change.kind, change.what, change.before, change.after)
    return report


@step("publish-table")
def publish_table(rows: list[Row]) -> None:
    """Publish the rows as Prefect's table artifact `watch-daily`."""
    create_table_artifact(
        key=ARTIFACT_KEY, table=[table_cells(row) for row in rows], description="New commits and decisions."
    )
