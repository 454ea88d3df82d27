"""The watch in MLflow: what a line has released already, and one small run for every decision that changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from registry.models import records
from registry.models.client import reaches_mlflow, run_url
from registry.models.registry import Registry
from registry.watch.ledger import Entry

if TYPE_CHECKING:
    from mlflow.entities import Run

REASONS, FLOW_RUN = f"{records.TAG}reasons", f"{records.TAG}flow_run"
TAG_LIMIT = 5000
"""Characters kept of a tag's value; MLflow keeps 8,000 (`MAX_TAG_VAL_LENGTH`), and a page is enough."""


class KnownSources(BaseModel):
    """Commits of a line that need no release any more, as `hf://org/model@commit`."""

    model_config = ConfigDict(frozen=True)

    serving: str | None = None
    """Source of production; None if nothing serves, or if its version was made by hand."""
    proposed: tuple[str, ...] = ()
    """Sources of candidates that passed, whatever became of them."""


class WatchRuns:
    """What the watch reads and writes in MLflow.

    Args:
        registry: The lines' registered models.

    Raises:
        StackDown: From every method, if MLflow does not answer.
        RegistryFailed: From every method, if MLflow answers with an error.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @property
    def tracking_uri(self) -> str:
        """Address of MLflow."""
        return self._registry.tracking_uri

    @reaches_mlflow(role="any")
    def known_sources(self, line: str) -> KnownSources:
        """Find which commits of a line have been released already."""
        serving = self._registry.production(line)
        proposed = {candidate.tags.get(records.SOURCE, "") for candidate in self._registry.candidates(line)}
        return KnownSources(
            serving=serving.tags.get(records.SOURCE) if serving else None, proposed=tuple(sorted(proposed - {""}))
        )

    @reaches_mlflow(role="builder")
    def record(self, entry: Entry) -> str:
        """Record a decision as a run of the line's experiment; the same decision again finds its run.

        Returns:
            Address of the run's page; empty if MLflow is a database without a server.
        """
        client = self._registry.client
        experiment = self._registry.ensure_line(entry.decision.line)
        # The digest covers the decision and its state, so a second attempt finds the run of the first.
        query = f"tags.`{records.KIND}` = '{records.WATCH}' AND tags.`{records.KEY}` = '{entry.digest}'"
        found = client.search_runs([experiment], query, max_results=1)
        run = found[0] if found else client.create_run(experiment, run_name=_name(entry), tags=_tags(entry))
        if run.info.status != "FINISHED":
            self._fill(run, entry)
            client.set_terminated(run.info.run_id, status="FINISHED")
        return run_url(client, run)

    def _fill(self, run: Run, entry: Entry) -> None:
        from mlflow.entities import Metric

        numbers = entry.decision.numbers.model_dump(exclude={"fits_as"}, exclude_none=True)
        metrics = [Metric(name, float(value), run.info.start_time, 0) for name, value in numbers.items()]
        if metrics:
            self._registry.client.log_batch(run.info.run_id, metrics=metrics)


def _name(entry: Entry) -> str:
    return f"watch {entry.decision.outcome} {entry.decision.commit[:8]}"


def _tags(entry: Entry) -> dict[str, str]:
    decision = entry.decision
    reasons = "\n".join(f"- {reason.code}: {reason.text}" for reason in decision.reasons)
    return {
        records.KIND: records.WATCH,
        records.KEY: entry.digest,
        records.LINE: decision.line,
        records.SOURCE: decision.uri,
        records.OUTCOME: decision.outcome,
        records.STATE: entry.state,
        REASONS: reasons[:TAG_LIMIT],
        FLOW_RUN: entry.flow_run,
        "mlflow.note.content": f"**{decision.outcome}** `{decision.uri}` ({entry.state})\n\n{reasons}"[:TAG_LIMIT],
    }
