"""The file itself: its lines, and an append that writes a whole line or nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from registry.audit.entry import LONGEST_LINE, Unreadable, read_entry
from weighbridge.errors import AuditBroken
from weighbridge.files import naming_a_full_disk, write_whole


class LogFile:
    """A file of lines that only grows.

    Args:
        path: The file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def state(self) -> os.stat_result | None:
        """Return the state of the file; None if there is none.

        Raises:
            AuditBroken: Something else lies in its place.
        """
        try:
            state = self.path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(state.st_mode):
            raise AuditBroken("The audit log is no file.", "Find out who replaced it.", where=str(self.path))
        return state

    def lines(self) -> Iterator[bytes]:
        """Iterate over the lines, with their newlines; of none without a file. A far too long one comes in parts."""
        if self.state() is None:
            return
        with self.path.open("rb") as file:
            while line := file.readline(LONGEST_LINE + 2):
                yield line

    def append(self, line: bytes) -> os.stat_result:
        """Append a line and sync it, whole or not at all; return the state of the file afterwards.

        Raises:
            DiskFull: The disk is full.
            OSError: It cannot be written.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with naming_a_full_disk(self.path), os.fdopen(os.open(self.path, flags, 0o600), "ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                written = 0
                while written < len(line):
                    written += file.write(line[written:])
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(size)
                raise
            return os.fstat(file.fileno())

    def mend_end(self) -> None:
        """Finish the last line if only its newline is missing; put it aside if a kill or a full disk cut it off.

        Raises:
            DiskFull: The disk is full.
        """
        rest = b""
        for rest in self.lines():  # noqa: B007 - the last line is what is wanted
            pass
        if not rest or rest.endswith(b"\n"):
            return
        with naming_a_full_disk(self.path), self.path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            try:
                read_entry(rest)
            except Unreadable:
                write_whole(self.path.with_name(f"unfinished-{datetime.now(UTC):%Y%m%dT%H%M%S}"), rest)
                file.truncate(size - len(rest))
            else:
                file.write(b"\n")
                file.flush()
            os.fsync(file.fileno())
