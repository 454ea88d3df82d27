"""Signed verdicts: what the pipeline wrote about a candidate, so that nobody's later edit is believed.

Whoever holds the role builder may edit a candidate's tags, card, metrics and files in MLflow, for the pipeline's own
account holds the same role. So the pipeline signs all of them when it records a candidate. The signature is a tag of
the candidate's version (`weighbridge.signed_verdict`) and a file of its run, the only place of one that failed. It
names the artifact, the line and what the artifact was weighed against, so it is worth nothing anywhere else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from registry.models import records
from registry.models.records import CandidateRecord, FailedCandidate, Version
from registry.signing import KeyPair, read_statement, sign_statement
from weighbridge import __version__
from weighbridge.errors import SignatureRefused, VerdictForged, VerdictUnsigned

PREDICATE_TYPE = "urn:weighbridge:verdict:v1"
SIGNED_FILE = "signed_verdict.json"
"""File of a candidate's run."""
LATER = (records.STATE, records.STATE_REASON, records.APPROVED_BY, records.APPROVED_REASON, records.OVERRIDE)
"""Tags that an approved copy gains; a candidate has none of them."""


class SignedVerdict(BaseModel):
    """What the pipeline wrote about a candidate."""

    # JSON has no infinity: as a text it is signed, and read again.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    tags: dict[str, str]
    """All tags: line, artifact, scheme, source, what it was weighed against, outcome, verdict."""
    verdict: dict[str, Any]
    """The verdict with every suite's outcome, margin, confidence and bounds, and the drift."""
    suites: dict[str, str]
    """Digest of each suite, by name."""
    params: dict[str, str]
    metrics: dict[str, float]
    card_sha256: str
    """Hash of the version's description."""
    files: dict[str, str]
    """SHA-256 of each file of the run, by path."""
    signed_at: datetime
    weighbridge: str
    """Version of Weighbridge, whose rules judged."""

    @property
    def passes(self) -> bool:
        """Whether a person may approve the candidate."""
        return self.tags.get(records.PASSES) == "true"

    @property
    def outcome(self) -> str:
        """The verdict in a word."""
        return self.tags.get(records.OUTCOME, "")

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        return self.tags.get(records.SENTENCE, "")


def content(candidate: CandidateRecord, tags: Mapping[str, str], card: str) -> SignedVerdict:
    """Collect what is signed of a candidate.

    Args:
        candidate: The candidate.
        tags: All tags that its version, or its run, gets.
        card: Its description.
    """
    return SignedVerdict(
        tags=dict(tags),
        verdict=candidate.verdict,
        suites={dataset.name: dataset.digest for dataset in candidate.datasets},
        params=candidate.params,
        metrics=candidate.metrics,
        card_sha256=_sha256(card),
        files={name: _sha256(content) for name, content in candidate.files.items()},
        signed_at=datetime.now(UTC),
        weighbridge=__version__,
    )


def sign(keys: KeyPair, signed: SignedVerdict) -> str:
    """Sign what is recorded of a candidate.

    Args:
        keys: The installation's keys.
        signed: What is recorded.

    Returns:
        The envelope, as JSON.

    Raises:
        SigningKeyUnusable, SigningKeyMissing, SigningKeyChanged: There is no key to sign with.
    """
    line, digest = signed.tags[records.LINE], signed.tags[records.DIGEST]
    return sign_statement(
        keys,
        predicate_type=PREDICATE_TYPE,
        subject={f"store://{line}/{digest}": digest},
        predicate=json.loads(signed.model_dump_json()),
    )


def read(keys: KeyPair, line: str, digest: str, envelope: str, where: str = "") -> SignedVerdict:
    """Read a signed verdict about an artifact of a line.

    Args:
        keys: The installation's keys.
        line: Name of the line.
        digest: Digest of the artifact.
        envelope: The signature, from a tag or a file; may be empty.
        where: Page of the candidate, for messages.

    Raises:
        VerdictUnsigned: There is no signature that counts.
        VerdictForged: The signature belongs to another line.
    """
    name = f"The verdict on {digest[:12] or 'a candidate without a digest'} of {line}"
    if not envelope:
        raise _unsigned(line, f"{name} is not signed.", where)
    try:
        predicate = read_statement(keys, envelope, predicate_type=PREDICATE_TYPE, subject_sha256=digest)
        signed = SignedVerdict.model_validate(predicate)
    except SignatureRefused as error:
        raise _unsigned(line, f"{name} is not signed by the pipeline: {error.what}", where) from None
    except ValidationError:
        raise _unsigned(
            line, f"{name} was signed by another version of Weighbridge, which wrote less.", where
        ) from None
    if signed.tags.get(records.LINE) != line or signed.tags.get(records.DIGEST) != digest:
        raise _forged(line, f"{name} carries the signature of another candidate.", where)
    return signed


