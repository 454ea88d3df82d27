"""Findings of the lint, and items as the lint sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

Level = Literal["error", "warning", "note"]
MOST_SEVERE_FIRST: tuple[Level, ...] = ("error", "warning", "note")
SHOWN = 5
"""Number of items that a message lists before it only counts the rest."""


class Finding(BaseModel):
    """One defect of a suite, or a note on it."""

    model_config = ConfigDict(frozen=True)

    level: Level
    code: str
    """Stable, for filters: broken-line, unknown-assertion, cannot-fail, …"""
    where: str
    """File and line, or an item's id."""
    what: str


class Item(BaseModel):
    """One item of a suite of either kind, reduced to what the rules need."""

    model_config = ConfigDict(frozen=True)

    id: str
    where: str
    context: str = ""
    """The messages before the last one; only items with the same context are compared."""
    text: str
    """The last message."""
    expected: str = ""
    """The right answer, if it is one text."""
    options: tuple[str, ...] = ()
    place: int | None = None
    """Index of the right option."""
    must_pass: bool = False


def list_ids(ids: Sequence[str]) -> str:
    """List the first ids, and count the rest."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more
