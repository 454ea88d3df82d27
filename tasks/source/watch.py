"""Watch one line: find new commits at its source, decide about each, and start each release once.

    rows = triage_line(installation, name, fit_release, known_architectures)   # reads and decides; changes nothing
    rows = start_releases(installation, rows, start)     # starts each release once a commit
    record_decisions(installation, [name])               # sends MLflow the decisions that it lacks

A failure of one line is a row with the named error; the other lines continue.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from registry.installation import Installation
from registry.watch.ledger import Decision, Entry, Ledger, Numbers, Reason, Starter
from tasks.source.provider import provider_of
from tasks.source.released import last_release
from tasks.source.successors import LISTED, ListedCommit
from tasks.source.triage import ArchitectureLookup, FitCheck, triage
from tasks.source.watch_rows import Failure, Row
from weighbridge.errors import ReleaseNotStarted, StackDown, WeighbridgeError
from weighbridge.failures import named
from weighbridge.line import Line
from weighbridge.source_urls import uri_of

if TYPE_CHECKING:
    from registry.watch.runs import KnownSources

ANSWER_SECONDS = 3.0
"""Timeout of MLflow's health check. Knowing what serves is useful, but the ledger is enough without it."""


def triage_line(
    installation: Installation, name: str, fits: FitCheck, known_architectures: ArchitectureLookup
) -> list[Row]:
    """Read a line's source and decide about each new commit; start and write nothing.

    Args:
        installation: the ledgers, MLflow and the Hub's endpoint.
        name: the line.
        fits: `tasks.fit.report.fit_release`, passed in because this stage may not import later ones.
        known_architectures: `tasks.engines.known_architectures`, for the same reason.

    Returns:
        A row for the head and one for each successor; one row with the error if the line or its source cannot be
        read.
    """
    try:
        line = Line.load(name)
        ledger, known = installation.ledger(name), known_sources(installation, name)
        listing = provider_of(installation.settings, line.repo).listing(line)
    except Exception as error:  # whatever one line's file or source does, the other lines are watched
        return [Row(line=name, error=Failure.of(named(error)))]
    rows = [
        _row(installation, line, found, ledger, known, fits, known_architectures)
        for found in (listing.head, *listing.successors)
    ]
    rows = [row.model_copy(update={"notes": _notes(row, ledger, known, listing.truncated)}) for row in rows]
    # A watch that was killed may have left a start unconfirmed; finish it even if the commit is no longer listed.
    listed = {(row.decision.repo, row.decision.commit) for row in rows if row.decision}
    unconfirmed = (entry for entry in ledger.entries() if entry.state == "starting")
    return rows + [
        Row(line=name, decision=entry.decision, state=entry.state)
        for entry in unconfirmed
        if (entry.decision.repo, entry.decision.commit) not in listed
    ]


def start_releases(installation: Installation, rows: Sequence[Row], start: Starter) -> list[Row]:
    """Write new decisions to the ledger, and start each release once a commit.

    Args:
        installation: the ledgers.
        rows: from `triage_line`.
        start: asks Prefect for a release.

    Returns:
        The rows with their resulting state.
    """
    return [_start(installation, row, start) for row in rows]


def record_decisions(installation: Installation, names: Sequence[str]) -> list[str]:
    """Send MLflow the decisions that it lacks; without any, MLflow is not contacted.

    Returns:
        Why decisions were not recorded, a sentence a problem. They stay in the ledger for the next watch.
    """
    ledgers = [ledger for name in names if (ledger := installation.ledger(name)).path.exists()]
    if ledgers and not mlflow_answers(installation):
        return ["MLflow does not answer: the decisions are kept in the ledger and recorded by a later watch."]
    problems = []
    for ledger in ledgers:
        try:
            _record(installation, ledger)
        except WeighbridgeError as error:
            problems.append(f"{ledger.line}: {error}")
    return problems


def _record(installation: Installation, ledger: Ledger) -> None:
    if ledger.unrecorded():
        from registry.watch.runs import WatchRuns

        ledger.record(WatchRuns(installation.registry).record)


def rules_of(line: Line) -> str:
    """Digest of the line's fields that a decision depends on; after a change the decision is made again."""
    fields = line.model_dump(mode="json", include={"admission", "schemes", "target", "engine", "watch"})
    if line.watch.on_unchanged == "ignore":
        # Decisions from before this field existed stay as they are.
        del fields["watch"]["on_unchanged"]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def mlflow_answers(installation: Installation) -> bool:
    """Whether MLflow is healthy, without importing its client."""
    import httpx

    try:
        health = httpx.get(f"{installation.settings.mlflow_url}/health", timeout=ANSWER_SECONDS)
    except httpx.HTTPError:
        return False
    return health.status_code == httpx.codes.OK


