"""The source room's steps."""

from __future__ import annotations

import os

from prefect.artifacts import create_table_artifact

from registry.store import Artifact
from registry.watch.ledger import Decision
from tasks.source import admission
from tasks.source import download as downloading
from tasks.source import watch as watching
from tasks.source.changes import ChangeReport, changes_against
from tasks.source.hub import Source
from tasks.source.progress import byte_bar
from tasks.source.triage import Fits
from tasks.source.watch_rows import Row, cells, told
from tasks.steps import log_progress, run_logger, step
from weighbridge.errors import ReleaseNotStarted, StackDown, StackFailed
from weighbridge.line import Line

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
    settled = watching.settle(rows, start_release)
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


def start_release(decision: Decision) -> str:
    """Ask Prefect for a decision's release; the same decision again gives the same run.

    Not a step: the release outlives the watch, and asking is safe to repeat under the decision's key (Prefect
    keeps one run for a flow and idempotency key: a unique index of its database).

    Returns:
        The flow run's id.

    Raises:
        StackDown: Prefect does not answer; nothing was started.
        ReleaseNotStarted: it has no deployment for the line, or refuses; nothing was started.
        StackFailed: the answer was lost; whether there is a run, the next watch finds out.
    """
    import httpx
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

    deployment = f"release/{decision.line}"
    wanted = {"line": decision.line, "revision": decision.commit}
    if decision.kind == "successor":
        wanted["source"] = f"hf://{decision.repo}"
    try:
        run = run_deployment(
            name=deployment, parameters=wanted, timeout=0, as_subflow=False, idempotency_key=decision.key
        )
    except httpx.ConnectError:
        raise StackDown(
            f"Prefect does not answer, so the release of {decision.uri} was not started.",
            "Run `weighbridge up`, then watch again.",
            where=os.environ.get("PREFECT_API_URL", ""),
        ) from None
    except httpx.HTTPError as error:
        status = error.response.status_code if isinstance(error, PrefectHTTPStatusError) else 0
        if 400 <= status < 500:
            raise _refused(deployment, f"Prefect refuses {deployment}: {str(error).splitlines()[0]}.") from None
        raise StackFailed(
            f"Prefect's answer about the release of {decision.uri} was lost ({type(error).__name__}).",
            "Watch again: nothing is started twice.",
            where=deployment,
        ) from None
    except ObjectNotFound:
        raise _refused(deployment, f"Prefect has no deployment {deployment}.") from None
    return str(run.id)  # type: ignore[union-attr]


def _refused(deployment: str, what: str) -> ReleaseNotStarted:
    return ReleaseNotStarted(what, "Look at prefect.yaml and run `weighbridge up`, then watch again.", where=deployment)
