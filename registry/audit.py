"""Who changed what and when, in a log that can only grow: each entry holds the hash of the one before.

One file, `<home>/audit/log.jsonl`, one JSON object a line, appended under a lock and synced before the call returns.
An entry that is edited, removed or moved breaks the chain from there on. What a chain alone cannot show is that its end
was cut off, or all of it written anew: note the head's hash elsewhere now and then (`weighbridge audit verify` prints
it) and hold the log against it later.

It has what goes through Weighbridge: approvals by command, every state of a version, every move of an alias, and so all
rollouts and rollbacks. A click in MLflow's page is not in it before `promote` acts on it.
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

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from weighbridge.errors import AuditBroken
from weighbridge.settings import load_settings

NOTHING = "0" * 64
"""What the first entry has before it."""


class Entry(BaseModel):
    """One thing that happened."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    """From 1 on, without a gap."""
    at: str
    """ISO 8601, UTC."""
    who: str
    """$WEIGHBRIDGE_USER, else the operating system's user; with an approval the one who approved."""
    action: str
    """approve, override, state, production, previous."""
    line: str
    version: int | None
    """Of the registered model `<line>`; None where an alias was taken away, or an override has no version yet."""
    what: str
    """The state, or where it came from."""
    reason: str
    previous: str
    """Hash of the entry before."""
    hash: str
    """SHA-256 of all other fields, as JSON with sorted names."""

    @property
    def expected_hash(self) -> str:
        """What `hash` must be."""
        content = json.dumps(self.model_dump(exclude={"hash"}), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


class AuditLog:
    """The log of one installation.

    Args:
        folder: where it lies; the installation's by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or load_settings().home / "audit") / "log.jsonl"

    def append(
        self, action: str, line: str, version: int | None, *, what: str = "", reason: str = "", who: str = ""
    ) -> Entry:
        """Write an entry down; it is on the disk when this returns.

        Raises:
            AuditBroken: the last entry is not one, so that nothing can follow it.
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
            entry = Entry.model_validate({**fields, "hash": ""})
            entry = entry.model_copy(update={"hash": entry.expected_hash})
            with self.path.open("ab") as file:
                file.write(entry.model_dump_json().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            return entry

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Keep other approvals on this machine waiting, so that two at once see each other."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name("approving.lock")):
            yield

    def entries(self, line: str | None = None) -> Iterator[Entry]:
        """All entries, or a line's, oldest first.

        Raises:
            AuditBroken: one cannot be read.
        """
        for number, text in enumerate(self._lines(), 1):
            entry = self._read(text, number)
            if line in (None, entry.line):
                yield entry

    def verify(self, head: str = "") -> Entry | None:
        """Hold every entry against the one before.

        Args:
            head: hash that was noted earlier; an entry must have it.

        Returns:
            The last entry; None of an empty log.

        Raises:
            AuditBroken: the first entry that was edited, or that does not follow the one before; or no entry has
                the hash that was noted.
        """
        last, seen = None, head in ("", NOTHING)
        for number, entry in enumerate(self.entries(), 1):
            if entry.hash != entry.expected_hash:
                raise self._broken(number, "was edited: its content is not what its hash says")
            if (entry.number, entry.previous) != (number, last.hash if last else NOTHING):
                raise self._broken(number, "does not follow the one before: an entry was removed, added or moved")
            last, seen = entry, seen or entry.hash == head
        if not seen:
            raise AuditBroken(
                f"No entry has the hash {head[:12]}… that was noted: the log was cut off or written anew.",
                "Compare it with a backup from the time of the note.",
                where=str(self.path),
            )
        return last

    def _lines(self) -> list[bytes]:
        """Whole lines; one that a kill left unfinished was never promised to anybody."""
        if not self.path.is_file():
            return []
        return self.path.read_bytes().split(b"\n")[:-1]

    def _last(self) -> Entry | None:
        """The last entry; what a kill left of one after it is taken away."""
        lines = self._lines()
        whole = sum(len(text) + 1 for text in lines)
        if self.path.is_file() and self.path.stat().st_size > whole:
            os.truncate(self.path, whole)
        return self._read(lines[-1], len(lines)) if lines else None

    def _read(self, text: bytes, number: int) -> Entry:
        try:
            return Entry.model_validate_json(text)
        except ValidationError:
            raise self._broken(number, "cannot be read") from None

    def _broken(self, number: int, why: str) -> AuditBroken:
        return AuditBroken(
            f"Entry {number} {why}.",
            "Keep the file as evidence, and compare it with a backup; what follows this entry proves nothing.",
            where=f"{self.path}, line {number}",
        )