def known_sources(installation: Installation, name: str) -> KnownSources | None:
    """The commits of a line that were released already; None if MLflow does not answer."""
    if not mlflow_answers(installation):
        return None
    from registry.watch.runs import WatchRuns

    try:
        return WatchRuns(installation.registry).known_sources(name)
    except StackDown:
        return None


def _start(installation: Installation, row: Row, start: Starter) -> Row:
    if row.decision is None or not (row.decision.new or row.state):
        return row
    try:
        entry = installation.ledger(row.line).settle(row.decision, start)
    except (StackDown, ReleaseNotStarted) as error:
        return row.model_copy(update={"error": Failure.of(error), "state": "seen"})
    except WeighbridgeError as error:
        return row.model_copy(update={"error": Failure.of(error)})
    return row.model_copy(update={"state": entry.state, "flow_run": entry.flow_run})


def _row(
    installation: Installation,
    line: Line,
    found: ListedCommit,
    ledger: Ledger,
    known: KnownSources | None,
    fits: FitCheck,
    known_architectures: ArchitectureLookup,
) -> Row:
    rules = rules_of(line)
    try:
        entry = _entry(ledger, found)
        if reason := _reason_to_skip(found, entry, known, rules):
            return _skipped(line, found, rules, reason, entry)
        if entry and _unfinished(entry, found, rules):
            return Row(line=line.name, decision=entry.decision, state=entry.state)
        last = last_release(installation, line.name, found.repo) if found.kind == "commit" else None
        decision = triage(installation, found, line, rules, fits, known_architectures, last)
        if entry and entry.settled and entry.decision.says_as(decision):
            return _skipped(line, found, rules, _decided_before(entry), entry, decision.numbers)
    except Exception as error:
        return Row(line=line.name, error=Failure.of(named(error)))
    return Row(line=line.name, decision=decision)


def _entry(ledger: Ledger, found: ListedCommit) -> Entry | None:
    """The ledger's entry for a commit; for a successor, the latest one about its repository at any commit.

    A successor is reported once. Its later commits matter only when the line follows it.
    """
    if (exact := ledger.find(found.repo, found.commit)) or found.kind == "commit":
        return exact
    reported = [
        entry
        for entry in ledger.entries()
        if entry.decision.repo == found.repo and entry.decision.outcome != "ignore" and entry.state != "superseded"
    ]
    return reported[-1] if reported else None


def _unfinished(entry: Entry, found: ListedCommit, rules: str) -> bool:
    """Whether an earlier watch was killed, or Prefect was down, after the decision and before the start."""
    if entry.state == "starting":
        return True
    return entry.state == "seen" and entry.decision.commit == found.commit and entry.decision.rules == rules


def _reason_to_skip(found: ListedCommit, entry: Entry | None, known: KnownSources | None, rules: str) -> Reason | None:
    """Why a commit needs no decision, or None if it does."""
    uri = uri_of(found.repo, found.commit)
    if known and known.serving == uri:
        return Reason(code="serves", text="it serves already", weight="notes")
    if known and uri in known.proposed:
        return Reason(code="proposed", text="it was released: its candidates are in MLflow", weight="notes")
    if entry is None or not entry.settled:
        return None
    if entry.state == "started":
        text = f"its release was started on {entry.decided_at[:10]} as Prefect's run {entry.flow_run}"
        return Reason(code="started", text=text, weight="notes")
    return _decided_before(entry) if entry.decision.rules == rules and entry.decision.lasting else None


def _decided_before(entry: Entry) -> Reason:
    before = entry.decision
    why = "; ".join(reason.text for reason in before.reasons)
    text = f"decided on {entry.decided_at[:10]} under the same rules: {before.outcome}: {why}"
    return Reason(code="decided", text=text, weight="notes")


def _skipped(
    line: Line, found: ListedCommit, rules: str, reason: Reason, entry: Entry | None, numbers: Numbers | None = None
) -> Row:
    decision = Decision(
        line=line.name,
        kind=found.kind,
        repo=found.repo,
        commit=found.commit,
        outcome="ignore",
        reasons=(reason,),
        numbers=numbers or (entry.decision.numbers if entry else Numbers()),
        rules=rules,
        new=False,
    )
    return Row(line=line.name, decision=decision, flow_run=entry.flow_run if entry else "")


def _notes(row: Row, ledger: Ledger, known: KnownSources | None, truncated: bool) -> tuple[str, ...]:
    """For the reader: the circumstances of the decision."""
    notes = []
    if known is None:
        notes.append("MLflow does not answer, so what serves is unknown; the watch's own ledger decided")
    elif row.decision and row.decision.new:
        notes.append(f"production is {known.serving}" if known.serving else "nothing serves yet")
    if row.decision and row.decision.new and row.decision.kind == "commit":
        heads = [entry for entry in ledger.entries() if entry.decision.kind == "commit"]
        notes += [f"the previous head was {heads[-1].decision.commit}"] if heads else []
    if truncated:
        notes.append(f"only the author's {LISTED} newest repositories were listed")
    return tuple(notes)
