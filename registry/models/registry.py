"""Releases, candidates, approvals and what serves, in MLflow.

A line has an experiment and two registered models. `<line>-candidates` is the pipeline's: a version for
each artifact that passed. `<line>` is the reviewers': *Promote model* in MLflow's page, or `approve` here,
copies a version over, and that copy is the approval. The aliases `production` and `previous` on `<line>`
say what serves; the tag `weighbridge.state` on its versions says what became of each.

Every operation looks before it makes, so each may be killed anywhere and run again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.access.accounts import sign_in
from registry.audit import AuditLog
from registry.models import records
from registry.models.approvals import check_approval, check_overrider, check_weighed, moved_production
from registry.models.client import connect, reaches_mlflow
from registry.models.reader import Reader
from registry.models.reconcile import reconcile
from registry.models.recorder import Recorder
from registry.models.records import (
    PREVIOUS,
    PRODUCTION,
    STATES,
    RecordedRelease,
    ReleaseRecord,
    State,
    Version,
    candidates_model,
)
from weighbridge.errors import ApprovalRefused
from weighbridge.line import Approval
from weighbridge.settings import Settings, load_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMMENT_START, COMMENT_END = "> **Refused.** ", "\n\n---\n\n"
"""Around a comment, before the card in a version's description."""


class Registry:
    """What MLflow knows of the lines.

    Args:
        where: Settings of an installation, or MLflow's address itself; by default those of this process.
        log: Audit log that changes are written to; by default that of the installation.

    Raises:
        StackDown: from every method, when MLflow does not answer.
        RegistryDenied: from every method, when it does not know who asks, or does not let him.
        RegistryFailed: from every method, when it answers with another error.
    """

    def __init__(self, where: Settings | str | None = None, log: AuditLog | None = None) -> None:
        where = where or load_settings()
        self._settings = None if isinstance(where, str) else where
        self._uri = where if isinstance(where, str) else where.mlflow_url
        self._log = log or (AuditLog() if self._settings is None else AuditLog.of(self._settings))
        self._connected: MlflowClient | None = None

    @property
    def tracking_uri(self) -> str:
        """MLflow's address."""
        return self._uri

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client, made at first use."""
        if self._connected is None:
            if self._settings is not None:
                sign_in(self._settings)
            self._connected = connect(self._uri)
        return self._connected

    def _reader(self, line: str) -> Reader:
        return Reader(self.client, line)

    # --- the pipeline's side ----------------------------------------------------------------

    @reaches_mlflow
    def ensure_line(self, line: str) -> str:
        """Make a line's experiment and its two registered models where they are missing.

        Returns:
            The experiment's id.
        """
        return Recorder(self.client, line).ensure_line()

    @reaches_mlflow
    def identity(self, line: str) -> str:
        """What tells this line's record from one in another, or an emptied, MLflow."""
        experiment = self.client.get_experiment(Recorder(self.client, line).ensure_line())
        return f"{experiment.name} {experiment.experiment_id} {experiment.creation_time}"

    @reaches_mlflow
    def record_release(self, record: ReleaseRecord) -> RecordedRelease:
        """Record a weighed release: a run, a run and a logged model a candidate, a version for each that passed.

        The same key again finds what is there and completes what is missing.
        """
        return Recorder(self.client, record.line).record(record)

    # --- looking ----------------------------------------------------------------------------

    @reaches_mlflow
    def candidates(self, line: str) -> list[Version]:
        """Versions of `<line>-candidates`, oldest first; none for a line that never had a release."""
        return self._reader(line).versions(candidates_model(line))

    @reaches_mlflow
    def versions(self, line: str) -> list[Version]:
        """Versions of `<line>`, that is everything ever approved, oldest first."""
        return self._reader(line).versions(line)

    @reaches_mlflow
    def version(self, line: str, number: int) -> Version:
        """One approved version.

        Raises:
            VersionUnknown: there is none of that number; those that are there are named.
        """
        return self._reader(line).pick(line, number)

    @reaches_mlflow
    def candidate(self, line: str, reference: str | int) -> Version:
        """The candidate that a person means.

        Args:
            reference: a version of `<line>-candidates`, or the first digits of a digest (7 or more).

        Raises:
            ApprovalRefused: the digest is of a candidate that failed; its verdict is quoted.
            VersionUnknown: nothing of the line is called so, or several different artifacts are; those that
                are there are named.
        """
        return self._reader(line).find_candidate(str(reference))

    @reaches_mlflow
    def waiting(self, line: str) -> list[Version]:
        """Approved versions that nothing has been decided about yet, or that are on their way, oldest first."""
        return self._reader(line).waiting()

    @reaches_mlflow
    def production(self, line: str) -> Version | None:
        """The version that serves, or None."""
        return self._reader(line).by_alias(PRODUCTION)

    @reaches_mlflow
    def previous(self, line: str) -> Version | None:
        """The version that a rollback goes back to, or None."""
        return self._reader(line).by_alias(PREVIOUS)

    # --- the reviewers' side, and what became of it -----------------------------------------

    @reaches_mlflow
    def approve(self, line: str, number: int, reason: str, who: str) -> Version:
        """Approve a candidate: the request that *Promote model* sends, with the card, who and why added.

        Two at once on this machine make one version; elsewhere they may make two, of which the newer serves.

        Args:
            number: a version of `<line>-candidates`.

        Returns:
            The version of `<line>`; the one that waits or serves already when it is the same artifact.

        Raises:
            VersionUnknown: there is no such candidate.
            ApprovalRefused: the candidate did not pass.
        """
        reader = self._reader(line)
        candidate = reader.pick(candidates_model(line), number)
        if not candidate.passes:
            raise ApprovalRefused(
                f"Version {number} of {candidate.model} did not pass. {candidate.sentence or 'It carries no verdict.'}",
                "Approve a candidate that passed.",
                where=candidate.url,
            )
        with (log := self._log).one_at_a_time():
            if (known := self._approved_already(reader, candidate.digest)) is not None:
                return known
            made = self._copy(reader, candidate, reason, who)
            log.append("approve", line, made.version, what=made.digest, reason=reason, who=who)
        return made

    @reaches_mlflow
    def override(self, line: str, digest_prefix: str, reason: str, who: str, rules: Approval) -> Version:
        """Approve a candidate that was weighed and did not pass, on somebody's responsibility.

        The audit log is written first, and `check_approval` believes only what stands there.

        Args:
            digest_prefix: the first digits of the candidate's digest (7 or more).
            rules: the line's, which name those who may.

        Returns:
            The version of `<line>`; the one that waits or serves already when it is the same artifact.

        Raises:
            ApprovalRefused: he may not, gives no reason, or the candidate was never weighed.
            VersionUnknown: no candidate of these digits failed, or several did.
        """
        reader = self._reader(line)
        check_overrider(line, rules, reason, who)
        check_weighed(failed := reader.find_failed(digest_prefix))
        with (log := self._log).one_at_a_time():
            if (known := self._approved_already(reader, failed.digest)) is not None:
                return known
            entry = log.append("override", line, None, what=failed.digest, reason=reason, who=who)
            made = self.client.create_model_version(
                line,
                source=f"store://{line}/{failed.digest}",
                run_id=failed.run_id,
                tags={
                    **{name: value for name, value in failed.tags.items() if name != records.KIND},
                    **{records.APPROVED_BY: who, records.APPROVED_REASON: reason, records.OVERRIDE: entry.hash},
                },
                description=f"**Overridden** by {who}: {reason}\n\n{failed.sentence}"[: records.CARD_LIMIT],
                await_creation_for=0,
            )
            log.append("approve", line, int(made.version), what=failed.digest, reason=reason, who=who)
        return reader.read(made, {})

    def _approved_already(self, reader: Reader, digest: str) -> Version | None:
        """The version of an artifact that waits or serves."""
        there = filter(None, (*reader.waiting(), reader.by_alias(PRODUCTION)))
        return next((version for version in there if version.digest == digest), None)

    def _copy(self, reader: Reader, candidate: Version, reason: str, who: str) -> Version:
        original = self.client.get_model_version(candidate.model, str(candidate.version))
        tags = {
            name: value for name, value in original.tags.items() if name not in (records.STATE, records.STATE_REASON)
        }
        made = self.client.create_model_version(
            candidate.line,
            source=f"models:/{candidate.model}/{candidate.version}",
            run_id=original.run_id,
            # Who and why travel with the creation, so that no kill parts them from the approval.
            tags={**tags, records.APPROVED_BY: who, records.APPROVED_REASON: reason},
            description=original.description,
            await_creation_for=0,
        )
        return reader.read(made, {})

    @reaches_mlflow
    def check_approval(self, version: Version, rules: Approval) -> None:
        """Make sure that an approved version is a candidate that passed, or an override, and young enough.

        Raises:
            ApprovalRefused: it is not; somebody may have made it by hand.
        """
        check_approval(version, rules, self._reader(version.line), self._log)

    @reaches_mlflow
    def moved_production(self, version: Version) -> Version | None:
        """What serves, where that is not what an approval or a candidate was weighed against; else None."""
        return moved_production(version, self._reader(version.line), self._log)

    @reaches_mlflow
    def comment(self, line: str, number: int, text: str) -> None:
        """Put a sentence before an approved version's card, in the place of an earlier one; empty takes that away."""
        before = self.client.get_model_version(line, str(number)).description or ""
        card = before.partition(COMMENT_END)[2] if before.startswith(COMMENT_START) else before
        wanted = f"{COMMENT_START}{' '.join(text.split())}{COMMENT_END}{card}"[: records.CARD_LIMIT] if text else card
        if wanted != before:
            self.client.update_model_version(line, str(number), description=wanted)

    @reaches_mlflow
    def set_state(self, line: str, number: int, state: State, reason: str = "") -> None:
        """Write down what became of an approved version."""
        if state not in STATES:
            raise ValueError(f"{state!r} is none of {', '.join(STATES)}")
        if not reason and state in ("rolling", "serving") and (who := self._log.approver(line, number)):
            reason = f"approved by {who}"
        # The reason first: where there is a state, its reason is there too.
        self.client.set_model_version_tag(line, str(number), records.STATE_REASON, reason)
        self.client.set_model_version_tag(line, str(number), records.STATE, state)
        self._log.append("state", line, number, what=state, reason=reason)

    @reaches_mlflow
    def reconcile(self, line: str) -> None:
        """Write into the audit log what MLflow says of a line and the log does not."""
        reconcile(self._reader(line), self._log)

    @reaches_mlflow
    def set_production(self, line: str, number: int) -> None:
        """Move the alias `production`."""
        self.client.set_registered_model_alias(line, PRODUCTION, str(number))
        self._log.append("production", line, number)

    @reaches_mlflow
    def set_previous(self, line: str, number: int | None) -> None:
        """Move the alias `previous`, or take it away."""
        if number is None:
            self.client.delete_registered_model_alias(line, PREVIOUS)
        else:
            self.client.set_registered_model_alias(line, PREVIOUS, str(number))
        self._log.append("previous", line, number)
