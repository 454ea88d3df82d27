"""The file of a backup: a line with a checksum, a signed statement, and a gzipped tar, read once they are checked.

    weighbridge-backup 2 <SHA-256 of all that follows this line>
    <DSSE envelope: this installation's signature over the SHA-256 of the archive>
    <the archive: `tail -n +3 FILE | tar tz` lists it>

So a flipped bit anywhere is found by the checksum, and an altered file by the signature, before the archive is parsed.
Backups of earlier versions are a gzipped tar alone. They prove nothing, and are read only if that is asked for.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from registry.signing import KeyPair, read_statement, sign_statement
from weighbridge.errors import BackupDamaged, BackupUnsigned, SignatureRefused
from weighbridge.files import PRIVATE, naming_a_full_disk

MAGIC = b"weighbridge-backup 2 "
GZIP = b"\x1f\x8b"
FIRST_LINE_BYTES = len(MAGIC) + 64 + 1
LONGEST_ENVELOPE = 1_000_000
"""Bytes of the signature. Ours have about 1,500."""
PREDICATE_TYPE = "https://weighbridge.dev/backup/v1"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """The archive inside a backup's file, checked."""

    file: BufferedReader
    start: int
    """Where the archive begins in the file."""
    size: int
    sha256: str
    signed: bool

    def reader(self) -> HashingReader:
        """Read the archive again, from its beginning."""
        self.file.seek(self.start)
        return HashingReader(self.file)


class HashingReader:
    """Reads a file and hashes what was read, so that a file that changes meanwhile is noticed."""

    def __init__(self, file: BufferedReader) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read some bytes; a call without a size reads no more than a chunk."""
        data = self._file.read(CHUNK if size < 0 else size)
        self._hash.update(data)
        return data

    def finish(self) -> str:
        """Read what is left, and return the SHA-256 of everything."""
        while self.read(CHUNK):
            pass
        return self._hash.hexdigest()


def seal(archive: Path, target: Path, keys: KeyPair, predicate: dict[str, Any]) -> None:
    """Write a backup's file from its archive; it appears whole or not at all.

    Args:
        archive: The gzipped tar.
        target: File to write, which must not exist. Only its owner may read it.
        keys: The installation's keys.
        predicate: What is said about the backup, for whoever reads the signature alone.

    Raises:
        DiskFull: The disk is full.
        OSError: It cannot be written, or exists.
        SigningKeyUnusable, SigningKeyMissing, SigningKeyChanged: There is no key to sign with.
    """
    with archive.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        envelope = sign_statement(
            keys, predicate_type=PREDICATE_TYPE, subject={"backup": sha256}, predicate=predicate
        ).encode()
        checksum = hashlib.sha256(envelope + b"\n")
        file.seek(0)
        while data := file.read(CHUNK):
            checksum.update(data)
        file.seek(0)
        draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with naming_a_full_disk(target):
            try:
                with os.fdopen(os.open(draft, flags, PRIVATE), "wb") as out:
                    out.write(MAGIC + checksum.hexdigest().encode() + b"\n" + envelope + b"\n")
                    shutil.copyfileobj(file, out, CHUNK)
                    out.flush()
                    os.fsync(out.fileno())
                _put(draft, target)
            finally:
                draft.unlink(missing_ok=True)


@contextmanager
def opened(source: Path, keys: KeyPair, *, unsigned: bool = False) -> Iterator[Archive]:
    """Open a backup's file, and check its checksum and its signature.

    Args:
        source: The file.
        keys: The installation's keys.
        unsigned: Whether a backup counts that no key of this installation signed.

    Raises:
        BackupDamaged: It is no backup, or a bit of it was flipped.
        BackupUnsigned: It is signed by no key of this installation, and `unsigned` is not set.
        SigningKeyUnusable: A key to verify by cannot be read.
        OSError: It cannot be read.
    """
    with source.open("rb") as file:
        first = file.read(FIRST_LINE_BYTES)
        if first.startswith(GZIP):
            yield _old(file, source, unsigned)
            return
        checksum = first[len(MAGIC) : -1]
        if not first.startswith(MAGIC) or len(first) != FIRST_LINE_BYTES or not first.endswith(b"\n"):
            raise damaged(source, "it does not begin like one")
        # A checksum in capitals would be right as well, and is not what was written.
        if hashlib.file_digest(file, "sha256").hexdigest().encode() != checksum:
            raise damaged(source, "it is not what was written")
        file.seek(FIRST_LINE_BYTES)
        envelope = file.readline(LONGEST_ENVELOPE)
        if not envelope.endswith(b"\n"):
            raise damaged(source, "it has no signature")
        start = file.tell()
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        signed = True
        try:
            read_statement(keys, envelope[:-1], predicate_type=PREDICATE_TYPE, subject_sha256=sha256)
        except SignatureRefused as error:
            if not unsigned:
                raise _unsigned(source, error.what) from None
            signed = False
        yield Archive(file, start, os.fstat(file.fileno()).st_size - start, sha256, signed)


def _put(draft: Path, target: Path) -> None:
    """Give a finished file its name, unless a file of that name has appeared meanwhile."""
    try:
        os.link(draft, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:
        # Some network file systems know no links.
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        draft.rename(target)


def damaged(source: Path, why: str) -> BackupDamaged:
    """Make the error for a file that is not what was written."""
    return BackupDamaged(
        f"This backup is damaged, or is none: {why}.", "Take another backup; nothing was changed.", where=str(source)
    )


def _old(file: BufferedReader, source: Path, unsigned: bool) -> Archive:
    if not unsigned:
        raise _unsigned(source, "It is of a version that did not sign backups, or not from Weighbridge.")
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Archive(file, 0, os.fstat(file.fileno()).st_size, sha256, signed=False)


def _unsigned(source: Path, why: str) -> BackupUnsigned:
    return BackupUnsigned(
        f"This installation did not sign this backup. {why}",
        "Copy the `keys` folder of the installation that made it into this home, or name its public key "
        "(WEIGHBRIDGE_PUBLIC_KEY). If you know where the file comes from and that nobody altered it, give --unsigned.",
        where=str(source),
    )
