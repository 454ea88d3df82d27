"""The watch's report: a row for each commit, as types, sentences and table cells."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from registry.watch.ledger import Decision
from weighbridge.errors import WeighbridgeError


class Failure(BaseModel):
    """A named error in a row."""

    model_config = ConfigDict(frozen=True)

    code: str
    what: str
    where: str
    next_step: str
    exit_status: int

    @classmethod
    def of(cls, error: WeighbridgeError) -> Failure:
        """The failure for an error."""
        return cls(
            code=error.code,
            what=error.what,
            where=error.where,
            next_step=error.next_step,
            exit_status=error.exit_status,
        )


class Row(BaseModel):
    """The decision about one commit, or the error of a line."""

    model_config = ConfigDict(frozen=True)

    line: str
    decision: Decision | None = None
    """None if the line failed."""
    state: str = ""
    """Of the ledger's entry, once written; empty before that and for commits decided earlier."""
    flow_run: str = ""
    """Prefect's id of the release's flow run."""
    notes: tuple[str, ...] = ()
    """Circumstances of the decision, for the reader; the decision does not depend on them."""
    error: Failure | None = None


class WatchReport(BaseModel):
    """All rows of one watch."""

    model_config = ConfigDict(frozen=True)

    rows: tuple[Row, ...]

    @property
    def failures(self) -> tuple[Failure, ...]:
        """All errors, in the order of the rows."""
        return tuple(row.error for row in self.rows if row.error)


def sentences(row: Row) -> list[str]:
    """A row in sentences: the decision, its reasons, and the notes."""
    decision = row.decision
    if decision is None:
        return list(row.notes)
    head = f"{decision.outcome}: {decision.kind} {decision.uri}"
    return [head, *(f"{reason.code}: {reason.text}" for reason in decision.reasons), *row.notes]


def table_cells(row: Row) -> dict[str, str]:
    """A row as text, for a table."""
    decision, error = row.decision, row.error
    failed = [f"{error.code}: {error.what} Next: {error.next_step}"] if error else []
    numbers = decision.numbers.model_dump(exclude_none=True, exclude_defaults=True) if decision else {}
    return {
        "line": row.line,
        "outcome": decision.outcome if decision else "error",
        "what": decision.kind if decision else "",
        "repository": decision.repo if decision else "",
        "commit": decision.commit[:12] if decision else "",
        "reasons": "; ".join([*failed, *(reason.text for reason in (decision.reasons if decision else ()))]),
        "numbers": ", ".join(f"{name} {value}" for name, value in numbers.items()),
        "state": row.state,
        "flow run": row.flow_run,
        "notes": "; ".join(row.notes),
    }
