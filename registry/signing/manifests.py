"""Signatures of manifests: who made an artifact, checked before an engine may start from it.

Only the small file `manifest.json` is signed. It holds the SHA-256 of every other file, so a model is hashed once, by
`Store.verify`, and not a second time for its signature. `manifest.sig` beside it is what OpenSSF's model-signing
writes: a Sigstore bundle with an in-toto statement in a DSSE envelope. Its own command line verifies it:

    model_signing verify key manifest.json --signature manifest.sig --public_key <home>/keys/weighbridge.pub

The bundle is written here, and not by that library: it signs with files and PKCS #11 only, and its import takes 4 to
7 seconds. The tests let its command line judge what is written here.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from registry.signing.envelope import EnvelopeRefused, seal, signed_payload, unseal
from registry.signing.keys import SIGNATURES, KeyPair
from registry.signing.ring import TrustedKey
from registry.signing.statements import STATEMENT_TYPE
from weighbridge.errors import ArtifactDamaged, ArtifactUnsigned
from weighbridge.files import write_whole

PREDICATE_TYPE = "https://model_signing/signature/v1.0"
"""Kind of the statement; source: model_signing 1.1.1, _signing/signing.py."""
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURE_BYTES = 1_000_000
"""Most that is read of a signature. Ours have about 1,200."""


def signature_path(manifest: Path) -> Path:
    """Return the path of a manifest's signature."""
    return manifest.with_suffix(".sig")


def sign(manifest: Path, keys: KeyPair) -> None:
    """Sign a manifest, in a file beside it.

    Args:
        manifest: The file.
        keys: Where the keys are.

    Raises:
        SigningKeyUnusable, SigningKeyMissing, SigningKeyChanged: There is no key to sign with.
    """
    envelope, key_id = seal(_statement(manifest), keys)
    bundle = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_id}, "tlogEntries": []},
        "dsseEnvelope": envelope,
    }
    write_whole(signature_path(manifest), json.dumps(bundle))


def verify(content: bytes, signature: bytes | None, manifest: Path, name: str, keys: KeyPair) -> None:
    """Check that this installation's key signed a manifest.

    Args:
        content: The manifest's bytes, as the caller uses them.
        signature: Content of the file beside it; None if there is none.
        manifest: The file, for messages.
        name: Name of the artifact, for messages.
        keys: Where the keys are.

    Raises:
        ArtifactUnsigned: There is no signature, or none by our key.
        ArtifactDamaged: The signature is ours, but the manifest was altered after it was signed.
        SigningKeyUnusable: A key to verify by cannot be read.
    """
    path = signature_path(manifest)
    if signature is None:
        raise _unsigned(f"{name} is not signed.", path)
    try:
        statement = unseal(_envelope(signature), keys)
    except EnvelopeRefused as error:
        raise _unsigned(f"{path.name} of {name} {error}.", path) from None
    signed = ("sha256", hashlib.sha256(content).hexdigest())
    if statement.get("predicateType") != PREDICATE_TYPE or _signed_digests(statement) != {signed}:
        raise ArtifactDamaged(
            f"{name} is no longer what was weighed: {manifest.name} was altered after it was signed.",
            "Make it again, as with `weighbridge release LINE --fresh`: a fresh copy replaces the altered one.",
            where=str(manifest),
        )


def signed_in(store: Path, key: TrustedKey) -> list[str]:
    """List the SHA-256 of the payloads that a key signed, of the manifests in a store's folder."""
    found = []
    for path in sorted(store.glob(SIGNATURES)):
        try:
            found.append(signed_payload(_envelope(path.read_bytes()), key))
        except (EnvelopeRefused, OSError):
            continue
    return found


def _statement(manifest: Path) -> dict[str, Any]:
    """Return the statement that model_signing makes of a single file."""
    sha256 = hashlib.sha256(manifest.read_bytes()).hexdigest()
    return {
        "_type": STATEMENT_TYPE,
        # The hash of all hashes in the predicate, of which there is one.
        "subject": [{"name": manifest.name, "digest": {"sha256": hashlib.sha256(bytes.fromhex(sha256)).hexdigest()}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [],
            },
            "resources": [{"name": ".", "algorithm": "sha256", "digest": sha256}],
        },
    }


def _envelope(signature: bytes) -> object:
    try:
        bundle = json.loads(signature[:SIGNATURE_BYTES])
    except (ValueError, RecursionError):
        raise EnvelopeRefused("is no signature") from None
    return bundle.get("dsseEnvelope") if isinstance(bundle, dict) else None


def _signed_digests(statement: dict[str, Any]) -> set[tuple[Any, Any]]:
    predicate = statement.get("predicate")
    resources = predicate.get("resources") if isinstance(predicate, dict) else None
    return {
        (str(resource.get("algorithm")), str(resource.get("digest")))
        for resource in (resources if isinstance(resources, list) else [])
        if isinstance(resource, dict)
    }


def _unsigned(what: str, where: Path) -> ArtifactUnsigned:
    return ArtifactUnsigned(
        what,
        "Find out where it comes from. If you trust it, sign it with your key: `weighbridge store sign DIGEST`.",
        where=str(where),
    )