def check(version: Version, keys: KeyPair, description: str) -> SignedVerdict:
    """Check that a candidate says what the pipeline signed.

    Args:
        version: The candidate.
        keys: The installation's keys.
        description: Its card as MLflow has it.

    Raises:
        VerdictUnsigned: Its verdict carries no signature that counts.
        VerdictForged: It says something else than was signed; each difference is named.
    """
    signed = read(keys, version.line, version.digest, version.tags.get(records.SIGNED_VERDICT, ""), version.url)
    wrong = differing_tags(signed, version.tags)
    if _sha256(description) != signed.card_sha256:
        wrong.append("the card")
    if version.source_uri != version.artifact_uri:
        wrong.append("the source")
    if wrong:
        what = f"is not what the pipeline signed: {', '.join(wrong)}."
        what = f"{version.kind.capitalize()} {version.version} of {version.line} {what}"
        raise _forged(version.line, what, version.url)
    return signed


def check_copy(approved: Version, candidate: Version) -> None:
    """Check that an approved version carries the tags of the candidate that it was copied from.

    Raises:
        VerdictForged: A tag differs; each is named.
    """
    allowed = (*LATER, records.SIGNED_VERDICT)
    wrong = [
        name
        for name in sorted({*approved.tags, *candidate.tags})
        if name.startswith(records.TAG) and name not in allowed
        if approved.tags.get(name, "") != candidate.tags.get(name, "")
    ]
    if wrong:
        what = f"Version {approved.version} of {approved.line} is no copy of its candidate: {', '.join(wrong)}."
        raise _forged(approved.line, what, approved.url)


def check_failed(failed: FailedCandidate, keys: KeyPair, envelope: str) -> SignedVerdict:
    """Check that the record of a failed candidate says what the pipeline signed.

    Args:
        failed: The candidate, which has a run and no version.
        keys: The installation's keys.
        envelope: The signed verdict from its run; may be empty.

    Raises:
        VerdictUnsigned, VerdictForged: It does not.
    """
    signed = read(keys, failed.line, failed.digest, envelope, failed.run_url)
    if wrong := differing_tags(signed, failed.tags):
        what = f"{failed.scheme} {failed.digest[:12]} is not what the pipeline signed: {', '.join(wrong)}."
        raise _forged(failed.line, what, failed.run_url)
    return signed


def differing_tags(signed: SignedVerdict, tags: Mapping[str, str]) -> list[str]:
    """Name the tags of Weighbridge that differ from what was signed, those added and removed too."""
    present = {name: value for name, value in tags.items() if name.startswith(records.TAG)}
    names = {*present, *signed.tags} - {records.SIGNED_VERDICT, records.KIND}
    return [
        f"{name} is {present.get(name) or 'empty'!r:.60}, was {signed.tags.get(name) or 'empty'!r:.60}"
        for name in sorted(names)
        # MLflow may leave out a tag without a value.
        if (present.get(name) or "") != (signed.tags.get(name) or "")
    ]


def _sha256(content: str | bytes | Path) -> str:
    if isinstance(content, Path):
        content = content.read_bytes()
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def _unsigned(line: str, what: str, where: str) -> VerdictUnsigned:
    return VerdictUnsigned(
        what,
        f"It does not serve. `weighbridge release {line}` records it again, signed; name --revision and --scheme if it "
        "is an older one. Everything but the record comes from the cache.",
        where=where,
    )


def _forged(line: str, what: str, where: str) -> VerdictForged:
    return VerdictForged(
        what,
        f"It does not serve. `weighbridge audit --line {line}` says who edited it; `weighbridge release {line}` writes "
        "down again what was weighed.",
        where=where,
    )
