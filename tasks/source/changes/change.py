"""One change, and all changes between two releases."""

from __future__ import annotations

import difflib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Severity = Literal["warn", "info"]
"""warn: it may move the answers to the same question, or what may be done with them; info: for the reader."""
Kind = Literal["chat template", "generation config", "tokenizer", "special tokens", "licence", "config"]
KINDS: tuple[Kind, ...] = ("chat template", "special tokens", "tokenizer", "generation config", "config", "licence")
"""In the order in which a reader should meet them."""
ABSENT = "–"
LONGEST = 120
"""Characters of a value that is shown in one line; longer ones are told by their diff."""


class Change(BaseModel):
    """Something that is not as it was."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    what: str
    """The field, token or file."""
    before: str
    """In one line; `–` where it was not there."""
    after: str
    diff: str = ""
    """Unified, without a header; empty where before and after say it all."""
    severity: Severity


class ChangeReport(BaseModel):
    """All that changed between two releases beside their weights."""

    model_config = ConfigDict(frozen=True)

    before: str
    """Repository and commit, or folder."""
    after: str
    changes: tuple[Change, ...]
    unread: tuple[str, ...] = ()
    """Files that were too large to be read for this."""

    @property
    def warnings(self) -> tuple[Change, ...]:
        """What may move the answers to the same question."""
        return tuple(change for change in self.changes if change.severity == "warn")

    @property
    def sentence(self) -> str:
        """For a reader who has one line."""
        if not self.changes:
            return "Nothing changed beside the weights."
        names = [
            f"{kind} ({', '.join(dict.fromkeys(one.what for one in found))})"
            for kind in KINDS
            if (found := [one for one in self.changes if one.kind == kind])
        ]
        return f"Changed beside the weights: {'; '.join(names)}."


def change(kind: Kind, what: str, before: Any, after: Any, severity: Severity) -> list[Change]:
    """A change, or none where nothing changed.

    Args:
        kind, what: what it is.
        before, after: any JSON; None where it is not there. Long ones get a diff.
        severity: whether it matters.
    """
    if before == after:
        return []
    texts = [_text(value) for value in (before, after)]
    long = any(len(text) > LONGEST or "\n" in text for text in texts if text is not None)
    shown = [
        ABSENT if text is None else f"{len(text):,} characters" if long and len(text) > LONGEST else text
        for text in texts
    ]
    diff = unified(*(_pretty(value) for value in (before, after))) if long else ""
    return [Change(kind=kind, what=what, before=shown[0], after=shown[1], diff=diff, severity=severity)]


def unified(before: str, after: str) -> str:
    """The lines that differ, with three around them."""
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
