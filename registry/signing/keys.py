"""Where an installation's keys are: what it signs with, and what it verifies by.

Verifying reads public keys alone. So services and engines need no access to the private one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from filelock import FileLock

from registry.signing import pem, ring
from registry.signing.ring import Ring, RingKey, TrustedKey
from registry.signing.signer import is_uri, sign_with
from weighbridge.errors import SigningKeyMissing, SigningKeyUnusable
from weighbridge.files import READABLE, write_whole
from weighbridge.settings import Settings

KEYS_FOLDER = "keys"
PRIVATE, PUBLIC, NEXT = "weighbridge.key", "weighbridge.pub", "weighbridge.key.next"
SIGNATURES = "*/*/manifest.sig"
"""Signed manifests, below the store's folder."""
AUDIT_LOG = "audit/log.jsonl"
APPROVAL = b'"action":"approve"'
"""An entry of the audit log that no installation has before it signed something."""
ONE_KEY = re.compile(rb"-----BEGIN [^-]+-----.*?-----END [^-]+-----", re.DOTALL)


@dataclass(frozen=True)
class KeyPair:
    """Keys of an installation: the pair of today, and the public halves of earlier ones.

    With a public key and no private one this machine only verifies.
    """

    folder: Path
    """Holds the installation's own pair, made at first use, and the ring of all keys."""
    private: str | None = None
    """Private key to use instead of the installation's own: a file, or the URI of a key in a KMS
    (WEIGHBRIDGE_SIGNING_KEY)."""
    public: Path | None = None
    """Public keys to verify by: PEM, or a copy of a ring (WEIGHBRIDGE_PUBLIC_KEY)."""
    store: Path | None = None
    """Folder of the artifact store; signed manifests in it show that there was a key."""
    audit_log: Path | None = None
    """The audit log's file; approvals in it show that there was a key, also after a restore."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Keys of an installation."""
        return cls(
            settings.home / KEYS_FOLDER,
            settings.signing_key,
            settings.public_key,
            settings.store_folder,
            settings.home / AUDIT_LOG,
        )

    def prepare(self) -> None:
        """Make the first pair of a new installation, or the ring of one from before there were rings.

        Raises:
            SigningKeyMissing: The pair is gone.
            SigningKeyUnusable: A named file is missing or holds no such key.
        """
        if self.public is not None and self.private is None:
            self.trusted()
            return
        with self.lock():
            self.current_ring()

    def trusted(self) -> list[TrustedKey]:
        """List the keys to verify by, that of today first. Nothing is made, and no private key is needed.

        Raises:
            SigningKeyUnusable: A file of keys cannot be read.
        """
        own = ring.read_ring(self.folder)
        if self.public is None:
            return _trusted(own or self.ring_of_old())
        content = pem.read(self.public)
        if content.lstrip().startswith(b"{"):
            return _trusted(ring.parse_ring(content, self.public))
        blocks = ONE_KEY.findall(content) or [content]
        named = [
            TrustedKey(pem.key_id(key), key) for key, _ in (pem.load_public(block, self.public) for block in blocks)
        ]
        if own and own.current.id in {key.id for key in named}:
            named += [key for key in _trusted(own) if key.id not in {other.id for other in named}]
        return named

    def sign(self, message: bytes, payload_sha256: str) -> tuple[str, bytes]:
        """Sign with the key of today.

        Args:
            message: What is signed.
            payload_sha256: SHA-256 by which the signature is noted, and later believed.

        Returns:
            The key's id, and the signature.

        Raises:
            SigningKeyMissing, SigningKeyChanged, SigningKeyUnusable: There is no key to sign with.
        """
        if self.public is not None and self.private is None:
            raise SigningKeyUnusable(
                "This machine has a public key only, and cannot sign what it makes.",
                "Set WEIGHBRIDGE_SIGNING_KEY to the private key of the same pair.",
                where="WEIGHBRIDGE_PUBLIC_KEY",
            )
        # Rotation holds the lock too: what is signed is noted before its key is replaced, or signed by the next one.
        with self.lock():
            key = self.current_ring().current
            signature = sign_with(self.private_now(), key, message)
            ring.note(self.folder, key.id, payload_sha256)
        return key.id, signature

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the keys, so that two processes neither make two first pairs nor rotate at once."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(self.folder / ".lock"):
            yield

    def private_now(self) -> str:
        """Return the private key that is in use: a file, or a URI."""
        return self.private or str(self.folder / PRIVATE)

    def can_sign(self) -> bool:
        """Return whether this user can read the private key; one in a service is taken to sign."""
        if self.public is not None and self.private is None:
            return False
        private = self.private_now()
        return is_uri(private) or os.access(private, os.R_OK)

    def current_ring(self) -> Ring:
        """Return the ring, made with the first pair. The caller holds the lock.

        Raises:
            SigningKeyMissing: There was a pair once, and it is gone.
            SigningKeyUnusable: A file cannot be used.
        """
        found = self.known_ring()
        if found is not None:
            return found
        private = self.folder / PRIVATE
        if self.private is None and not private.exists():
            if trace := self._trace():
                raise self._missing(trace)
            write_whole(private, pem.new_private())
        first = Ring(keys=(RingKey.begun_now(self.configured_public()),))
        first.write(self.folder)
        self.write_public(first)
        return first

    def known_ring(self) -> Ring | None:
        """Return the ring, if there is one, after a rotation that was killed. The caller holds the lock."""
        found = ring.read_ring(self.folder)
        if found is not None:
            self._finish_rotation(found)
        return found

    def listed(self) -> tuple[RingKey, ...]:
        """List every key that this installation signed with, oldest first."""
        found = ring.read_ring(self.folder) or self.ring_of_old()
        return found.keys if found else ()

    def configured_public(self) -> str:
        """Return the public half of the private key that is in use, as PEM.

        Raises:
            SigningKeyUnusable: It cannot be read; or the key is in a KMS and no public half is named.
        """
        private = self.private_now()
        if not is_uri(private):
            return pem.public_pem_of(pem.load_private(Path(private)))
        if self.public is None:
            raise SigningKeyUnusable(
                f"{private} is in a key management service, and its public half is not named.",
                "Export the public half as PEM, and set WEIGHBRIDGE_PUBLIC_KEY to that file.",
                where="WEIGHBRIDGE_SIGNING_KEY",
            )
        return pem.load_public(pem.read(self.public), self.public)[0]

    def write_public(self, current: Ring) -> None:
        """Write the public key of today as PEM, for tools other than ours."""
        write_whole(self.folder / PUBLIC, current.current.public_key, READABLE)

    def _finish_rotation(self, found: Ring) -> None:
        """Complete a rotation that was killed after it had written the ring, or drop one killed before."""
        draft = self.folder / NEXT
        if self.private is None and draft.exists():
            if pem.public_pem_of(pem.load_private(draft)) == found.current.public_key:
                draft.replace(self.folder / PRIVATE)
                self.write_public(found)
            else:
                draft.unlink()

    def ring_of_old(self) -> Ring | None:
        """Return the one key of an installation from before there were rings."""
        path = self.folder / PUBLIC
        if path.exists():
            public_key, _ = pem.load_public(pem.read(path), path)
        elif (path := Path(self.private_now())).is_file():
            public_key = pem.public_pem_of(pem.load_private(path))
        else:
            return None
        return Ring(keys=(RingKey.begun_now(public_key),))

    def _trace(self) -> Path | None:
        """Find a file that shows that there was a key before."""
        for name in (PUBLIC, ring.LEDGER):
            if (self.folder / name).exists():
                return self.folder / name
        if self.store and (signature := next(self.store.glob(SIGNATURES), None)):
            return signature
        if self.audit_log and self.audit_log.is_file():
            return self.audit_log if APPROVAL in self.audit_log.read_bytes() else None
        return None

    def _missing(self, trace: Path) -> SigningKeyMissing:
        return SigningKeyMissing(
            f"The signing key {PRIVATE} is gone, and this installation has signed before: there is {trace}.",
            f"Copy {PRIVATE} back from its safe place. If it is lost, `weighbridge keys rotate` begins a new pair.",
            where=str(self.folder),
        )


def _trusted(found: Ring | None) -> list[TrustedKey]:
    return [key.trusted() for key in reversed(found.keys)] if found else []
