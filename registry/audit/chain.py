"""The chain of entries: each follows the one before, and none that was noted elsewhere is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from registry.audit.entry import NOTHING, RESTORED, Entry, Unreadable, read_entry
from registry.audit.note import Head, NotedHead
from weighbridge.errors import AuditBroken

GIVEN_UP = re.compile(r", instead of ([0-9]{1,12}) ([0-9a-f]{64})\Z")
"""How an entry about a restore names the head that the log had before."""
EVIDENCE = "Keep the file as evidence, and compare it with a backup. Entries from this one on prove nothing."


class Chain:
    """Checks lines, one after the other, as the log that they are.

    Args:
        where: The log's path, for messages.
        noted: Heads that were noted, by who noted them. Entries must have these numbers and hashes.
        head: A hash that was noted by hand; an entry must have it.
    """

    def __init__(self, where: str, noted: Sequence[tuple[str, Head]] = (), head: str = "") -> None:
        self.last: Entry | None = None
        self.given_up = 0
        """Number of the last entry that a restore took back; a witness's notes up to it may differ from the log."""
        self._given_up_heads: set[tuple[int, str]] = set()
        self._where = where
        self._noted = noted
        self._head, self._head_found = head, head in ("", NOTHING)
        self._numbers = {note.number for _, note in noted}
        self._hashes: dict[int, str] = {}

    def read(self, lines: Iterable[bytes]) -> Entry | None:
        """Check all lines, each with its newline, and then the notes; return the last entry.

        Raises:
            AuditBroken: The first line that is wrong, or the note that the log does not keep.
        """
        for line in lines:
            self.add(line)
        self.finish()
        return self.last

    def add(self, line: bytes) -> None:
        """Check the next line, with its newline.

        Raises:
            AuditBroken: It is no entry, or does not follow the one before.
        """
        number = self.last.number + 1 if self.last else 1
        if not line.endswith(b"\n"):
            raise self.broken(
                number,
                "is unfinished",
                "A kill or a full disk may have cut it off while it was written: then the next entry puts it aside. "
                "Otherwise compare the log with a backup.",
            )
        try:
            entry = read_entry(line[:-1])
        except Unreadable as error:
            raise self.broken(number, str(error)) from None
        if entry.hash != entry.expected_hash:
            raise self.broken(number, "was edited: its content is not what its hash says")
        if (entry.number, entry.previous) != (number, self.last.hash if self.last else NOTHING):
            raise self.broken(number, "does not follow the one before: an entry was removed, added or moved")
        if entry.number in self._numbers:
            self._hashes[entry.number] = entry.hash
        if entry.action == RESTORED and (before := GIVEN_UP.search(entry.what)):
            self.given_up = max(self.given_up, int(before[1]))
            self._given_up_heads.add((int(before[1]), before[2]))
        self._head_found = self._head_found or entry.hash == self._head
        self.last = entry

    def finish(self) -> None:
        """Compare with the notes.

        Raises:
            AuditBroken: The log lacks an entry that was noted, or has another one in its place.
        """
        end = self.last.number if self.last else 0
        noted = sorted(self._noted, key=lambda each: each[1].number)
        noted = [each for each in noted if not self._is_given_up(each[1])]
        # The oldest note that differs tells where the log was rewritten, the newest how much of it is missing.
        for who, note in (each for each in noted if each[1].number <= end):
            if self._hashes[note.number] != note.hash:
                raise self._lost(f"Entry {note.number} is another than the one that {who} noted: it was rewritten.")
        for who, note in noted[-1:]:
            if note.number > end:
                missing = f"Entries {end + 1} to {note.number} are" if note.number > end + 1 else f"Entry {end + 1} is"
                raise self._lost(f"{missing} missing: {who} noted {note.number}, and the log ends at {end}.")
        if not self._head_found:
            raise self._lost(f"No entry has the hash {self._head[:12]}… that was noted: the log was cut or rewritten.")

    def _is_given_up(self, note: Head) -> bool:
        """Whether a restore explains that a note may differ.

        A witness keeps all notes, those from before the restore too. The one beside the log begins anew,
        so it counts unless it is the very head that the restore gave up.
        """
        if isinstance(note, NotedHead):
            return (note.number, note.hash) in self._given_up_heads
        return note.number <= self.given_up

    def broken(self, number: int, why: str, next_step: str = EVIDENCE) -> AuditBroken:
        """Make the error about a line."""
        return AuditBroken(f"Entry {number} {why}.", next_step, where=f"{self._where}, line {number}")

    def _lost(self, what: str) -> AuditBroken:
        return AuditBroken(
            what, "Keep the file as evidence, and compare it with a backup from the time of the note.", self._where
        )
