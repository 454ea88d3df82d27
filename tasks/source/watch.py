"""The watch of one line: what is new at its source, what is to be done about it, and doing it once.

    rows = decide(name, fit)            # looks and decides; changes nothing
    rows = settle(rows, start)          # starts what is to be released, once for a commit
    remember([name])                    # MLflow gets what it lacks

A line's failure is a row with the named error; the other lines go on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from registry.watch.ledger import Decision, Entry, Ledger, Numbers, Reason, Starter
from tasks.source.successors import LISTED, Found, look
from tasks.source.triage import Fits, triage
from tasks.source.watch_rows import Failure, Row
from weighbridge.errors import ReleaseNotStarted, StackDown, WeighbridgeError
from weighbridge.line import Line
from weighbridge.settings import load_settings

if TYPE_CHECKING:
    from registry.watch.runs import KnownSources

ANSWER_SECONDS = 3.0
"""Longest wait for MLflow's health: what serves is good to know, and the ledger suffices without."""


def decide(name: str, fits: Fits) -> list[Row]:
    """Look at a line's source and decide; nothing is started and nothing is written.

    Args:
        name: the line.
        fits: `tasks.fit.report.fit`; this stage may not know the next one.

    Returns:
        A row for the head and one for each successor; one with the error where the line could not be read or
        looked at.
    """
    try:
        line = Line.load(name)
        ledger, known, seen = Ledger(name), known_sources(name), look(line)
    except WeighbridgeError as error:
        return [Row(line=name, error=Failure.of(error))]
    rows = [_row(line, found, ledger, known, fits) for found in (seen.head, *seen.successors)]
    rows = [row.model_copy(update={"notes": _notes(row, ledger, known, seen.cut)}) for row in rows]
    # A commit that an earlier watch was killed over, and that has been left behind since, is finished too.
    looked = {(row.decision.repo, row.decision.commit) for row in rows if row.decision}
    left = (one for one in ledger.entries() if one.state == "starting")
    return rows + [
        Row(line=name, decision=one.decision, state=one.state)
        for one in left
        if (one.decision.repo, one.decision.commit) not in looked
    ]


def settle(rows: Sequence[Row], start: Starter) -> list[Row]:
    """Write down what is new, and start what is to be released: once for a commit.

    Args:
        rows: from `decide`.
        start: asks Prefect for a release.

    Returns:
        The rows with what became of them.
    """
    return [_settled(row, start) for row in rows]


def remember(names: Sequence[str]) -> list[str]:
    """Record in MLflow what it lacks of the lines' ledgers; nothing is asked of it when it lacks nothing.

    Returns:
        Why not, where it was not: the decisions stand, and the next watch records them.
    """
    ledgers = [Ledger(name) for name in names if Ledger(name).path.exists()]
    if ledgers and not mlflow_answers():
        return ["MLflow does not answer: the decisions are kept in the ledger and recorded by a later watch."]
    problems = []
    for ledger in ledgers:
        try:
            _remember(ledger)
        except WeighbridgeError as error:
            problems.append(f"{ledger.line}: {error}")
    return problems


def _remember(ledger: Ledger) -> None:
    if ledger.lacking():
        from registry.models.registry import Registry
        from registry.watch.runs import WatchRuns

        ledger.record(WatchRuns(Registry()).record)


def rules_of(line: Line) -> str:
    """Digest of all that a decision rests on beside the commit: other rules, and it is drawn again."""
    rests_on = line.model_dump(mode="json", include={"admission", "schemes", "target", "engine", "watch"})
    return hashlib.sha256(json.dumps(rests_on, sort_keys=True).encode()).hexdigest()


def mlflow_answers() -> bool:
    """Whether MLflow is there, without paying for its import."""
    import httpx

    try:
        return httpx.get(f"{load_settings().mlflow_url}/health", timeout=ANSWER_SECONDS).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def known_sources(name: str) -> KnownSources | None:
    """What of a line's source has been released already; None when MLflow does not answer."""
    if not mlflow_answers():
        return None
    from registry.models.registry import Registry
    from registry.watch.runs import WatchRuns

    try:
        return WatchRuns(Registry()).known_sources(name)
    except StackDown:
        return None


