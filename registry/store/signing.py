"""Signatures of manifests: who made an artifact, checked before an engine may start from it.

Only the small file `manifest.json` is signed. It holds the SHA-256 of every other file, so a model is hashed once, by
`Store.verify`, and not a second time for its signature. `manifest.sig` beside it is written by model-signing: a
Sigstore bundle with an in-toto statement in a DSSE envelope. Its own command line verifies it:

    model_signing verify key manifest.json --signature manifest.sig --public_key <home>/keys/weighbridge.pub

That library signs. Verification reads the same envelope with `cryptography` alone, because importing model_signing
1.1.1 takes 4 to 7 seconds (it loads Sigstore's network clients and boto3), which would delay every start of an engine
and every rollback.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock

from weighbridge.errors import ArtifactDamaged, ArtifactUnsigned, SigningKeyUnusable
from weighbridge.files import write_whole
from weighbridge.settings import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

KEYS_FOLDER = "keys"
PRIVATE, PUBLIC = "weighbridge.key", "weighbridge.pub"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
"""Kind of the statement; source: model_signing 1.1.1, _signing/signing.py."""
CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""Curves that model_signing signs with."""


def signature_path(manifest: Path) -> Path:
    """Return the path of a manifest's signature."""
    return manifest.with_suffix(".sig")


@dataclass(frozen=True)
class KeyPair:
    """Where the keys are that manifests are signed and verified with.

    With a public key and no private one this machine only verifies.
    """

    folder: Path
    """Holds the installation's own pair, made at first use."""
    private: Path | None = None
    """Private key to use instead of the installation's own (WEIGHBRIDGE_SIGNING_KEY)."""
    public: Path | None = None
    """Public key to verify by; by default the private key's other half (WEIGHBRIDGE_PUBLIC_KEY)."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Keys of an installation."""
        return cls(settings.home / KEYS_FOLDER, settings.signing_key, settings.public_key)

    def files(self) -> tuple[Path | None, Path]:
        """Files of the private key, where there is one, and of the public key.

        Raises:
            SigningKeyUnusable: A named file is missing or holds no such key.
        """
        if self.public is not None:
            _load_public(self.public)
            return self.private, self.public
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        private = self.private or self.folder / PRIVATE
        # Two processes that make their first artifact at once must not end with halves of two pairs.
        with FileLock(self.folder / ".lock"):
            if self.private is None and not private.exists():
                write_whole(private, _new_private())
            public = self.folder / PUBLIC
            content = _public_of(private)
            if not public.exists() or public.read_bytes() != content:
                write_whole(public, content)
        return private, public


def sign(manifest: Path, keys: KeyPair) -> None:
    """Sign a manifest, in a file beside it.

    Args:
        manifest: The file.
        keys: Where the keys are.

    Raises:
        SigningKeyUnusable: There is no private key, or it cannot be used.
    """
    private, _ = keys.files()
    if private is None:
        raise SigningKeyUnusable(
            "This machine has a public key only, and cannot sign what it makes.",
            "Set WEIGHBRIDGE_SIGNING_KEY to the private key of the same pair.",
            where="WEIGHBRIDGE_PUBLIC_KEY",
        )
    from model_signing import signing

    config = signing.Config().use_elliptic_key_signer(private_key=private)
    with tempfile.TemporaryDirectory(dir=manifest.parent, prefix=".signing-") as folder:
        draft = Path(folder, "signature")
        config.sign(manifest, draft)
        write_whole(signature_path(manifest), draft.read_bytes())


def verify(manifest: Path, name: str, keys: KeyPair) -> None:
    """Check that this installation's key signed a manifest.

    Args:
        manifest: The file; its signature lies beside it.
        name: Name of the artifact, for messages.
        keys: Where the keys are.

    Raises:
        ArtifactUnsigned: There is no signature, or none by our key.
        ArtifactDamaged: The signature is ours, but the manifest was altered after it was signed.
        SigningKeyUnusable: There is no key to verify with.
    """
    path = signature_path(manifest)
    if not path.is_file():
        raise _unsigned(f"{name} is not signed.", path)
    _, public = keys.files()
    statement = _signed_statement(path, public, name)
    resources = statement.get("predicate", {}).get("resources", [])
    signed = {(resource.get("algorithm"), resource.get("digest")) for resource in resources}
    actual = hashlib.sha256(manifest.read_bytes()).hexdigest()
    if statement.get("predicateType") != PREDICATE_TYPE or signed != {("sha256", actual)}:
        raise ArtifactDamaged(
            f"{name} is no longer what was weighed: {manifest.name} was altered after it was signed.",
            "Restore it from the remote store or a backup, or remove the artifact's folder and release again.",
            where=str(manifest),
        )


def _signed_statement(path: Path, public: Path, name: str) -> dict[str, Any]:
    """Read a signature file's statement, after checking its signature by our key (DSSE 1.0, protocol.md)."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    key = _load_public(public)
    try:
        envelope = json.loads(path.read_bytes())["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        kind = str(envelope["payloadType"])
    except (ValueError, KeyError, IndexError, TypeError, binascii.Error, RecursionError):
        raise _unsigned(f"{path.name} of {name} is no signature.", path) from None
    # The signed message is the type and the payload, each after its length.
    message = b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)
    try:
        key.verify(signature, message, ec.ECDSA(_hash_for(key)))
    except InvalidSignature:
        raise _unsigned(f"{name} is not signed by the key of this installation.", public) from None
    if kind != PAYLOAD_TYPE:
        raise _unsigned(f"{path.name} of {name} signs something else than a model.", path)
    statement = json.loads(payload)
    return statement if isinstance(statement, dict) else {}


def _unsigned(what: str, where: Path) -> ArtifactUnsigned:
    return ArtifactUnsigned(
        what,
        "Find out where it comes from. If you trust it, sign it with your key: `weighbridge store sign DIGEST`.",
        where=str(where),
    )


def _hash_for(key: EllipticCurvePublicKey) -> Any:
    """Return the hash function for a curve, as model_signing pairs them."""
    from cryptography.hazmat.primitives import hashes

    return {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.key_size]


def _new_private() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_of(private: Path) -> bytes:
    """Return the public half of a private key's file, as PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(private.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(private, error) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise _unusable(private, "it is of another kind")
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _load_public(public: Path) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(public.read_bytes())
    except (OSError, ValueError) as error:
        raise _unusable(public, error) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise _unusable(public, "it is of another kind")
    return key


def _unusable(path: Path, why: object) -> SigningKeyUnusable:
    return SigningKeyUnusable(
        f"{path.name} holds no key that can sign or verify manifests: {why}.",
        "Name an unencrypted PEM file with an elliptic-curve key (P-256, P-384 or P-521): "
        "`openssl ecparam -name prime256v1 -genkey -noout -out FILE` makes one.",
        where=str(path),
    )
