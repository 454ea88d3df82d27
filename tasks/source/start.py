"""Start the release that a decision of the watch asks for."""

from __future__ import annotations

from registry.watch.ledger import Decision
from weighbridge import deployments
from weighbridge.settings import Settings
from weighbridge.source_urls import url_of


def start_release(settings: Settings, decision: Decision) -> str:
    """Ask Prefect for a decision's release; the same decision again gives the same run.

    The release outlives the watch, so it is no step of the watch's flow.

    Returns:
        The flow run's id.

    Raises:
        StackDown: Prefect does not answer. Nothing was started.
        ReleaseNotStarted: Prefect has no deployment for the line, or refuses. Nothing was started.
        StackFailed: The answer was lost. The next watch finds out whether there is a run.
    """
    parameters = {"line": decision.line, "revision": decision.commit}
    if decision.kind == "successor":
        parameters["source"] = url_of(decision.repo)
    return deployments.start(settings, f"release/{decision.line}", parameters, decision.key)
