"""Elliptic-curve keys as PEM text: made, read, and named by their id."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weighbridge.errors import SigningKeyUnusable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""Curves that model_signing, which verifies our manifests elsewhere, knows."""
PEM_BYTES = 1_000_000
"""Most that is read of a file of keys."""


def key_id(public_pem: str) -> str:
    """Return a key's id: SHA-256 of its public half as PEM, which is also model_signing's hint of a key."""
    return hashlib.sha256(public_pem.encode()).hexdigest()


def new_private() -> bytes:
    """Make a private key on the curve P-256, as PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_private(path: Path) -> EllipticCurvePrivateKey:
    """Read a private key's file.

    Raises:
        SigningKeyUnusable: It cannot be read, or holds no such key.
    """
    return parse_private(read(path), path)


def parse_private(content: bytes, where: Path | str) -> EllipticCurvePrivateKey:
    """Read a private key's text.

    Args:
        content: The text, PEM.
        where: Its file, for messages.

    Raises:
        SigningKeyUnusable: It is no such key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise unusable(where, error) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise unusable(where, "it is of another kind")
    return key


def public_pem_of(private: EllipticCurvePrivateKey) -> str:
    """Return a private key's public half as PEM."""
    return _as_pem(private.public_key())


def load_public(pem: bytes, where: Path | str) -> tuple[str, EllipticCurvePublicKey]:
    """Read one public key.

    Args:
        pem: Text of the key.
        where: File that it stands in, for messages.

    Returns:
        The key as PEM in its one normal form, and the key.

    Raises:
        SigningKeyUnusable: It is no such key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise unusable(where, error) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise unusable(where, "it is of another kind")
    return _as_pem(key), key


def read(path: Path) -> bytes:
    """Read a small file of keys.

    Raises:
        SigningKeyUnusable: It is missing, not readable for this user, or too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(PEM_BYTES + 1)
    except OSError as error:
        raise unusable(path, error.strerror or error) from None
    if len(content) > PEM_BYTES:
        raise unusable(path, "it is too large")
    return content


def hash_for(key: EllipticCurvePublicKey) -> Any:
    """Return the hash function for a key's curve, as model_signing pairs them."""
    from cryptography.hazmat.primitives import hashes

    return {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.key_size]


def unusable(path: Path | str, why: object) -> SigningKeyUnusable:
    """Make the error about a file that holds no key for us."""
    return SigningKeyUnusable(
        f"{Path(path).name} holds no key that can sign or verify: {why}.",
        "Name an unencrypted PEM file with an elliptic-curve key (P-256, P-384 or P-521): "
        "`openssl ecparam -name prime256v1 -genkey -noout -out FILE` makes one.",
        where=str(path),
    )


def _as_pem(key: EllipticCurvePublicKey) -> str:
    from cryptography.hazmat.primitives import serialization

    content = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return content.decode()
