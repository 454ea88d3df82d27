"""The watch in MLflow: what a line has had already, and one small run for every decision that changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from registry.models import records
from registry.models.client import reaches_mlflow
from registry.models.recorder import Recorder
from registry.watch.ledger import Entry

if TYPE_CHECKING:
    from mlflow.entities import Run

    from registry.models.registry import Registry

WATCH = "watch"
REASONS, FLOW_RUN = f"{records.TAG}reasons", f"{records.TAG}flow_run"
TAG_LIMIT = 5000
"""Characters of a tag's value that MLflow keeps (`MAX_TAG_VAL_LENGTH` is 8000; a page is enough)."""


class KnownSources(BaseModel):
    """The commits of a line that need no release any more, as `hf://org/model@commit`."""

    model_config = ConfigDict(frozen=True)

    serving: str | None = None
    """What production was made of; None where nothing serves, or its version was made by hand."""
    proposed: tuple[str, ...] = ()
    """What candidates were made of that passed, whatever became of them."""


class WatchRuns:
    """What the watch reads and writes in MLflow.

    Raises:
        StackDown: from every method, when MLflow does not answer.
        RegistryFailed: from every method, when it answers with an error.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @property
    def tracking_uri(self) -> str:
        """MLflow's address."""
        return self._registry.tracking_uri

    def known_sources(self, line: str) -> KnownSources:
        """What of a line's source has been released already."""
        serving = self._registry.production(line)
        proposed = {one.tags.get(records.SOURCE, "") for one in self._registry.candidates(line)}
        return KnownSources(
            serving=serving.tags.get(records.SOURCE) if serving else None, proposed=tuple(sorted(proposed - {""}))
        )

    @reaches_mlflow
    def record(self, entry: Entry) -> str:
        """Record a decision as a run of the line's experiment; the same decision again finds its run.

        Returns:
            The run's page; empty when MLflow is a database without a server.
        """
        client, decision = self._registry.client, entry.decision
        recorder = Recorder(client, decision.line)
        experiment = recorder.ensure_line()
        # The digest is the decision's with what became of it, so a repeated try finds the first one's run.
        wanted = f"tags.`{records.KIND}` = '{WATCH}' AND tags.`{records.KEY}` = '{entry.digest}'"
        found = client.search_runs([experiment], wanted, max_results=1)
        run = found[0] if found else client.create_run(experiment, run_name=_name(entry), tags=_tags(entry))
        if run.info.status != "FINISHED":
            self._fill(run, entry)
            client.set_terminated(run.info.run_id, status="FINISHED")
        return recorder.run_url(run)

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
        records.KIND: WATCH,
        records.KEY: entry.digest,
        records.LINE: decision.line,
        records.SOURCE: decision.uri,
        records.OUTCOME: decision.outcome,
        records.STATE: entry.state,
        REASONS: reasons[:TAG_LIMIT],
        FLOW_RUN: entry.flow_run,
        "mlflow.note.content": f"**{decision.outcome}** `{decision.uri}` ({entry.state})\n\n{reasons}"[:TAG_LIMIT],
    }
