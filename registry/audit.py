"""The audit log: who changed what and when, in a file that can only grow. Each entry holds the hash of the one before.

The file is `<home>/audit/log.jsonl`, one JSON object a line, appended under a lock and synced before the call returns.
An entry that is edited, removed or moved breaks the chain from there on. A chain alone cannot show that its end was cut
off, or that all of it was rewritten. So note the head's hash elsewhere now and then (`weighbridge audit verify` prints
it), and check the log against it later.

There are two kinds of entries. Weighbridge's own say what it intended: approve, override, state, production, previous
(and so all rollouts and rollbacks), and changes of clients' keys. Their `who` is what the process claims. MLflow's
server writes the others, `mlflow.*` (`registry/server`): one for each request that changed the registry, with the
account that the server verified, the address and the request's id. If both exist for one change, the
server's entry names the person.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from weighbridge.errors import AuditBroken
from weighbridge.settings import Settings, load_settings

FOLDER = "audit"
"""Below the installation's home."""
NOTHING = "0" * 64
"""The previous hash of the first entry."""
NOBODY = "(not signed in)"
"""Account in an entry of a server without accounts; no account may have this name."""
COPIED = "mlflow.create_model_version"
"""Action of the request that *Promote model* and `approve` send."""
ADMIT = "admit"
"""Action of the entry that an approval check leaves; `what` is the digest of the artifact that passed."""
TAIL_BYTES = 65536
"""Bytes read from the end of the log to find its last entry. An entry has a few hundred; its tags are cut."""