def _settled(row: Row, start: Starter) -> Row:
    if row.decision is None or not (row.decision.new or row.state):
        return row
    try:
        entry = Ledger(row.line).settle(row.decision, start)
    except (StackDown, ReleaseNotStarted) as error:
        return row.model_copy(update={"error": Failure.of(error), "state": "seen"})
    except WeighbridgeError as error:
        return row.model_copy(update={"error": Failure.of(error)})
    return row.model_copy(update={"state": entry.state, "flow_run": entry.flow_run})


def _row(line: Line, found: Found, ledger: Ledger, known: KnownSources | None, fits: Fits) -> Row:
    rules = rules_of(line)
    try:
        entry = _entry(ledger, found)
        if decided := _decided(found, entry, known, rules):
            return _old(line, found, rules, decided, entry)
        if entry and _half_done(entry, found, rules):
            return Row(line=line.name, decision=entry.decision, state=entry.state)
        decision = triage(found, line, rules, fits)
        if entry and entry.settled and entry.decision.says_as(decision):
            return _old(line, found, rules, _told(entry), entry, decision.numbers)
    except WeighbridgeError as error:
        return Row(line=line.name, error=Failure.of(error))
    return Row(line=line.name, decision=decision)


def _entry(ledger: Ledger, found: Found) -> Entry | None:
    """What was decided about a commit; about a successor that a person was told of, at whichever commit that was.

    A successor is news once. Its later commits matter when the line follows it.
    """
    if (exact := ledger.find(found.repo, found.commit)) or found.kind == "commit":
        return exact
    told = [
        one
        for one in ledger.entries()
        if one.decision.repo == found.repo and one.decision.outcome != "ignore" and one.state != "superseded"
    ]
    return told[-1] if told else None


def _half_done(entry: Entry, found: Found, rules: str) -> bool:
    """Whether an earlier watch was killed, or found no Prefect, between its decision and its end."""
    if entry.state == "starting":
        return True
    return entry.state == "seen" and entry.decision.commit == found.commit and entry.decision.rules == rules


def _decided(found: Found, entry: Entry | None, known: KnownSources | None, rules: str) -> Reason | None:
    """Why nothing needs deciding, or None."""
    uri = f"hf://{found.repo}@{found.commit}"
    if known and known.serving == uri:
        return Reason(code="serves", text="it is what serves", weight="notes")
    if known and uri in known.proposed:
        return Reason(code="proposed", text="it has been released: its candidates are in MLflow", weight="notes")
    if entry is None or not entry.settled:
        return None
    if entry.state == "started":
        text = f"its release was started on {entry.decided_at[:10]} as Prefect's run {entry.flow_run}"
        return Reason(code="started", text=text, weight="notes")
    return _told(entry) if entry.decision.rules == rules and entry.decision.lasting else None


def _told(entry: Entry) -> Reason:
    before = entry.decision
    why = "; ".join(reason.text for reason in before.reasons)
    text = f"decided on {entry.decided_at[:10]} under the same rules: {before.outcome}: {why}"
    return Reason(code="decided", text=text, weight="notes")


def _old(
    line: Line, found: Found, rules: str, reason: Reason, entry: Entry | None, numbers: Numbers | None = None
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


def _notes(row: Row, ledger: Ledger, known: KnownSources | None, cut: bool) -> tuple[str, ...]:
    """What a reader should know of how the line was looked at."""
    notes = []
    if known is None:
        notes.append("MLflow does not answer, so what serves is not known; the watch's own ledger decided")
    elif row.decision and row.decision.new:
        notes.append(f"what serves is {known.serving}" if known.serving else "nothing serves yet")
    if row.decision and row.decision.new and row.decision.kind == "commit":
        heads = [one for one in ledger.entries() if one.decision.kind == "commit"]
        notes += [f"the head before was {heads[-1].decision.commit}"] if heads else []
    if cut:
        notes.append(f"only the author's {LISTED} newest repositories were looked at")
    return tuple(notes)
