"""Writing a release into MLflow so that a kill between any two calls leaves nothing twice.

Everything carries the release's key (and a candidate its digest) as tags from the call that creates it, so a second
attempt finds it. What follows a creation (metrics, outputs) is written again, unchanged, until the run is marked
finished. Files, tags and the card are written again at every attempt, with a signature over them: so recording a
release again also mends what somebody edited.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from registry.models import records, verdicts
from registry.models.client import file_address, reaches_mlflow, run_url
from registry.models.reader import Reader
from registry.models.records import (
    CandidateRecord,
    DatasetRecord,
    RecordedCandidate,
    RecordedRelease,
    ReleaseRecord,
    candidates_model,
    lay_out,
)
from weighbridge.errors import VerdictForged, VerdictUnsigned
from weighbridge.source_urls import uri_of

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, LoggedModel, Param, Run
    from mlflow.entities.model_registry import ModelVersion

SENTENCE_LIMIT = 5000
"""Characters kept of a verdict's sentence; MLflow cuts a run's tags at 8,000."""
BATCH = 100
"""Most params in one `log_batch` of MLflow; it takes 1,000 metrics."""


class Recorder(Reader):
    """Everything that the pipeline writes: a line's experiment and models, and its releases."""

    @reaches_mlflow(role="builder")
    def ensure_line(self, line: str) -> str:
        """Create a line's experiment and its two registered models if they are missing.

        Returns:
            The experiment's id.
        """
        return self._ensure_line(line)

    @reaches_mlflow(role="builder")
    def identity(self, line: str) -> str:
        """Identify a line's record, to tell it from that in another MLflow, or in one that was emptied."""
        experiment = self.client.get_experiment(self._ensure_line(line))
        return f"{experiment.name} {experiment.experiment_id} {experiment.creation_time}"

    @reaches_mlflow(role="builder")
    def record_release(self, record: ReleaseRecord) -> RecordedRelease:
        """Record a weighed release: a run; a run and a logged model for each candidate; a version for each that passed.

        The same key again finds the existing record and completes what is missing.
        """
        experiment_id = self._ensure_line(record.line)
        tags = {records.KIND: records.RELEASE, **_release_tags(record)}
        parent = self._run(experiment_id, f"{record.line} {record.commit[:8]}", tags)
        if parent.info.status != "FINISHED":
            self._log_params(parent.info.run_id, record.params)
        candidates = tuple(self._candidate(parent, record, candidate) for candidate in record.candidates)
        if parent.info.status != "FINISHED":
            self.client.set_terminated(parent.info.run_id, status="FINISHED")
        return RecordedRelease(run_id=parent.info.run_id, run_url=run_url(self.client, parent), candidates=candidates)

    @reaches_mlflow(role="builder")
    def is_intact(self, line: str, digests: Collection[str]) -> bool:
        """Return whether everything that is recorded of these artifacts is still as the pipeline signed it."""
        try:
            for version in self.candidates(line):
                if version.digest in digests:
                    verdicts.check(version, self.keys, self.description(version))
            for digest in digests:
                for failed in self.failed(line, digest):
                    verdicts.check_failed(failed, self.keys, self.signed_verdict(failed.run_id))
        except (VerdictUnsigned, VerdictForged):
            return False
        return True

    def _ensure_line(self, line: str) -> str:
        experiment = self.client.get_experiment_by_name(line)
        if experiment is None:
            experiment_id = str(self.client.create_experiment(line, tags=records.EXPERIMENT_KIND))
        else:
            experiment_id = experiment.experiment_id
            if experiment.lifecycle_stage == "deleted":
                self.client.restore_experiment(experiment_id)
            for name, kind in records.EXPERIMENT_KIND.items():
                # Experiments of earlier versions have no kind. A kind chosen in the UI stays.
                if name not in experiment.tags:
                    self.client.set_experiment_tag(experiment_id, name, kind)
        for model, description in (
            (candidates_model(line), f"Candidates of {line} that passed; *Promote model* on a version approves it."),
            (line, "What was approved to serve. Aliases: `production`, `previous`."),
        ):
            if not self.client.search_registered_models(f"name='{model}'"):
                self.client.create_registered_model(model, description=description)
        return experiment_id

    def _candidate(self, parent: Run, record: ReleaseRecord, candidate: CandidateRecord) -> RecordedCandidate:
        artifact = candidate.artifact
        tags = {**candidate.tags, **_release_tags(record), **_candidate_tags(candidate)}
        run = self._run(
            parent.info.experiment_id,
            f"{artifact.scheme} {artifact.short}",
            {records.KIND: records.CANDIDATE, "mlflow.parentRunId": parent.info.run_id, **tags},
        )
        # The whole page, by `registry/server/report_page.py`; in the run's own page it is a narrow pane.
        report = f"get-artifact?path={candidate.report}&run_uuid={run.info.run_id}"
        card = candidate.card_markdown.replace(records.REPORT_LINK, report)[: records.CARD_LIMIT]
        model = self._logged_model(run, record.line, candidate, tags)
        finished = run.info.status == "FINISHED"
        if not finished:
            self._fill(run, model, candidate, card)
        signed = self._put_files(run, candidate, tags, card)
        version = None
        if candidate.passes:
            version = self._version(run, model, record.line, candidate, {**tags, records.SIGNED_VERDICT: signed}, card)
        if not finished:
            self.client.set_terminated(run.info.run_id, status="FINISHED")
        return RecordedCandidate(
            digest=artifact.digest,
            run_id=run.info.run_id,
            model_id=model.model_id,
            version=version,
            run_url=run_url(self.client, run),
            report_url=file_address(self.client, report),
        )

    def _run(self, experiment_id: str, name: str, tags: dict[str, str]) -> Run:
        """Find the run with the kind, key and digest of these tags, or create it."""
        identity = [name for name in (records.KIND, records.KEY, records.DIGEST) if name in tags]
        query = " AND ".join(f"tags.`{name}` = '{tags[name]}'" for name in identity)
        found = self.client.search_runs([experiment_id], query, max_results=1, order_by=["attributes.start_time ASC"])
        return found[0] if found else self.client.create_run(experiment_id, run_name=name, tags=tags)

    def _logged_model(self, run: Run, line: str, candidate: CandidateRecord, tags: dict[str, str]) -> LoggedModel:
        """Find or create the logged model of a candidate's run. The weights themselves stay in the store."""
        found = self.client.search_logged_models(
            [run.info.experiment_id], f"source_run_id = '{run.info.run_id}'", max_results=1
        )
        if found:
            model = found[0]
        else:
            artifact = candidate.artifact
            model = self.client.create_logged_model(
                run.info.experiment_id,
                name=f"{line}-{artifact.scheme}-{artifact.short}",
                source_run_id=run.info.run_id,
                tags={**tags, "mlflow.model.isExternal": "true"},
                params={**candidate.params, "uri": artifact.uri},
                model_type=artifact.scheme,
            )
        if str(model.status) != "READY":
            model = self.client.finalize_logged_model(model.model_id, status="READY")
        return model

    def _fill(self, run: Run, model: LoggedModel, candidate: CandidateRecord, card: str) -> None:
        from mlflow.entities import LoggedModelOutput, Metric, RunTag

        # One fixed time, so that the same metric written twice is one point and not two.
        at_ms = run.info.start_time
        self.client.log_batch(
            run.info.run_id,
            metrics=[
                Metric(name, value, at_ms, 0, model_id=model.model_id) for name, value in candidate.metrics.items()
            ],
            tags=[RunTag("mlflow.note.content", card)] if card else [],
        )
        self._log_params(run.info.run_id, candidate.params)
        # Unlike the other calls, this one fails if it is repeated.
        if not (run.outputs and run.outputs.model_outputs):
            self.client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
        if candidate.datasets:
            self.client.log_inputs(run.info.run_id, datasets=[_input(dataset) for dataset in candidate.datasets])

    def _put_files(self, run: Run, candidate: CandidateRecord, tags: dict[str, str], card: str) -> str:
        """Write a candidate's files and its signed verdict; returns that.

        What somebody altered of the run's tags and files since is written again too.
        """
        signed = verdicts.sign(self.keys, verdicts.content(candidate, tags, card))
        with tempfile.TemporaryDirectory(prefix="weighbridge-") as folder:
            lay_out({**candidate.files, verdicts.SIGNED_FILE: signed}, Path(folder))
            self.client.log_artifacts(run.info.run_id, folder)
        for name, value in tags.items():
            if run.data.tags.get(name, "") != value:
                self.client.set_tag(run.info.run_id, name, value)
        return signed

    def _version(
        self, run: Run, model: LoggedModel, line: str, candidate: CandidateRecord, tags: dict[str, str], card: str
    ) -> int:
        """Find or create the candidate's version, and write again what somebody altered of it; returns its number."""
        name = candidates_model(line)
        # A version that a person made of the same run has another source.
        of_run = self.client.search_model_versions(f"name='{name}' AND run_id='{run.info.run_id}'")
        found = [version for version in of_run if version.source == candidate.artifact.uri]
        if found:
            version = min(found, key=lambda version: int(version.version))
            self._restore(version, tags, card)
            return int(version.version)
        created = self.client.create_model_version(
            name,
            source=candidate.artifact.uri,
            run_id=run.info.run_id,
            tags=tags,
            description=card,
            model_id=model.model_id,
            await_creation_for=0,
        )
        return int(created.version)

    def _restore(self, version: ModelVersion, tags: dict[str, str], card: str) -> None:
        number = str(version.version)
        # A tag that does not belong there is emptied, which is as good as removed and asks for no further right.
        foreign = {tag: "" for tag in version.tags if tag.startswith(records.TAG) and tag not in tags}
        for tag, value in {**tags, **foreign}.items():
            if version.tags.get(tag, "") != value:
                self.client.set_model_version_tag(version.name, number, tag, value)
        if (version.description or "") != card:
            self.client.update_model_version(version.name, number, description=card)

    def _log_params(self, run_id: str, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        for batch in _batches([Param(name, value) for name, value in params.items()]):
            self.client.log_batch(run_id, params=batch)


def _release_tags(record: ReleaseRecord) -> dict[str, str]:
    return {
        records.LINE: record.line,
        records.KEY: record.key,
        records.SOURCE: uri_of(record.repo, record.commit),
    }


def _candidate_tags(candidate: CandidateRecord) -> dict[str, str]:
    artifact = candidate.artifact
    return {
        records.DIGEST: artifact.digest,
        records.SCHEME: artifact.scheme,
        records.SIZE_BYTES: str(artifact.size_bytes),
        records.OUTCOME: candidate.outcome,
        records.PASSES: "true" if candidate.passes else "false",
        records.SENTENCE: candidate.sentence[:SENTENCE_LIMIT],
        records.PRODUCTION_DIGEST: candidate.production_digest or "",
    }


def _input(dataset: DatasetRecord) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    # MLflow keeps 36 characters of a digest.
    entity = Dataset(dataset.name, dataset.digest[:36], source_type="local", source=dataset.source)
    return DatasetInput(entity, tags=[InputTag("mlflow.data.context", "evaluation")])


def _batches(params: list[Param]) -> Iterator[list[Param]]:
    for start in range(0, len(params), BATCH):
        yield params[start : start + BATCH]
