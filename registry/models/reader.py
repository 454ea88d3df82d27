"""Versions of a line's two registered models, read from MLflow and put into our own types."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.access.accounts import signed_in_as
from registry.models import records
from registry.models.recorder import Recorder, web_address
from registry.models.records import FailedCandidate, Version, candidates_model
from weighbridge.errors import ApprovalRefused, VersionUnknown

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

PAGE = 1000
SHORTEST_DIGEST = 7
"""Digits from which on a reference is a digest and no version number."""


class Reader:
    """What MLflow holds of one line."""

    def __init__(self, client: MlflowClient, line: str) -> None:
        self.client, self.line = client, line

    def versions(self, model: str) -> list[Version]:
        """All versions of a registered model, oldest first; none where there is no such model."""
        aliases = self._aliases(model)
        found: list[ModelVersion] = []
        token = None
        while True:
            page = self.client.search_model_versions(f"name='{model}'", max_results=PAGE, page_token=token)
            found += page
            if not (token := page.token):
                break
        return sorted((self.read(one, aliases) for one in found), key=lambda version: version.version)

    def pick(self, model: str, number: int) -> Version:
        """One version.

        Raises:
            VersionUnknown: there is none of that number.
        """
        known = self.versions(model)
        for version in known:
            if version.version == number:
                return version
        raise self._unknown(model, str(number), known)

    def by_alias(self, alias: str) -> Version | None:
        """The approved version that an alias names, or None."""
        aliases = self._aliases(self.line)
        if alias not in aliases:
            return None
        return self.read(self.client.get_model_version(self.line, aliases[alias]), aliases)

    def waiting(self) -> list[Version]:
        """Approved versions that nothing has been decided about yet, or that are on their way, oldest first."""
        return [version for version in self.versions(self.line) if version.state in (None, "rolling")]

    def failed(self, digest_prefix: str) -> list[FailedCandidate]:
        """Candidates that did not pass, oldest first."""
        return [self._read_failed(run) for run in Recorder(self.client, self.line).failed_runs(digest_prefix)]

    def find_candidate(self, reference: str) -> Version:
        """The newest candidate of a version number or of a digest's first digits.

        Raises:
            ApprovalRefused: the digest is of a candidate that failed.
            VersionUnknown: nothing is called so, or several artifacts are.
        """
        model = candidates_model(self.line)
        if reference.isdecimal() and len(reference) < SHORTEST_DIGEST:
            return self.pick(model, int(reference))
        known = self.versions(model)
        named = [version for version in known if reference and version.digest.startswith(reference.lower())]
        if len({version.digest for version in named}) > 1:
            raise VersionUnknown(
                f"{reference!r} fits several candidates of {self.line}: {_listed(named)}.",
                "Give more of the digest's digits.",
            )
        if named:
            # It may also have failed once, against another production: the pass is on record and stands.
            return named[-1]
        if reference and (failed := self.failed(reference)):
            raise _refusal(failed[-1])
        raise self._unknown(model, reference, known)

    def find_failed(self, digest_prefix: str) -> FailedCandidate:
        """The last candidate of these first digits that was weighed and did not pass.

        Raises:
            VersionUnknown: there is none, or several artifacts are.
        """
        found = self.failed(digest_prefix) if len(digest_prefix) >= SHORTEST_DIGEST else []
        if len({one.digest for one in found}) == 1:
            return found[-1]
        several = ", ".join(sorted({f"{one.scheme} {one.digest[:12]}" for one in found}))
        fits = f"several: {several}" if several else f"no candidate of {self.line} that failed"
        raise VersionUnknown(
            f"{digest_prefix!r} fits {fits}.",
            "Give the first digits of its digest, seven or more; `weighbridge release` and its report tell them.",
        )

    def read(self, version: ModelVersion, aliases: dict[str, str]) -> Version:
        """One of MLflow's versions as ours; a version number is a str from a server and an int from a database."""
        number, tags = int(version.version), dict(version.tags)
        return Version(
            line=self.line,
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
            aliases=tuple(sorted(alias for alias, at in aliases.items() if at == str(number))),
            tags=tags,
            created_at_ms=int(version.creation_timestamp),
            url=web_address(self.client, f"models/{version.name}/versions/{number}"),
        )

    def _aliases(self, model: str) -> dict[str, str]:
        found = self.client.search_registered_models(f"name='{model}'")
        return {alias: str(version) for alias, version in found[0].aliases.items()} if found else {}

    def _read_failed(self, run: Run) -> FailedCandidate:
        tags = run.data.tags
        return FailedCandidate(
            line=self.line,
            digest=tags[records.DIGEST],
            scheme=tags[records.SCHEME],
            outcome=tags[records.OUTCOME],
            sentence=tags[records.SENTENCE],
            production_digest=tags.get(records.PRODUCTION_DIGEST) or None,
            run_id=run.info.run_id,
            tags={name: value for name, value in tags.items() if name.startswith(records.TAG)},
            run_url=Recorder(self.client, self.line).run_url(run),
        )

    def _unknown(self, model: str, reference: str, known: list[Version]) -> VersionUnknown:
        if not known:
            # MLflow leaves out of a list what one may not read, and says nothing.
            unseen = (
                f" {who} is signed in: who holds no role of {self.line} sees none." if (who := signed_in_as()) else ""
            )
            return VersionUnknown(
                f"{model} has no version {reference!r}; it has none yet.{unseen}",
                f"Run `weighbridge release {self.line}` first.",
            )
        return VersionUnknown(f"{model} has no version {reference!r}; it has {_listed(known)}.", "Name one of these.")


def _listed(versions: list[Version]) -> str:
    return ", ".join(
        f"{version.version} ({version.scheme} {version.short})" if version.digest else f"{version.version}"
        for version in versions
    )


def _refusal(failed: FailedCandidate) -> ApprovalRefused:
    return ApprovalRefused(
        f"{failed.scheme} {failed.digest[:12]} did not pass. {failed.sentence}",
        "Read its report; approve another candidate, or release the line again after what caused it is mended.",
        where=failed.run_url,
    )
