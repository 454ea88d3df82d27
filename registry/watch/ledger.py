"""The watch's ledger: what was decided about each commit, on this machine's disk, so that a commit starts one release.

One file a line, `<home>/watch/<line>.json`, changed under a lock and written whole. A release passes through

    seen      decided; Prefect has not been asked
    starting  written before Prefect is asked: from here on a run may exist
    started   Prefect's run is known

A watch that is killed leaves `seen` or `starting`, and the next one continues from there. Between `starting` and
`started` only Prefect knows whether a run exists; the same idempotency key again returns the same run. The lock
separates two watches on one machine, the key two installations that share a Prefect server.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from weighbridge.errors import LedgerDamaged, ReleaseNotStarted, StackDown, WatchBusy
from weighbridge.files import write_whole
from weighbridge.settings import Settings, load_settings
from weighbridge.source_urls import uri_of

FOLDER = "watch"
"""Below the installation's home."""
LOCK_SECONDS = 120.0
"""Longest wait for another watch of the same line, which holds the lock for one request to Prefect or MLflow."""

DecidedAction = Literal["release", "notify", "ignore"]
Kind = Literal["commit", "successor"]
State = Literal["seen", "starting", "started", "told", "superseded"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Reason(_Frozen):
    """One reason for a decision."""

    code: str
    """licence, remote_code, disk, policy, …"""
    text: str
    weight: Literal["refuses", "asks", "notes"]
    """refuses: no release is possible; asks: a person has to look; notes: for the reader."""
    lasting: bool = True
    """Whether it holds for this commit as long as the rules hold; free disk and access may change tomorrow."""


class Numbers(_Frozen):
    """Measurements behind a decision; None for what was not measured."""

    download_gib: float | None = None
    disk_needed_gib: float | None = None
    """Download and every scheme's artifact together."""
    disk_free_gib: float | None = None
    parameters_billion: float | None = None
    memory_needed_gib: float | None = None
    """Memory of the best row of the fit, per GPU."""
    memory_there_gib: float | None = None
    fits_as: str = ""
    """Scheme and GPU of that row."""


class Decision(_Frozen):
    """What to do about one commit."""

    line: str
    kind: Kind
    repo: str
    commit: str
    """40 hex digits."""
    outcome: DecidedAction
    reasons: tuple[Reason, ...]
    numbers: Numbers = Numbers()
    rules: str
    """Digest of the line's rules behind the decision."""
    content: str = ""
    """`Source.content`: digest of the files that decide what the model answers; empty if they were not listed."""
    new: bool = True
    """Whether this decision was not made before; only new decisions are written down."""

    @property
    def uri(self) -> str:
        """Repository and commit, as MLflow records them."""
        return uri_of(self.repo, self.commit)

    @property
    def key(self) -> str:
        """Idempotency key, so that a line starts a commit once."""
        return f"watch/{self.line}/{self.repo}@{self.commit}"

    @property
    def lasting(self) -> bool:
        """Whether the decision would be the same tomorrow."""
        return all(reason.lasting for reason in self.reasons)

    def says_as(self, other: Decision) -> bool:
        """Return whether both decisions say the same to a person."""
        return (self.outcome, self.rules, self._said()) == (other.outcome, other.rules, other._said())

    def _said(self) -> set[tuple[str, str]]:
        # Reasons that may change tomorrow contain numbers that change every day.
        return {(reason.code, reason.text if reason.lasting else "") for reason in self.reasons}


class Entry(_Frozen):
    """One commit in the ledger."""

    decision: Decision
    state: State
    decided_at: str
    """ISO 8601, UTC."""
    flow_run: str = ""
    """Prefect's id of the run that was started."""
    recorded: str = ""
    """`digest` of what MLflow has recorded; empty while it has nothing."""

    @property
    def digest(self) -> str:
        """Digest of what MLflow must record."""
        text = json.dumps(
            [self.decision.model_dump(exclude={"new", "content"}), self.state, self.flow_run], sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do about it."""
        return self.state not in ("seen", "starting")


class _Kept(_Frozen):
    """The file: one line's commits, in the order in which they were first seen."""

    entries: tuple[Entry, ...]


Starter = Callable[[Decision], str]
"""Starts the release of a decision under its key, and returns the run's id.

Raises StackDown or ReleaseNotStarted only if certainly nothing was started."""


class Ledger:
    """Decisions about one line's commits.

    Args:
        line: Name of the line.
        folder: Folder of the ledgers; by default that of this process's installation.

    Raises:
        LedgerDamaged: From every method, if the file cannot be read.
        WatchBusy: From every method that writes, if another watch holds the line for too long.
    """

    def __init__(self, line: str, folder: Path | None = None) -> None:
        self.line = line
        self.path = (folder or load_settings().home / FOLDER) / f"{line}.json"

    @classmethod
    def of(cls, settings: Settings, line: str) -> Self:
        """Open a line's ledger in an installation."""
        return cls(line, settings.home / FOLDER)

    def entries(self) -> tuple[Entry, ...]:
        """List all commits, in the order in which they were first seen."""
        try:
            return _Kept.model_validate_json(self.path.read_bytes()).entries
        except FileNotFoundError:
            return ()
        except ValidationError:
            raise LedgerDamaged(
                f"The watch's ledger of {self.line} cannot be read.",
                "Move the file away and watch again: Prefect starts no run a second time.",
                where=str(self.path),
            ) from None

    def find(self, repo: str, commit: str) -> Entry | None:
        """Find the entry of a commit; None if there is none."""
        entries = (entry for entry in self.entries() if entry.decision.commit == commit)
        return next((entry for entry in entries if entry.decision.repo == repo), None)

    def started(self, repo: str) -> list[Entry]:
        """List the commits of a repository whose release was started, in the order in which they were first seen."""
        return [entry for entry in self.entries() if entry.state == "started" and entry.decision.repo == repo]

    def unrecorded(self) -> list[Entry]:
        """List entries that MLflow does not have, or not in their present state."""
        return [entry for entry in self.entries() if entry.settled and entry.recorded != entry.digest]

    def settle(self, decision: Decision, start: Starter) -> Entry:
        """Write a decision, and start its release if it asks for one: once, despite concurrent watches and kills.

        Raises:
            StackDown, ReleaseNotStarted: The release could not be started. The next watch tries again.
        """
        with self._locked():
            entry = self._write(decision)
            if entry.settled:
                return entry
            self._put(entry := entry.model_copy(update={"state": "starting"}))
            try:
                run = start(entry.decision)
            except (StackDown, ReleaseNotStarted):
                self._put(entry.model_copy(update={"state": "seen"}))
                raise
            self._put(entry := entry.model_copy(update={"state": "started", "flow_run": run}))
            return entry

    def record(self, write: Callable[[Entry], object]) -> int:
        """Pass every settled entry that MLflow lacks to `write`, and mark it as recorded.

        Returns:
            Number of entries.
        """
        if not self.unrecorded():
            return 0
        with self._locked():
            unrecorded = self.unrecorded()
            for entry in unrecorded:
                write(entry)
                self._put(entry.model_copy(update={"recorded": entry.digest}))
        return len(unrecorded)

    def _write(self, decision: Decision) -> Entry:
        """Write the entry of a decision, unless an earlier one still counts; returns the entry that counts."""
        found = self.find(decision.repo, decision.commit)
        if found and (found.state == "started" or (not found.settled and decision.outcome == "release")):
            return found
        if found and found.state == "starting":
            # Whatever the rules say now, a run may exist. Only another request under its key can tell.
            return found
        entry = Entry(
            decision=decision,
            state="seen" if decision.outcome == "release" else "told",
            decided_at=datetime.now(UTC).isoformat(timespec="seconds"),
            recorded=found.recorded if found else "",
        )
        self._supersede(decision)
        self._put(entry)
        return entry

    def _supersede(self, decision: Decision) -> None:
        """Mark older commits of the repository as superseded if nothing was started for them."""
        for entry in self.entries():
            older = entry.decision
            if entry.state == "seen" and older.repo == decision.repo and older.commit != decision.commit:
                self._put(entry.model_copy(update={"state": "superseded"}))

    def _put(self, entry: Entry) -> None:
        entries = {(known.decision.repo, known.decision.commit): known for known in self.entries()}
        entries[entry.decision.repo, entry.decision.commit] = entry
        content = {"entries": [known.model_dump(mode="json") for known in entries.values()]}
        write_whole(self.path, json.dumps(content, indent=1))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # The system releases the lock if its holder is killed.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path.with_suffix(".lock"), timeout=LOCK_SECONDS):
                yield
        except Timeout:
            raise WatchBusy(
                f"Another watch has held {self.line} for {LOCK_SECONDS:.0f} s.",
                "Wait for it, or end it, then watch again: nothing is started twice.",
                where=str(self.path),
            ) from None
