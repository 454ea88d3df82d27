"""The registry: approvals, overrides, states and aliases in MLflow, over what `Reader` reads and `Recorder` writes.

A line has an experiment and two registered models. `<line>-candidates` is the pipeline's: a version for each artifact
that passed. `<line>` is the reviewers': *Promote model* in MLflow's page, or `approve` here, copies a version over, and
that copy is the approval. The aliases `production` and `previous` on `<line>` say what serves. The tag
`weighbridge.state` on its versions says what became of each.

Every operation searches before it creates, so each may be killed at any point and run again.
"""

from __future__ import annotations

from registry.audit import REASON, AuditLog
from registry.models import approvals, records
from registry.models.client import reaches_mlflow
from registry.models.reconcile import reconcile
from registry.models.recorder import Recorder
from registry.models.records import PREVIOUS, PRODUCTION, STATES, Approved, State, Version
from weighbridge.errors import ApprovalRefused, VerdictForged, VerdictUnsigned
from weighbridge.line import Approval
from weighbridge.settings import Settings, load_settings

COMMENT_START, COMMENT_END = "> **Refused.** ", "\n\n---\n\n"
"""Around a comment, before the card in a version's description."""


class Registry(Recorder):
    """The registered models of all lines.

    Args:
        where: Settings of an installation, or MLflow's address; by default the settings of this process.
        log: Audit log that changes are written to; by default that of the installation.

    Raises:
        StackDown: From every method, if MLflow does not answer.
        RegistryDenied: From every method, if MLflow does not know the account or refuses it.
        RegistryFailed: From every method, if MLflow answers with another error.
    """

    def __init__(self, where: Settings | str | None = None, log: AuditLog | None = None) -> None:
        super().__init__(where := where or load_settings())
        self._log = log or (AuditLog() if isinstance(where, str) else AuditLog.of(where))

    # --- approvals ---------------------------------------------------------------------------

    @reaches_mlflow(role="reviewer")
    def approve(self, line: str, number: int, reason: str, who: str) -> Approved:
        """Approve a candidate: the request that *Promote model* sends, with the card, the person and the reason added.

        Two calls at once on this machine create one version. On two machines they may create two, of which the newer
        serves.

        Args:
            line: Name of the line.
            number: Version of `<line>-candidates`.
            reason: Kept with the version and in the audit log.
            who: Person who approves.

        Returns:
            The version of `<line>`; an existing one if the same artifact waits or serves already. Another reason is
            then kept with it, and is a second entry of the audit log.

        Raises:
            VersionUnknown: There is no such candidate.
            ApprovalRefused: The candidate did not pass.
            VerdictUnsigned, VerdictForged: It is not what the pipeline signed.
        """
        candidate = self.candidate_version(line, number)
        if not candidate.passes:
            raise ApprovalRefused(
                f"Candidate {number} of {line} did not pass. {candidate.sentence or 'It carries no verdict.'}",
                f"Approve a candidate that passed: `weighbridge candidates {line}` lists them.",
                where=candidate.url,
            )
        approvals.check_signed(candidate, self)
        with self._log.one_at_a_time():
            if (earlier := self.approved_version(line, candidate.digest)) is not None:
                return self._with_later_reason(earlier, reason, who)
            with self._log.recording("approve", line, None, what=candidate.digest, reason=reason, who=who) as entry:
                created = self._copy(candidate, reason, who)
                entry.version = created.version
        return Approved.model_validate(created.model_dump())

    @reaches_mlflow(role="reviewer")
    def override(self, line: str, digest_prefix: str, reason: str, who: str, rules: Approval) -> Approved:
        """Approve a candidate that was weighed and did not pass, on a person's responsibility.

        The audit log is written first; `check_approval` trusts only what it says.

        Args:
            line: Name of the line.
            digest_prefix: First digits of the candidate's digest (7 or more).
            reason: Kept with the version and in the audit log.
            who: Person who approves.
            rules: The line's rules, which name those who may override.

        Returns:
            The version of `<line>`; an existing one if the same artifact waits or serves already, with a reason added.

        Raises:
            ApprovalRefused: They may not override, give no reason, or the candidate was never weighed.
            VersionUnknown: No failed candidate, or more than one, has these digits.
        """
        approvals.check_overrider(line, rules, reason, who)
        approvals.check_weighed(failed := self.failed_candidate(line, digest_prefix), self)
        with self._log.one_at_a_time():
            if (earlier := self.approved_version(line, failed.digest)) is not None:
                return self._with_later_reason(earlier, reason, who)
            entry = self._log.append("override", line, None, what=failed.digest, reason=reason, who=who)
            created = self.client.create_model_version(
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
            self._log.append("approve", line, int(created.version), what=failed.digest, reason=reason, who=who)
        return Approved.model_validate(self._read(line, created, {}).model_dump())

    @reaches_mlflow(role="any")
    def approved_version(self, line: str, digest: str) -> Version | None:
        """Find the version of an artifact that waits or serves."""
        active = filter(None, (*self.waiting(line), self.production(line)))
        return next((version for version in active if version.digest == digest), None)

    @reaches_mlflow(role="any")
    def check_approval(self, version: Version, rules: Approval) -> None:
        """Check that an approved version is a candidate that passed, or an override, and not too old.

        Raises:
            ApprovalRefused: It is neither, so it may have been created by hand; or it is too old.
        """
        approvals.check_approval(version, rules, self, self._log)

    @reaches_mlflow(role="any")
    def approved_digest(self, version: Version) -> str:
        """Return the digest of the artifact that a version was approved with, whatever its tag says by now."""
        return approvals.approved_digest(version, self._log)

    @reaches_mlflow(role="any")
    def is_as_signed(self, candidate: Version) -> bool:
        """Return whether a candidate's tags and card are what the pipeline signed."""
        try:
            approvals.check_signed(candidate, self)
        except (VerdictUnsigned, VerdictForged):
            return False
        return True

    @reaches_mlflow(role="any")
    def moved_production(self, version: Version) -> Version | None:
        """Find the version that serves now, if it is not the one that `version` was weighed against; else None."""
        return approvals.moved_production(version, self, self._log)

    # --- what became of them -----------------------------------------------------------------

    @reaches_mlflow(role="operator")
    def comment(self, line: str, number: int, text: str) -> None:
        """Put a sentence before an approved version's card, in place of an earlier one; an empty text removes it."""
        before = self.client.get_model_version(line, str(number)).description or ""
        card = before.partition(COMMENT_END)[2] if before.startswith(COMMENT_START) else before
        after = f"{COMMENT_START}{' '.join(text.split())}{COMMENT_END}{card}"[: records.CARD_LIMIT] if text else card
        if after != before:
            self.client.update_model_version(line, str(number), description=after)

    @reaches_mlflow(role="operator")
    def set_state(self, line: str, number: int, state: State, reason: str = "") -> None:
        """Set what became of an approved version. Without a reason, `rolling` and `serving` name who approved it."""
        if state not in STATES:
            raise ValueError(f"{state!r} is none of {', '.join(STATES)}")
        if not reason and state in approvals.BEGUN and (who := self._log.approver(line, number)):
            reason = f"approved by {who}"
        with self._log.recording("state", line, number, what=state, reason=reason):
            # The reason comes first, so that a version with a state always has its reason too.
            self.client.set_model_version_tag(line, str(number), records.STATE_REASON, reason)
            self.client.set_model_version_tag(line, str(number), records.STATE, state)

    @reaches_mlflow(role="operator")
    def set_production(self, line: str, number: int | None) -> None:
        """Move the alias `production`, or remove it."""
        self._set_alias(line, PRODUCTION, number)

    @reaches_mlflow(role="operator")
    def set_previous(self, line: str, number: int | None) -> None:
        """Move the alias `previous`, or remove it."""
        self._set_alias(line, PREVIOUS, number)

    @reaches_mlflow(role="any")
    def reconcile(self, line: str) -> None:
        """Write into the audit log what MLflow says of a line and the log does not."""
        reconcile(line, self, self._log)

    def _with_later_reason(self, version: Version, reason: str, who: str) -> Approved:
        """Keep a reason that was given after the approval; the log keeps the earlier one too."""
        line, number = version.line, version.version
        added = bool(reason) and reason != version.approved_reason
        if added:
            # MLflow decides whether the account may do this, before the log says that it was done.
            with self._log.recording(REASON, line, number, what=version.digest, reason=reason, who=who):
                self.client.set_model_version_tag(line, str(number), records.APPROVED_REASON, reason)
        return Approved.model_validate({**version.model_dump(), "earlier": True, "reason_added": added})

    def _set_alias(self, line: str, alias: str, number: int | None) -> None:
        with self._log.recording(alias, line, number):
            if number is None:
                self.client.delete_registered_model_alias(line, alias)
            else:
                self.client.set_registered_model_alias(line, alias, str(number))

    def _copy(self, candidate: Version, reason: str, who: str) -> Version:
        original = self.client.get_model_version(candidate.model, str(candidate.version))
        left_out = (records.STATE, records.STATE_REASON)
        created = self.client.create_model_version(
            candidate.line,
            source=f"models:/{candidate.model}/{candidate.version}",
            run_id=original.run_id,
            tags={
                **{name: value for name, value in original.tags.items() if name not in left_out},
                # In the call that creates the version, so that no kill separates them from the approval.
                **{records.APPROVED_BY: who, records.APPROVED_REASON: reason},
            },
            description=original.description,
            await_creation_for=0,
        )
        return self._read(candidate.line, created, {})
