"""Who changed what and when, in a log that can only grow: each entry holds the hash of the one before.

One file, `<home>/audit/log.jsonl`, one JSON object a line, appended under a lock and synced before the call returns.
An entry that is edited, removed or moved breaks the chain from there on. What a chain alone cannot show is that its end
was cut off, or all of it written anew: note the head's hash elsewhere now and then (`weighbridge audit verify` prints
it) and hold the log against it later.

Two kinds of entries stand in it. Weighbridge's own say what it meant: approve, override, state, production, previous,
and so all rollouts and rollbacks, and changes of clients' keys; who is whoever its process says. MLflow's server writes
the others, `mlflow.*` (`registry/server`): one for each request that changed the registry, whoever sent it, with the
name that the server checked, the address and the request's id. Where the two speak of one thing, the server's names
who did it.
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
"""What the first entry has before it."""
NOBODY = "(not signed in)"
"""Who sent a request to a server that asks for no name; no account may be called so."""
COPIED = "mlflow.create_model_version"
"""The request that *Promote model* sends, and `approve` too."""
TAIL_BYTES = 65536
"""Read from the log's end to find its last entry; one is a few hundred bytes, and the tags in it are cut."""


class Entry(BaseModel):
    """One thing that happened."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    """From 1 on, without a gap."""
    at: str
    """ISO 8601, UTC."""
    who: str
    """Whom MLflow's server signed in (`NOBODY` where it asks for no name); of Weighbridge's own entries
    $WEIGHBRIDGE_USER, else the operating system's user, with an approval the one who approved."""
    action: str
    """approve, override, found, state, production, previous, key added, key removed, key limit; `mlflow.<request>` of
    the server's."""
    line: str
    """Empty of a key, which is good for all lines."""
    version: int | None
    """Of the registered model `<line>`, or of `model` where one is named; None where none is meant, or none
    exists yet, as of an override."""
    what: str
    """The state, where it came from, a key's name, end and limits, or the fields of the request."""
    reason: str
    model: str = ""
    """Registered model that the request named; empty in Weighbridge's own entries, as are the next two."""
    address: str = ""
    """Where the request came from."""
    request: str = ""
    """Its id, which the answer's header `X-Request-Id` has too."""
    previous: str
    """Hash of the entry before."""
    hash: str
    """SHA-256 of all other fields, as JSON with sorted names; fields that are empty by default are left out."""

    @property
    def expected_hash(self) -> str:
        """What `hash` must be."""
        # Fields that came later are left out where they are empty: the older entries' hashes stay what they were.
        content = json.dumps(self.model_dump(exclude={"hash"}, exclude_defaults=True), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


class Request(BaseModel):
    """What MLflow's server knows of a request beyond what it asked for."""

    model_config = ConfigDict(frozen=True)

    model: str
    address: str
    id: str


class AuditLog:
    """The log of one installation.

    Args:
        folder: where it lies; the installation's by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or load_settings().home / FOLDER) / "log.jsonl"

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The audit log of an installation."""
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
        """Write an entry down; it is on the disk when this returns.

        Args:
            request: where MLflow's server writes it.

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

    def approver(self, line: str, version: int) -> str:
        """Who made a version of `<line>`, as MLflow's server saw it, else as `approve` said; empty when neither did."""
        made = [one for one in self.entries(line) if one.version == version]
        signed_in = [one.who for one in made if one.action == COPIED and one.model == line and one.who != NOBODY]
        return next(iter(signed_in or [one.who for one in made if one.action == "approve"]), "")

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

    def copy(self, target: Path) -> list[Entry]:
        """Write a copy of all whole entries, none of which is being written meanwhile.

        Returns:
            The entries.

        Raises:
            AuditBroken: one cannot be read.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            lines = self._lines()
        target.write_bytes(b"".join(line + b"\n" for line in lines))
        return [self._read(line, number) for number, line in enumerate(lines, 1)]

    def _lines(self) -> list[bytes]:
        """Whole lines; one that a kill left unfinished was never promised to anybody."""
        if not self.path.is_file():
            return []
        return self.path.read_bytes().split(b"\n")[:-1]

    def _last(self) -> Entry | None:
        """The last entry; what a kill left of one after it is taken away."""
        if not self.path.is_file():
            return None
        with self.path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            # All of it, where not even one whole entry and the end of the one before lie in the tail.
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
            "Keep the file as evidence, and compare it with a backup; what follows this entry proves nothing.",
            where=f"{self.path}, line {number}",
        )
