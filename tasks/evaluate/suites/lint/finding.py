"""What a check has to say of a suite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

Level = Literal["error", "warning", "note"]
GRAVEST_FIRST: tuple[Level, ...] = ("error", "warning", "note")
SHOWN = 5
"""How many items a sentence names before it only counts."""


class Finding(BaseModel):
    """One thing that is wrong with a suite, or worth knowing."""

    model_config = ConfigDict(frozen=True)

    level: Level
    code: str
    """Stable, for those who filter: broken-line, unknown-assertion, cannot-fail, …"""
    where: str
    """File and line, or an item's id."""
    what: str


class Item(BaseModel):
    """One item of a suite of either kind, as far as checks over all items look at it."""

    model_config = ConfigDict(frozen=True)

    id: str
    where: str
    context: str = ""
    """What stands before the last message; only items of one context are compared."""
    text: str
    """What is asked at last."""
    expected: str = ""
    """What a right answer says, where that is one text."""
    options: tuple[str, ...] = ()
    place: int | None = None
    """Which of the options is right."""
    must_pass: bool = False


def named(ids: Sequence[str]) -> str:
    """Some of many names, and how many more there are."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more
