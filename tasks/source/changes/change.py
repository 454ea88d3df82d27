"""A single change, and the report of all changes between two releases."""

from __future__ import annotations

import difflib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Severity = Literal["warn", "info"]
"""warn: it may change answers to the same question, or their permitted use; info: for the reader."""
Kind = Literal["chat template", "generation config", "tokenizer", "special tokens", "licence", "config"]
KINDS: tuple[Kind, ...] = ("chat template", "special tokens", "tokenizer", "generation config", "config", "licence")
"""In the report's order."""
ABSENT = "–"
MAX_COMPARED = 2**18
MAX_COMPARED_LINES = 1000
"""Of a text that is compared line by line, whose time grows with the square; licences and templates have 30 kB."""
MAX_CHARACTERS = 120
"""Of a value shown in one line; longer ones are shown as a diff."""


class Change(BaseModel):
    """One difference."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    what: str
    """The field, token or file."""
    before: str
    """In one line; `–` if absent."""
    after: str
    diff: str = ""
    """Unified, without a header; empty if `before` and `after` show the whole change."""
    severity: Severity


class ChangeReport(BaseModel):
    """All differences between two releases other than their weights."""

    model_config = ConfigDict(frozen=True)

    before: str
    """Repository and commit, or folder."""
    after: str
    changes: tuple[Change, ...]
    unread: tuple[str, ...] = ()
    """Files that were too large to be compared."""

    @property
    def warnings(self) -> tuple[Change, ...]:
        """Changes that may change answers to the same question."""
        return tuple(change for change in self.changes if change.severity == "warn")

    @property
    def sentence(self) -> str:
        """The report in one sentence."""
        if not self.changes:
            return "Nothing changed except the weights."
        names = [
            f"{kind} ({', '.join(dict.fromkeys(found.what for found in of_kind))})"
            for kind in KINDS
            if (of_kind := [change for change in self.changes if change.kind == kind])
        ]
        return f"Changed, apart from the weights: {'; '.join(names)}."


def change(kind: Kind, what: str, before: Any, after: Any, severity: Severity) -> list[Change]:
    """Compare two values: one change, or none.

    Args:
        kind, what: of the value.
        before, after: any JSON; None if absent. Long values get a diff.
        severity: of the change, if there is one.
    """
    if before == after:
        return []
    texts = [_text(value) for value in (before, after)]
    long = any(len(text) > MAX_CHARACTERS or "\n" in text for text in texts if text is not None)
    shown = [
        ABSENT if text is None else f"{len(text):,} characters" if long and len(text) > MAX_CHARACTERS else text
        for text in texts
    ]
    diff = unified(*(_pretty(value) for value in (before, after))) if long else ""
    return [Change(kind=kind, what=what, before=shown[0], after=shown[1], diff=diff, severity=severity)]


def unified(before: str, after: str) -> str:
    """The lines that differ, with three lines of context."""
    if max(len(before), len(after)) > MAX_COMPARED or max(before.count("\n"), after.count("\n")) > MAX_COMPARED_LINES:
        return f"Too long to be compared line by line: {len(before):,} and {len(after):,} characters."
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=3)
    return "\n".join(list(lines)[2:])


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _pretty(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)
