"""The file of the audit log: entries are appended, read, verified and copied here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from filelock import FileLock

from registry.audit.chain import Chain
from registry.audit.entry import (
    COPIED,
    FOUND,
    NOBODY,
    NOTHING,
    Entry,
    Request,
    Unreadable,
    clean,
    read_entry,
    this_user,
)
from registry.audit.file import LogFile
from registry.audit.note import HEAD, Head, Intents, NotedHead, read_head
from weighbridge.errors import AuditBroken, DiskFull
from weighbridge.files import naming_a_full_disk, write_whole
from weighbridge.settings import Settings, load_settings

FOLDER = "audit"
"""Below the installation's home."""
LATE = "the process ended before it could write this down: the change may have been made or not"


class Ready:
    """A change that is noted and may be made. What the change itself tells, such as a new number, is filled in."""

    version: int | None = None
    what: str = ""


class AuditLog:
    """The log of one installation.

    Args:
        folder: Folder of the log; by default that of this process's installation.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or load_settings().home / FOLDER
        self.path = self.folder / "log.jsonl"
        self._file = LogFile(self.path)
        self._intents = Intents(self.folder)

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

        The log is verified first, unless its file is as this class left it.

        Args:
            action, line, version, what, reason, who: As in `Entry`. Without `who`, the user of this process.
            request: Origin of the request, in entries of MLflow's server.

        Raises:
            AuditBroken: The log does not verify, so nothing can follow it.
            DiskFull: The disk is full. The log is as before.
        """
        with self._locked():
            self._write_left_behind()
            return self._append(action, line, version, what, reason, who, request)

    @contextmanager
    def recording(
        self,
        action: str,
        line: str,
        version: int | None,
        *,
        what: str = "",
        reason: str = "",
        who: str = "",
        took_effect: Callable[[], bool] | None = None,
    ) -> Iterator[Ready]:
        """Note a change, let it be made, and write its entry. A change that cannot be noted is not made.

        If the process ends in between, the next entry is preceded by one that says so.

        Args:
            action, line, version, what, reason, who: As in `Entry`.
            took_effect: Tells whether a change that ended with an error was made all the same, and needs its entry.
                Without it, `reconcile` finds out.

        Yields:
            Takes the version or the text that only the change itself tells.

        Raises:
            AuditBroken, DiskFull: The log takes no entry. Nothing was changed.
        """
        who = who or this_user()
        with self._locked():
            self._write_left_behind()
            self._end()
            note = self._intents.note(action, line, version, clean(what), clean(reason), clean(who))
        ready = Ready()
        try:
            yield ready
        except BaseException as error:
            # It was refused, or its answer was lost.
            if took_effect is not None and took_effect():
                self.append(action, line, version, what=what, reason=f"ended with {type(error).__name__}", who=who)
            note.unlink(missing_ok=True)
            raise
        version = version if ready.version is None else ready.version
        self.append(action, line, version, what=ready.what or what, reason=reason, who=who)
        note.unlink(missing_ok=True)

    def require_writable(self) -> None:
        """Check that the log would take an entry, before a change is made that needs one.

        Raises:
            AuditBroken: The log does not verify.
        """
        with self._locked():
            self._end()

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Make other approvals on this machine wait, so that each sees those before it."""
        self._make_folder()
        with FileLock(self.path.with_name("approving.lock")):
            yield

    def entries(self, line: str | None = None) -> Iterator[Entry]:
        """Iterate over all entries, or a line's, oldest first. A line that is being written does not count.

        Raises:
            AuditBroken: An entry cannot be read.
        """
        for number, text in enumerate(self._file.lines(), 1):
            if text.endswith(b"\n"):
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

    def verify(self, head: str = "", noted: Sequence[tuple[str, Head]] = ()) -> Entry | None:
        """Check every entry against the one before, and the whole against what was noted of it.

        Args:
            head: Hash that was noted by hand. An entry must have it.
            noted: Further heads, by who noted them; `head.json` is always asked.

        Returns:
            The last entry; None if the log is empty.

        Raises:
            AuditBroken: An entry was edited, or does not follow the one before; the first such entry is named. Or
                entries that were noted are missing.
        """
        with self._locked():
            return Chain(str(self.path), [*self._own_note(), *noted], head).read(self._file.lines())

    def head(self) -> Head | None:
        """Return the head as it was noted beside the log; None if there is none.

        Raises:
            AuditBroken: The note cannot be read.
        """
        return next((note for _, note in self._own_note()), None)

    def copy(self, target: Path) -> list[Entry]:
        """Copy the log, while no other process writes to it.

        Returns:
            The entries.

        Raises:
            AuditBroken: An entry cannot be read.
            DiskFull: The disk is full.
        """
        with self._locked(), naming_a_full_disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            entries = []
            with target.open("xb") as file:
                for number, text in enumerate(self._file.lines(), 1):
                    entries.append(self._read(text, number))
                    file.write(text)
        return entries

    def _append(
        self, action: str, line: str, version: int | None, what: str, reason: str, who: str, request: Request | None
    ) -> Entry:
        number, previous = self._end()
        fields = {
            "number": number + 1,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "who": clean(who or this_user()),
            **{"action": clean(action), "line": clean(line), "version": version},
            **{"what": clean(what), "reason": clean(reason), "previous": previous},
        }
        if request is not None:
            fields |= {name: clean(text) for name, text in zip(("model", "address", "request"), _origin(request))}
        entry = Entry.model_validate({**fields, "hash": ""})
        entry = entry.model_copy(update={"hash": entry.expected_hash})
        state = self._file.append(entry.as_line)
        # Without it the next entry verifies the whole log, and then writes it.
        with suppress(OSError, DiskFull):
            self._note_head(NotedHead.of(entry.number, entry.hash, state))
        return entry

    def _write_left_behind(self) -> None:
        """Write entries about changes that ended processes had noted and did not write down."""
        for path, intent in self._intents.left_behind():
            if intent is None:
                self._append(FOUND, "", None, f"a damaged note, {path.name}", LATE, "unknown", None)
            else:
                # As `reconcile` writes what it finds: never as something that Weighbridge is known to have done.
                what = " ".join(filter(None, (intent.action, intent.what)))
                self._append(FOUND, intent.line, intent.version, what, LATE, intent.who, None)
            path.unlink(missing_ok=True)

    def _end(self) -> tuple[int, str]:
        """Return number and hash of the last entry; the log is verified unless its file is as it was noted."""
        state = self._file.state()
        noted = self._own_note()
        if noted and state is not None and noted[0][1].is_of(state):
            return noted[0][1].number, noted[0][1].hash
        if state is not None:
            self._file.mend_end()
        last = Chain(str(self.path), noted).read(self._file.lines())
        state = self._file.state()
        if last is None or state is None:
            return 0, NOTHING
        with suppress(OSError, DiskFull):
            self._note_head(NotedHead.of(last.number, last.hash, state))
        return last.number, last.hash

    def _note_head(self, noted: NotedHead) -> None:
        write_whole(self.folder / HEAD, noted.model_dump_json())

    def _own_note(self) -> list[tuple[str, NotedHead]]:
        try:
            noted = read_head(self.folder)
        except ValueError as error:
            raise AuditBroken(
                f"{error}: how far the log was is not known.",
                f"Compare the log with a backup or with what was noted elsewhere; if it is whole, remove {HEAD}.",
                where=str(self.folder / HEAD),
            ) from None
        return [] if noted is None else [(HEAD, noted)]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with naming_a_full_disk(self.path):
            self._make_folder()
        with FileLock(self.path.with_suffix(".lock")):
            yield

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _read(self, text: bytes, number: int) -> Entry:
        try:
            return read_entry(text.removesuffix(b"\n"))
        except Unreadable as error:
            raise Chain(str(self.path)).broken(number, str(error)) from None


def _origin(request: Request) -> tuple[str, str, str]:
    return request.model, request.address, request.id
