"""DSSE envelopes: a payload, its type, and signatures over both (DSSE 1.0, protocol.md).

Read with `cryptography` alone: securesystemslib's reader imports every cloud's client first.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.signing import pem
from registry.signing.keys import KeyPair

if TYPE_CHECKING:
    from registry.signing.ring import TrustedKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MOST_SIGNATURES = 16
"""Signatures of an envelope that are looked at. Ours have one."""


class EnvelopeRefused(Exception):
    """An envelope is none, or is signed by none of the trusted keys. Callers give it a name of their own."""


def seal(statement: dict[str, Any], keys: KeyPair) -> tuple[dict[str, Any], str]:
    """Sign a statement with the installation's key of today.

    Args:
        statement: The in-toto statement.
        keys: Where the keys are.

    Returns:
        The envelope, and the id of the key.

    Raises:
        SigningKeyUnusable, SigningKeyMissing, SigningKeyChanged: There is no key to sign with.
    """
    payload = json.dumps(statement, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    key_id, signature = keys.sign(_message(PAYLOAD_TYPE, payload), hashlib.sha256(payload).hexdigest())
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": key_id, "sig": base64.b64encode(signature).decode()}],
    }, key_id


def unseal(envelope: object, keys: KeyPair) -> dict[str, Any]:
    """Return the statement of an envelope that one of the installation's keys signed while it was in use.

    Raises:
        EnvelopeRefused: It is no envelope, or not signed by a key that counts for it; with the reason.
        SigningKeyUnusable: A key to verify by cannot be read.
    """
    opened = _open(envelope)
    opened.require_signed(keys.trusted())
    try:
        statement = json.loads(opened.payload)
    except (ValueError, RecursionError):
        statement = None
    if opened.kind != PAYLOAD_TYPE or not isinstance(statement, dict):
        raise EnvelopeRefused("signs something else")
    return statement


def signed_payload(envelope: object, key: TrustedKey) -> str:
    """Return the SHA-256 of an envelope's payload, if a certain key signed it.

    Raises:
        EnvelopeRefused: It is no envelope, or not signed by that key.
    """
    opened = _open(envelope)
    opened.require_signed([key])
    return opened.payload_sha256


@dataclass(frozen=True)
class _Opened:
    """An envelope whose signatures nobody has verified yet."""

    kind: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]
    """Id of the key, which may be empty, and signature."""

    @property
    def payload_sha256(self) -> str:
        return hashlib.sha256(self.payload).hexdigest()

    def require_signed(self, trusted: list[TrustedKey]) -> None:
        refusal, message = "is not signed by the key of this installation", _message(self.kind, self.payload)
        for key in trusted:
            for named, signature in self.signatures:
                if named in ("", key.id) and _verifies(key, signature, message):
                    if key.counts_for(self.payload_sha256):
                        return
                    refusal = key.refusal
        raise EnvelopeRefused(refusal)


def _open(envelope: object) -> _Opened:
    try:
        if not isinstance(envelope, dict):
            raise TypeError
        payload = base64.b64decode(envelope["payload"], validate=True)
        kind = str(envelope["payloadType"])
        signatures = tuple(
            (str(entry.get("keyid") or ""), base64.b64decode(entry["sig"], validate=True))
            for entry in envelope["signatures"][:MOST_SIGNATURES]
        )
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        raise EnvelopeRefused("is no signature") from None
    if not signatures:
        raise EnvelopeRefused("is no signature")
    return _Opened(kind, payload, signatures)


def _verifies(key: TrustedKey, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    _, public = pem.load_public(key.public_key.encode(), "keyring.json")
    try:
        public.verify(signature, message, ec.ECDSA(pem.hash_for(public)))
    except InvalidSignature:
        return False
    return True


def _message(kind: str, payload: bytes) -> bytes:
    """Return what is signed: the type and the payload, each after its length."""
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)