class Entry(BaseModel):
    """One change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    """Counts from 1, without a gap."""
    at: str
    """ISO 8601, UTC."""
    who: str
    """Account that MLflow's server signed in (`NOBODY` if it has no accounts). In Weighbridge's own entries: the person
    who approved, else $WEIGHBRIDGE_USER, else the operating system's user."""
    action: str
    """approve, override, found, state, production, previous, key added, key removed, key limit,
    signing key rotated, signing key revoked; `mlflow.<request>` in
    the server's entries."""
    line: str
    """Empty for a key, which is valid for all lines."""
    version: int | None
    """Version of the registered model `<line>`, or of `model` if that is set; None if no version is concerned, or none
    exists yet, as with an override."""
    what: str
    """The state, the digest, a key's name, end and limits, or the fields of the request."""
    reason: str
    model: str = ""
    """Registered model that the request named. Empty in Weighbridge's own entries, as are the next two."""
    address: str = ""
    """Network address of the client."""
    request: str = ""
    """The request's id, also in the header `X-Request-Id` of the answer."""
    previous: str
    """Hash of the previous entry."""
    hash: str
    """SHA-256 of all other fields as JSON with sorted names, without fields that have their default."""

    @property
    def expected_hash(self) -> str:
        """The hash that the entry must have."""
        # Fields that were added later are left out if empty, so that the hashes of older entries stay valid.
        content = json.dumps(self.model_dump(exclude={"hash"}, exclude_defaults=True), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


class Request(BaseModel):
    """Origin of a request to MLflow's server."""

    model_config = ConfigDict(frozen=True)

    model: str
    address: str
    id: str


class AuditLog:
    """The log of one installation.

    Args:
        folder: Folder of the log; by default that of this process's installation.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or load_settings().home / FOLDER) / "log.jsonl"

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Open the audit log of an installation."""
        return cls(settings.home / FOLDER)

    def append(
        self,
        action: str,
        line: str,
        version: int | None,
        *,
        what: str = "",
        reason: str = "",
        who: str = "",
        request: Request | None = None,
    ) -> Entry:
        """Write an entry; it is synced to disk when this returns.

        Args:
            action, line, version, what, reason, who: As in `Entry`. Without `who`, the user of this process.
            request: Origin of the request, in entries of MLflow's server.

        Raises:
            AuditBroken: The last entry cannot be read, so nothing can follow it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            last = self._last()
            fields = {
                "number": last.number + 1 if last else 1,
                "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "who": who or os.environ.get("WEIGHBRIDGE_USER") or getpass.getuser(),
                **{"action": action, "line": line, "version": version, "what": what, "reason": reason},
                "previous": last.hash if last else NOTHING,
            }
            if request is not None:
                fields |= {"model": request.model, "address": request.address, "request": request.id}
            entry = Entry.model_validate({**fields, "hash": ""})
            entry = entry.model_copy(update={"hash": entry.expected_hash})
            with self.path.open("ab") as file:
                file.write(entry.model_dump_json(exclude_defaults=True).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            return entry

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Make other approvals on this machine wait, so that each sees those before it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name("approving.lock")):
            yield

    def entries(self, line: str | None = None) -> Iterator[Entry]:
        """Iterate over all entries, or a line's, oldest first.

        Raises:
            AuditBroken: An entry cannot be read.
        """
        for number, text in enumerate(self._lines(), 1):
            entry = self._read(text, number)
            if line in (None, entry.line):
                yield entry

    def approver(self, line: str, version: int) -> str:
        """Name the person who created a version of `<line>`: the account that MLflow's server saw, else the name given
        to `approve`; empty if the log has neither.
        """
        entries = [entry for entry in self.entries(line) if entry.version == version]
        copies = [entry for entry in entries if entry.action == COPIED and entry.model == line]
        signed_in = [entry.who for entry in copies if entry.who != NOBODY]
        named = [entry.who for entry in entries if entry.action == "approve"]
        return next(iter(signed_in or named), "")

    def verify(self, head: str = "") -> Entry | None:
        """Check every entry against the one before.

        Args:
            head: Hash that was noted earlier. An entry must have it.

        Returns:
            The last entry; None if the log is empty.

        Raises:
            AuditBroken: An entry was edited, or does not follow the one before; the first such entry is named. Or no
                entry has the noted hash.
        """
        last, head_found = None, head in ("", NOTHING)
        for number, entry in enumerate(self.entries(), 1):
            if entry.hash != entry.expected_hash:
                raise self._broken(number, "was edited: its content is not what its hash says")
            if (entry.number, entry.previous) != (number, last.hash if last else NOTHING):
                raise self._broken(number, "does not follow the one before: an entry was removed, added or moved")
            last, head_found = entry, head_found or entry.hash == head
        if not head_found:
            raise AuditBroken(
                f"No entry has the hash {head[:12]}… that was noted: the log was cut off or rewritten.",
                "Compare it with a backup from the time of the note.",
                where=str(self.path),
            )
        return last

    def copy(self, target: Path) -> list[Entry]:
        """Copy the log, while no other process writes to it.

        Returns:
            The entries.

        Raises:
            AuditBroken: An entry cannot be read.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            lines = self._lines()
        target.write_bytes(b"".join(line + b"\n" for line in lines))
        return [self._read(line, number) for number, line in enumerate(lines, 1)]

    def _lines(self) -> list[bytes]:
        """Read all whole lines. A line that a kill left unfinished does not count: its call never returned."""
        if not self.path.is_file():
            return []
        return self.path.read_bytes().split(b"\n")[:-1]

    def _last(self) -> Entry | None:
        """Read the last entry, and cut off an unfinished one that a kill left after it."""
        if not self.path.is_file():
            return None
        with self.path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            # The whole file, if the tail does not hold one whole entry and the end of the one before.
            for start in (max(0, size - TAIL_BYTES), 0):
                file.seek(start)
                whole, newline, rest = file.read().rpartition(b"\n")
                if start == 0 or b"\n" in whole:
                    break
            file.truncate(size - len(rest))
        if not newline:
            return None
        text = whole.rpartition(b"\n")[2]
        try:
            return Entry.model_validate_json(text)
        except ValidationError:
            return self._read(text, len(self._lines()))

    def _read(self, text: bytes, number: int) -> Entry:
        try:
            return Entry.model_validate_json(text)
        except ValidationError:
            raise self._broken(number, "cannot be read") from None

    def _broken(self, number: int, why: str) -> AuditBroken:
        return AuditBroken(
            f"Entry {number} {why}.",
            "Keep the file as evidence, and compare it with a backup. Entries from this one on prove nothing.",
            where=f"{self.path}, line {number}",
        )
