"""The file of a backup: a line with a checksum, a signed statement, and a gzipped tar, read once they are checked.

    weighbridge-backup 2 <SHA-256 of all that follows this line>
    <DSSE envelope: this installation's signature over the SHA-256 of the archive>
    <the archive: `tail -n +3 FILE | tar tz` lists it>

With production in it:

    weighbridge-backup 3 <SHA-256 of all from the next line to the archive's end> <size of the archive>
    <DSSE envelope, as above>
    <the secrets, encrypted by a passphrase (secrets.py), base64>
    <the archive>
    <the weights: file after file, as the archive's listing has them with size and SHA-256>

So a flipped bit anywhere is found by the checksum, and an altered file by the signature, before the archive is parsed.
The weights are too large to be read twice: each file counts once its hash is the signed one.
Backups of earlier versions are a gzipped tar alone. They prove nothing, and are read only if that is asked for.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from registry.signing import KeyPair, read_statement, sign_statement
from weighbridge.errors import BackupDamaged, BackupUnsigned, SignatureRefused
from weighbridge.files import PRIVATE, naming_a_full_disk

MAGIC = b"weighbridge-backup 2 "
WITH_WEIGHTS = b"weighbridge-backup 3 "
SIZE_DIGITS = 20
GZIP = b"\x1f\x8b"
LONGEST_ENVELOPE = 1_000_000
"""Bytes of the signature. Ours have about 1,500."""
LONGEST_SECRETS = 64_000_000
"""Bytes of the encrypted secrets, of which each artifact that was ever signed takes about 100."""
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
    keys: KeyPair
    """The keys that its signature was checked by, and that its artifacts must be signed by."""
    secrets: bytes = b""
    """The encrypted secrets, base64; empty in a backup without production."""

    @property
    def weights_start(self) -> int:
        """Where the weights begin in the file."""
        return self.start + self.size

    def reader(self) -> HashingReader:
        """Read the archive again, from its beginning."""
        self.file.seek(self.start)
        return HashingReader(self.file, self.size)


class HashingReader:
    """Reads a file and hashes what was read, so that a file that changes meanwhile is noticed."""

    def __init__(self, file: BufferedReader, size: int) -> None:
        self._file, self._hash, self._left = file, hashlib.sha256(), size

    def read(self, size: int = -1) -> bytes:
        """Read some bytes; a call without a size reads no more than a chunk."""
        data = self._file.read(min(CHUNK if size < 0 else size, self._left))
        self._left -= len(data)
        self._hash.update(data)
        return data

    def finish(self) -> str:
        """Read what is left, and return the SHA-256 of everything."""
        while self.read(CHUNK):
            pass
        return self._hash.hexdigest()


def seal(
    archive: Path,
    target: Path,
    keys: KeyPair,
    predicate: dict[str, Any],
    encrypted: bytes = b"",
    write_weights: Callable[[IO[bytes]], None] | None = None,
) -> None:
    """Write a backup's file from its archive; it appears whole or not at all.

    Args:
        archive: The gzipped tar, in a temporary folder on the target's disk, where the draft is written too.
        target: File to write, which must not exist. Only its owner may read it.
        keys: The installation's keys.
        predicate: What is said about the backup, for whoever reads the signature alone.
        encrypted: The encrypted secrets, base64.
        write_weights: Appends the weights to a file.

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
        head = envelope + b"\n" + (encrypted + b"\n" if write_weights else b"")
        checksum = hashlib.sha256(head)
        file.seek(0)
        while data := file.read(CHUNK):
            checksum.update(data)
        size = file.tell()
        first = _first_line(checksum.hexdigest(), size) if write_weights else MAGIC + checksum.hexdigest().encode()
        file.seek(0)
        draft = archive.with_name(f".{target.name}.{secrets.token_hex(4)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with naming_a_full_disk(target):
            try:
                with os.fdopen(os.open(draft, flags, PRIVATE), "wb") as out:
                    out.write(first + b"\n" + head)
                    shutil.copyfileobj(file, out, CHUNK)
                    if write_weights:
                        write_weights(out)
                    out.flush()
                    os.fsync(out.fileno())
                _put(draft, target)
            finally:
                draft.unlink(missing_ok=True)


def _first_line(checksum: str, size: int) -> bytes:
    return WITH_WEIGHTS + checksum.encode() + b" %0*d" % (SIZE_DIGITS, size)


@contextmanager
def opened(
    source: Path,
    keys: KeyPair,
    *,
    unsigned: bool = False,
    keys_inside: Callable[[bytes], KeyPair | None] = lambda _: None,
) -> Iterator[Archive]:
    """Open a backup's file, and check its checksum and its signature.

    Args:
        source: The file.
        keys: The installation's keys.
        unsigned: Whether a backup counts that no key of this installation signed.
        keys_inside: Finds the keys among the encrypted secrets. Whoever wrote them knew the passphrase, so a backup
            that they signed counts too.

    Raises:
        BackupDamaged: It is no backup, or a bit of it was flipped.
        BackupUnsigned: It is signed by no key of this installation, and `unsigned` is not set.
        SigningKeyUnusable: A key to verify by cannot be read.
        OSError: It cannot be read.
    """
    with source.open("rb") as file:
        first = file.readline(len(WITH_WEIGHTS) + 64 + 1 + SIZE_DIGITS + 1)
        if first.startswith(GZIP):
            yield _old(file, source, keys, unsigned)
            return
        has_weights, checksum = first.startswith(WITH_WEIGHTS), first[len(MAGIC) :][:64]
        begun, end = file.tell(), os.fstat(file.fileno()).st_size
        digits = first[len(WITH_WEIGHTS) + 65 : -1] if has_weights else b""
        archive_size = int(digits) if digits.isdigit() else 0
        expected = _first_line(checksum.decode("latin-1"), archive_size) if has_weights else MAGIC + checksum
        if first != expected + b"\n" or len(checksum) != 64:
            raise damaged(source, "it does not begin like one")
        envelope = file.readline(LONGEST_ENVELOPE)
        encrypted = file.readline(LONGEST_SECRETS) if has_weights else b""
        start = file.tell()
        size_bytes = archive_size if has_weights else end - start
        if start + size_bytes > end:
            raise damaged(source, "its end is missing")
        # A checksum in capitals would be right as well, and is not what was written.
        if _sha256(file, begun, start + size_bytes - begun).encode() != checksum:
            raise damaged(source, "it is not what was written")
        if not envelope.endswith(b"\n") or (has_weights and not encrypted.endswith(b"\n")):
            raise damaged(source, "it has no signature")
        sha256 = _sha256(file, start, size_bytes)
        believed, signed = keys, _is_signed(keys, envelope, sha256)
        if signed is not None and (inside := keys_inside(encrypted[:-1])):
            believed, signed = inside, _is_signed(inside, envelope, sha256)
        if signed is not None and not unsigned:
            raise _unsigned(source, signed)
        yield Archive(file, start, size_bytes, sha256, signed is None, believed, encrypted[:-1])


def _is_signed(keys: KeyPair, envelope: bytes, sha256: str) -> str | None:
    """Return why a signature does not count; None if it does."""
    try:
        read_statement(keys, envelope[:-1], predicate_type=PREDICATE_TYPE, subject_sha256=sha256)
    except SignatureRefused as error:
        return error.what
    return None


def _sha256(file: BufferedReader, start: int, size: int) -> str:
    file.seek(start)
    return HashingReader(file, size).finish()


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


def _old(file: BufferedReader, source: Path, keys: KeyPair, unsigned: bool) -> Archive:
    if not unsigned:
        raise _unsigned(source, "It is of a version that did not sign backups, or not from Weighbridge.")
    size = os.fstat(file.fileno()).st_size
    return Archive(file, 0, size, _sha256(file, 0, size), signed=False, keys=keys)


def _unsigned(source: Path, why: str) -> BackupUnsigned:
    return BackupUnsigned(
        f"This installation did not sign this backup. {why}",
        "Copy the `keys` folder of the installation that made it into this home, or name its public key "
        "(WEIGHBRIDGE_PUBLIC_KEY). If you know where the file comes from and that nobody altered it, give --unsigned.",
        where=str(source),
    )
