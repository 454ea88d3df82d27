"""What the watch has decided, in a ledger on this machine's disk, so that one commit starts one release.

One file a line, `<home>/watch/<line>.json`, changed under a lock and written whole. A release goes through

    seen      decided, nothing asked of Prefect yet
    starting  written before Prefect is asked: from here on a run may exist
    started   Prefect's run is known

A watch that was killed leaves `seen` or `starting`; the next one goes on from there. Between `starting` and
`started` only Prefect knows whether there is a run: the same idempotency key again gives the same run. Two
watches at once meet at the lock; two installations that share a Prefect server, at the key.
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

FOLDER = "watch"
"""Below the installation's home."""
LOCK_SECONDS = 120.0
"""Longest wait for another watch of the same line; it holds the lock for one question to Prefect or MLflow."""

Outcome = Literal["release", "notify", "ignore"]
Kind = Literal["commit", "successor"]
State = Literal["seen", "starting", "started", "told", "superseded"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Reason(_Frozen):
    """One thing that counted in a decision."""

    code: str
    """licence, remote_code, disk, policy, …"""
    text: str
    weight: Literal["refuses", "asks", "notes"]
    """refuses: it cannot be released; asks: a person has to look; notes: for the reader."""
    lasting: bool = True
    """Whether it stays so for this commit under these rules; free disk and access may be others tomorrow."""


class Numbers(_Frozen):
    """What was measured for a decision; None where it was not got that far."""

    download_gib: float | None = None
    disk_needed_gib: float | None = None
    """The download and every scheme's artifact beside it."""
    disk_free_gib: float | None = None
    parameters_billion: float | None = None
    memory_needed_gib: float | None = None
    """Of the best row of the fit, per GPU."""
    memory_there_gib: float | None = None
    fits_as: str = ""
    """That row's scheme and GPU."""


class Decision(_Frozen):
    """What is to be done about one commit."""

    line: str
    kind: Kind
    repo: str
    commit: str
    """40 hex digits."""
    outcome: Outcome
    reasons: tuple[Reason, ...]
    numbers: Numbers = Numbers()
    rules: str
    """Digest of the line's rules that it was drawn under."""
    new: bool = True
    """Whether nobody has decided so before; what is not new is not written down."""

    @property
    def uri(self) -> str:
        """Repository and commit, as MLflow has them."""
        return f"hf://{self.repo}@{self.commit}"

    @property
    def key(self) -> str:
        """The idempotency key: this line starts this commit once."""
        return f"watch/{self.line}/{self.repo}@{self.commit}"

    @property
    def lasting(self) -> bool:
        """Whether it would be drawn again tomorrow."""
        return all(reason.lasting for reason in self.reasons)

    def says_as(self, other: Decision) -> bool:
        """Whether a person who was told the one has nothing new to hear from the other."""
        # What may change tomorrow is told with numbers that do.
        ours, theirs = (
            {(reason.code, reason.text if reason.lasting else "") for reason in one.reasons} for one in (self, other)
        )
        return (self.outcome, self.rules) == (other.outcome, other.rules) and ours == theirs


class Entry(_Frozen):
    """One commit in the ledger."""

    decision: Decision
    state: State
    decided_at: str
    """ISO 8601, UTC."""
    flow_run: str = ""
    """Prefect's id of the release that was started."""
    recorded: str = ""
    """`digest` of what MLflow has; empty while it has nothing."""

    @property
    def digest(self) -> str:
        """Digest of all that MLflow is to have."""
        text = json.dumps([self.decision.model_dump(exclude={"new"}), self.state, self.flow_run], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be done about it."""
        return self.state not in ("seen", "starting")


Starter = Callable[[Decision], str]
"""Asks Prefect for the release under the decision's key and returns the run's id.

Raises StackDown or ReleaseNotStarted only where certainly nothing was started."""


class Ledger:
    """What was decided about one line's commits.

    Args:
        line: the line's name.
        folder: where the ledgers are; the installation's by default.

    Raises:
        LedgerDamaged: from every method, when the file cannot be read.
        WatchBusy: from every method that writes, when another watch holds the line for too long.
    """

    def __init__(self, line: str, folder: Path | None = None) -> None:
        self.line = line
        self.path = (folder or load_settings().home / FOLDER) / f"{line}.json"

    @classmethod
    def of(cls, settings: Settings, line: str) -> Self:
        """A line's ledger in an installation."""
        return cls(line, settings.home / FOLDER)

    def entries(self) -> tuple[Entry, ...]:
        """All commits, in the order in which they were first seen."""
        try:
            kept = json.loads(self.path.read_bytes())["entries"]
            return tuple(Entry.model_validate(entry) for entry in kept)
        except FileNotFoundError:
            return ()
        except (ValueError, TypeError, KeyError, ValidationError):
            raise LedgerDamaged(
                f"The watch's ledger of {self.line} cannot be read.",
                "Move the file away and watch again: what Prefect knows of is not started a second time.",
                where=str(self.path),
            ) from None

    def find(self, repo: str, commit: str) -> Entry | None:
        """What was decided about a commit, or None."""
        return next((one for one in self.entries() if (one.decision.repo, one.decision.commit) == (repo, commit)), None)

    def lacking(self) -> list[Entry]:
        """What MLflow is still to be told."""
        return [entry for entry in self.entries() if entry.settled and entry.recorded != entry.digest]

    def settle(self, decision: Decision, start: Starter) -> Entry:
        """Write a decision down, and start its release if it has one: once, whoever else tries and whatever was killed.

        Raises:
            StackDown, ReleaseNotStarted: the release could not be started; the next watch tries again.
        """
        with self._locked():
            entry = self._noted(decision)
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
        """Give every settled entry that MLflow lacks to `write`, and remember that it has it.

        Returns:
            How many were written.
        """
        if not self.lacking():
            return 0
        with self._locked():
            lacking = self.lacking()
            for entry in lacking:
                write(entry)
                self._put(entry.model_copy(update={"recorded": entry.digest}))
        return len(lacking)

    def _noted(self, decision: Decision) -> Entry:
        """The entry that this decision leads to, written down."""
        found = self.find(decision.repo, decision.commit)
        if found and (found.state == "started" or (not found.settled and decision.outcome == "release")):
            return found
        if found and found.state == "starting":
            # Changed rules or not: a run may exist, and only asking again under its key tells.
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
        """An older commit of the same repository that nothing was started for yet gives way."""
        for one in self.entries():
            other = one.decision
            if one.state == "seen" and other.repo == decision.repo and other.commit != decision.commit:
                self._put(one.model_copy(update={"state": "superseded"}))

    def _put(self, entry: Entry) -> None:
        kept = {(one.decision.repo, one.decision.commit): one for one in self.entries()}
        kept[entry.decision.repo, entry.decision.commit] = entry
        write_whole(
            self.path, json.dumps({"entries": [one.model_dump(mode="json") for one in kept.values()]}, indent=1)
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # The system gives the lock back when its holder is killed.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path.with_suffix(".lock"), timeout=LOCK_SECONDS):
                yield
        except Timeout:
            raise WatchBusy(
                f"Another watch has held {self.line} for {LOCK_SECONDS:.0f} s.",
                "Look at it, or end it, then watch again: nothing is started twice.",
                where=str(self.path),
            ) from None
