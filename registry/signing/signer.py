"""One signature by a private key: a file, or a key in a management service that never leaves it."""

from __future__ import annotations

import re
from pathlib import Path

from registry.signing import pem
from registry.signing.ring import RingKey
from weighbridge.errors import SigningKeyChanged, SigningKeyMissing, SigningKeyUnusable


def is_uri(private: str) -> bool:
    """Return whether a private key is named by a URI, such as `awskms:…`, and not by a file."""
    return re.match(r"[a-z][a-z0-9]+:", private) is not None


def sign_with(private: str, key: RingKey, message: bytes) -> bytes:
    """Sign with a private key, if it is the other half of the ring's key.

    Args:
        private: File of the key, or its URI.
        key: The key that is in use.
        message: What is signed.

    Raises:
        SigningKeyMissing: The file is gone.
        SigningKeyChanged: It is another key than the one that is in use.
        SigningKeyUnusable: It cannot be read, or the service refuses.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    signature = _by_service(private, key, message) if is_uri(private) else _by_file(Path(private), message)
    _, public = pem.load_public(key.public_key.encode(), private)
    try:
        public.verify(signature, message, ec.ECDSA(pem.hash_for(public)))
    except InvalidSignature:
        raise SigningKeyChanged(
            f"{private} is another key than {key.id[:12]}, which this installation signs with since "
            f"{key.since:%d %B %Y}.",
            "Name that key again. To change over to the new one, run `weighbridge keys rotate`.",
            where=private,
        ) from None
    return signature


def _by_file(path: Path, message: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec

    if not path.exists():
        raise SigningKeyMissing(
            f"The signing key {path.name} is gone.",
            "Copy it back from its safe place. If it is lost, `weighbridge keys rotate` begins a new pair.",
            where=str(path),
        )
    key = pem.load_private(path)
    return key.sign(message, ec.ECDSA(pem.hash_for(key.public_key())))


def _by_service(uri: str, key: RingKey, message: bytes) -> bytes:
    from securesystemslib.signer import Signer, SSlibKey

    _, public = pem.load_public(key.public_key.encode(), uri)
    try:
        signed = Signer.from_priv_key_uri(uri, SSlibKey.from_crypto(public)).sign(message)
        return bytes.fromhex(signed.signature)
    # Each service's client has errors of its own, of which securesystemslib documents none.
    except Exception as error:
        raise SigningKeyUnusable(
            f"{uri} does not sign: {error}",
            "Check the URI, the region and the permissions of the worker's account; only the worker needs them.",
            where="WEIGHBRIDGE_SIGNING_KEY",
        ) from error
