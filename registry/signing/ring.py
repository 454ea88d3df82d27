"""The ring: every key that this installation ever signed with, since when, until when, and what of it still counts.

`<home>/keys/keyring.json` has public keys only, and may be copied to machines that verify. A key of today counts for
all that it signed. An earlier one counts for what it had signed when it was replaced, by the list that was made then:
a date inside a signature says nothing, because whoever stole the key would write an old one.

`<home>/keys/signed.jsonl` is where that list comes from. The digest of everything that is signed is noted there before
the signature is handed out.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from registry.signing import pem
from weighbridge.errors import SigningKeyUnusable
from weighbridge.files import READABLE, write_whole

RING, LEDGER = "keyring.json", "signed.jsonl"
HEX = r"^[0-9a-f]{64}$"


@dataclass(frozen=True)
class TrustedKey:
    """A public key, and what it counts for."""

    id: str
    public_key: str
    signed: frozenset[str] | None = None
    """SHA-256 of the payloads that it counts for; None: of all."""
    refusal: str = ""
    """Why it does not count for others."""

    def counts_for(self, payload_sha256: str) -> bool:
        """Return whether a signature by this key over a payload is believed."""
        return self.signed is None or payload_sha256 in self.signed


class RingKey(BaseModel):
    """A key that is, or was, in use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=HEX)
    public_key: str
    since: AwareDatetime
    until: AwareDatetime | None = None
    """When it was replaced; None: it is in use."""
    revoked: bool = False
    """Whether it was replaced because others may have it."""
    reason: str = ""
    signed: tuple[str, ...] = ()
    """SHA-256 of the payloads that still count, once it was replaced."""

    @classmethod
    def begun_now(cls, public_key: str) -> Self:
        """Put a key into use."""
        return cls(id=pem.key_id(public_key), public_key=public_key, since=now())

    def trusted(self) -> TrustedKey:
        """Return what the key counts for."""
        if self.until is None:
            return TrustedKey(self.id, self.public_key)
        verb = "revoked" if self.revoked else "replaced"
        refusal = (
            f"is signed by the key {self.id[:12]}, which was {verb} on {self.until:%d %B %Y} and had not signed it"
        )
        return TrustedKey(self.id, self.public_key, frozenset(self.signed), refusal)


class Ring(BaseModel):
    """All keys of an installation, oldest first; the last one is in use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[RingKey, ...] = Field(min_length=1)

    @property
    def current(self) -> RingKey:
        """The key that is in use."""
        return self.keys[-1]

    def write(self, folder: Path) -> None:
        """Write the ring into the folder of the keys."""
        write_whole(folder / RING, self.model_dump_json(indent=1, exclude_defaults=True), READABLE)


def parse_ring(content: bytes, where: Path) -> Ring:
    """Read a ring's text.

    Raises:
        SigningKeyUnusable: It is no ring, or has a key that is none.
    """
    try:
        ring = Ring.model_validate_json(content)
    except (ValidationError, RecursionError):
        raise _damaged(where) from None
    for key in ring.keys:
        normal, _ = pem.load_public(key.public_key.encode(), where)
        if pem.key_id(normal) != key.id or normal != key.public_key:
            raise _damaged(where)
    if [key.until is None for key in ring.keys] != [False] * (len(ring.keys) - 1) + [True]:
        raise _damaged(where)
    return ring


def read_ring(folder: Path) -> Ring | None:
    """Read an installation's ring; None if it has none yet.

    Raises:
        SigningKeyUnusable: It cannot be read.
    """
    path = folder / RING
    return parse_ring(pem.read(path), path) if path.exists() else None


def note(folder: Path, key_id: str, payload_sha256: str) -> None:
    """Note what a key is about to have signed. The caller holds the lock of the keys."""
    line = json.dumps({"key": key_id, "sha256": payload_sha256, "at": now().isoformat()})
    descriptor = os.open(folder / LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        # A kill may have left half a line, which would spoil this one.
        file.write(f"\n{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def noted(folder: Path, key_id: str, before: datetime | None = None) -> list[str]:
    """List the SHA-256 of what a key signed, by the notes.

    Args:
        folder: Folder of the keys.
        key_id: The key.
        before: Leave out what was signed at this time or later.
    """
    path, found = folder / LEDGER, []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
            at = datetime.fromisoformat(entry["at"])
            if entry["key"] == key_id and (before is None or at < before):
                found.append(str(entry["sha256"]))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def now() -> datetime:
    """Return this second, UTC."""
    return datetime.now(UTC).replace(microsecond=0)


def _damaged(where: Path) -> SigningKeyUnusable:
    return SigningKeyUnusable(
        f"{where.name} is damaged: it does not list the keys of an installation.",
        "Copy it back from a backup. Nothing that earlier keys signed can be verified without it.",
        where=str(where),
    )
