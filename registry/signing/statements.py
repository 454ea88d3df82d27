"""Signed statements about content: a verdict, a backup, how an artifact was built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from registry.signing.envelope import EnvelopeRefused, seal, unseal
from registry.signing.keys import KeyPair
from weighbridge.errors import SignatureRefused

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
ENVELOPE_CHARACTERS = 16_000_000
"""Longest envelope that is read."""


def sign_statement(
    keys: KeyPair, *, predicate_type: str, subject: Mapping[str, str], predicate: Mapping[str, Any]
) -> str:
    """Sign what this installation says about content.

    Args:
        keys: The installation's keys.
        predicate_type: URI that says what the predicate is about.
        subject: Name -> SHA-256 of what the statement is about.
        predicate: What is said; plain JSON.

    Returns:
        The envelope, as JSON.

    Raises:
        SigningKeyUnusable, SigningKeyMissing, SigningKeyChanged: There is no key to sign with.
    """
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in subject.items()],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }
    envelope, _ = seal(statement, keys)
    return json.dumps(envelope)


def read_statement(keys: KeyPair, envelope: str | bytes, *, predicate_type: str, subject_sha256: str) -> dict[str, Any]:
    """Return what this installation said about content, if it said it.

    Args:
        keys: The installation's keys.
        envelope: What `sign_statement` returned, from wherever it was kept.
        predicate_type: The predicate that is expected.
        subject_sha256: SHA-256 of the content that the statement must be about.

    Returns:
        The predicate.

    Raises:
        SignatureRefused: It is signed by no key that counts, or is about something else.
        SigningKeyUnusable: A key to verify by cannot be read.
    """
    try:
        if len(envelope) > ENVELOPE_CHARACTERS:
            raise EnvelopeRefused("is too long for a signature")
        try:
            content = json.loads(envelope)
        except (ValueError, RecursionError):
            raise EnvelopeRefused("is no signature") from None
        statement = unseal(content, keys)
    except EnvelopeRefused as error:
        raise _refused(f"The statement {error}.") from None
    if statement.get("_type") != STATEMENT_TYPE or statement.get("predicateType") != predicate_type:
        raise _refused(f"The statement is of another kind than {predicate_type}.")
    if subject_sha256 not in _subjects(statement):
        raise _refused(f"The statement is about something else than {subject_sha256[:12]}.")
    predicate = statement.get("predicate")
    return predicate if isinstance(predicate, dict) else {}


def _subjects(statement: dict[str, Any]) -> set[str]:
    subjects = statement.get("subject")
    digests = (
        [entry.get("digest") for entry in subjects if isinstance(entry, dict)] if isinstance(subjects, list) else []
    )
    return {str(digest["sha256"]) for digest in digests if isinstance(digest, dict) and digest.get("sha256")}


def _refused(what: str) -> SignatureRefused:
    return SignatureRefused(what, "Do not use what it belongs to; find out who put it there. `weighbridge keys list`.")
