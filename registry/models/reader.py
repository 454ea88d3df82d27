"""Versions of a line's two registered models, read from MLflow as `Version` and `FailedCandidate`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from registry.accounts import signed_in_as
from registry.models import records, verdicts
from registry.models.client import Connection, reaches_mlflow, run_url, web_address
from registry.models.records import FailedCandidate, Version, candidates_model
from weighbridge.errors import ApprovalRefused, RegistryFailed, VersionUnknown

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

PAGE = 1000
"""Versions or runs in one answer of MLflow."""
SHORTEST_DIGEST = 7
"""Fewest digits of a digest; a shorter reference is a version number."""


class Reader(Connection):
    """Everything that is read of the lines' registered models."""

    @reaches_mlflow(role="any")
    def candidates(self, line: str) -> list[Version]:
        """List versions of `<line>-candidates`, oldest first; empty if the line never had a release."""
        return self._versions(line, candidates_model(line))

    @reaches_mlflow(role="any")
    def versions(self, line: str) -> list[Version]:
        """List versions of `<line>`, which is everything ever approved, oldest first."""
        return self._versions(line, line)

    @reaches_mlflow(role="any")
    def awaiting(self, line: str) -> list[Version]:
        """List candidates whose artifact was never approved, oldest first."""
        if not (proposed := self._versions(line, candidates_model(line))):
            return []
        approved = {version.digest for version in self._versions(line, line)}
        return [candidate for candidate in proposed if candidate.digest not in approved]

    @reaches_mlflow(role="any")
    def version(self, line: str, number: int) -> Version:
        """Find an approved version.

        Raises:
            VersionUnknown: There is no version of that number; the existing ones are named.
        """
        return self._pick(line, line, number)

    @reaches_mlflow(role="any")
    def candidate_version(self, line: str, number: int) -> Version:
        """Find a version of `<line>-candidates`.

        Raises:
            VersionUnknown: There is no version of that number; the existing ones are named.
        """
        return self._pick(line, candidates_model(line), number)

    @reaches_mlflow(role="any")
    def candidate(self, line: str, reference: str | int) -> Version:
        """Find the candidate that a person means; of several versions of one artifact, the newest.

        Args:
            line: Name of the line.
            reference: Version of `<line>-candidates`, or the first digits of a digest (7 or more).

        Raises:
            ApprovalRefused: The digest is of a candidate that failed; its verdict is quoted.
            VersionUnknown: Nothing of the line, or more than one artifact, matches; the existing ones are named.
        """
        model, reference = candidates_model(line), str(reference)
        if reference.isdecimal() and len(reference) < SHORTEST_DIGEST:
            return self._pick(line, model, int(reference))
        known = self._versions(line, model)
        matches = [version for version in known if reference and version.digest.startswith(reference.lower())]
        if len({version.digest for version in matches}) > 1:
            raise VersionUnknown(
                f"{reference!r} fits several candidates of {line}: {_listed(matches)}.",
                "Give more digits of the digest.",
            )
        if matches:
            # It may have failed against an earlier production as well. The recorded pass counts.
            return matches[-1]
        if reference and (failed := self.failed(line, reference)):
            raise _refusal(failed[-1])
        raise _unknown(line, model, reference, known)

    @reaches_mlflow(role="any")
    def failed(self, line: str, digest_prefix: str) -> list[FailedCandidate]:
        """List candidates that did not pass, oldest first."""
        if not digest_prefix.isalnum() or (experiment := self.client.get_experiment_by_name(line)) is None:
            return []
        query = (
            f"tags.`{records.KIND}` = '{records.CANDIDATE}' AND tags.`{records.PASSES}` = 'false' "
            f"AND tags.`{records.DIGEST}` LIKE '{digest_prefix.lower()}%'"
        )
        runs = self.client.search_runs([experiment.experiment_id], query, max_results=PAGE)
        return [self._read_failed(line, run) for run in sorted(runs, key=lambda run: run.info.start_time)]

    @reaches_mlflow(role="any")
    def failed_candidate(self, line: str, digest_prefix: str) -> FailedCandidate:
        """Find the newest record of a candidate that was weighed and did not pass.

        Args:
            line: Name of the line.
            digest_prefix: First digits of its digest (7 or more).

        Raises:
            VersionUnknown: No failed candidate, or more than one artifact, matches.
        """
        matches = self.failed(line, digest_prefix) if len(digest_prefix) >= SHORTEST_DIGEST else []
        if len({candidate.digest for candidate in matches}) == 1:
            return matches[-1]
        several = ", ".join(sorted({f"{candidate.scheme} {candidate.digest[:12]}" for candidate in matches}))
        fits = f"several: {several}" if several else f"no candidate of {line} that failed"
        raise VersionUnknown(
            f"{digest_prefix!r} fits {fits}.",
            "Give the first digits of its digest, seven or more. `weighbridge release` and its report show them.",
        )

    @reaches_mlflow(role="any")
    def description(self, version: Version) -> str:
        """Read a version's description, which is the card with which it was proposed."""
        return str(self.client.get_model_version(version.model, str(version.version)).description or "")

    @reaches_mlflow(role="any")
    def signed_verdict(self, run_id: str) -> str:
        """Read the signed verdict of a candidate's run; empty if it has none."""
        from mlflow.exceptions import MlflowException

        try:
            with tempfile.TemporaryDirectory(prefix="weighbridge-") as folder:
                return Path(self.client.download_artifacts(run_id, verdicts.SIGNED_FILE, folder)).read_text()
        except (MlflowException, OSError, UnicodeDecodeError) as error:
            if any(file.path == verdicts.SIGNED_FILE for file in self.client.list_artifacts(run_id)):
                raise RegistryFailed(
                    f"MLflow lists {verdicts.SIGNED_FILE} of run {run_id} and does not hand it out: {error}",
                    "Look at `weighbridge logs mlflow`.",
                ) from error
            return ""

    @reaches_mlflow(role="any")
    def waiting(self, line: str) -> list[Version]:
        """List approved versions that are not decided yet, or that are rolling out, oldest first."""
        return [version for version in self._versions(line, line) if version.state in (None, "rolling")]

    @reaches_mlflow(role="any")
    def production(self, line: str) -> Version | None:
        """Find the version that serves; None if nothing does."""
        return self._by_alias(line, records.PRODUCTION)

    @reaches_mlflow(role="any")
    def previous(self, line: str) -> Version | None:
        """Find the version that a rollback returns to; None if there is none."""
        return self._by_alias(line, records.PREVIOUS)

    def _versions(self, line: str, model: str) -> list[Version]:
        aliases = self._aliases(model)
        found: list[ModelVersion] = []
        token = None
        while True:
            page = self.client.search_model_versions(f"name='{model}'", max_results=PAGE, page_token=token)
            found += page
            if not (token := page.token):
                break
        return sorted((self._read(line, version, aliases) for version in found), key=lambda version: version.version)

    def _pick(self, line: str, model: str, number: int) -> Version:
        known = self._versions(line, model)
        for version in known:
            if version.version == number:
                return version
        raise _unknown(line, model, str(number), known)

    def _by_alias(self, line: str, alias: str) -> Version | None:
        aliases = self._aliases(line)
        if alias not in aliases:
            return None
        return self._read(line, self.client.get_model_version(line, aliases[alias]), aliases)

    def _aliases(self, model: str) -> dict[str, str]:
        found = self.client.search_registered_models(f"name='{model}'")
        return {alias: str(version) for alias, version in found[0].aliases.items()} if found else {}

    def _read(self, line: str, version: ModelVersion, aliases: dict[str, str]) -> Version:
        # A version number is a str from a server and an int from a database.
        number, tags = int(version.version), dict(version.tags)
        return Version(
            line=line,
            model=version.name,
            version=number,
            digest=tags.get(records.DIGEST, ""),
            scheme=tags.get(records.SCHEME, ""),
            outcome=tags.get(records.OUTCOME, ""),
            passes=tags.get(records.PASSES) == "true",
            sentence=tags.get(records.SENTENCE, ""),
            state=tags.get(records.STATE) or None,
            state_reason=tags.get(records.STATE_REASON, ""),
            source_uri=version.source,
            production_digest=tags.get(records.PRODUCTION_DIGEST) or None,
            approved_by=tags.get(records.APPROVED_BY, ""),
            approved_reason=tags.get(records.APPROVED_REASON, ""),
            aliases=tuple(sorted(alias for alias, aliased in aliases.items() if aliased == str(number))),
            tags=tags,
            created_at_ms=int(version.creation_timestamp),
            url=web_address(self.client, f"models/{version.name}/versions/{number}"),
        )

    def _read_failed(self, line: str, run: Run) -> FailedCandidate:
        tags = run.data.tags
        return FailedCandidate(
            line=line,
            digest=tags[records.DIGEST],
            scheme=tags[records.SCHEME],
            outcome=tags[records.OUTCOME],
            sentence=tags[records.SENTENCE],
            production_digest=tags.get(records.PRODUCTION_DIGEST) or None,
            run_id=run.info.run_id,
            tags={name: value for name, value in tags.items() if name.startswith(records.TAG)},
            run_url=run_url(self.client, run),
        )


def _unknown(line: str, model: str, reference: str, known: list[Version]) -> VersionUnknown:
    kind = "version" if model == line else "candidate"
    named = reference if reference.isdecimal() else repr(reference)
    if known:
        listing = f"weighbridge candidates {line}" if model != line else "weighbridge status"
        return VersionUnknown(
            f"{line} has no {kind} {named}; it has {_listed(known)}.", f"Name one of these; `{listing}` shows them."
        )
    account = signed_in_as()
    # MLflow silently leaves out of a list what the account may not read.
    hint = f" {account} is signed in: an account without a role of {line} sees none." if account else ""
    first = f"weighbridge release {line}" if model != line else f"weighbridge candidates {line}"
    next_step = "Run `{}` first." if model != line else "Approve a candidate first: `{}` lists them."
    return VersionUnknown(f"{line} has no {kind} {named}; it has none yet.{hint}", next_step.format(first))


def _listed(versions: list[Version]) -> str:
    return ", ".join(
        f"{version.kind} {version.version} ({version.scheme} {version.short})"
        if version.digest
        else f"{version.kind} {version.version}"
        for version in versions
    )


def _refusal(failed: FailedCandidate) -> ApprovalRefused:
    return ApprovalRefused(
        f"{failed.scheme} {failed.digest[:12]} did not pass. {failed.sentence}",
        f"Read its report. Approve another candidate (`weighbridge candidates {failed.line}` lists them), or mend the "
        f"cause and run `weighbridge release {failed.line}` again.",
        where=failed.run_url,
    )
