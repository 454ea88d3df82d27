"""Columns of a table: what their cells are decides how they fit a narrow terminal. `cli/tables.py` lays them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        header: What its cells are, with the unit of numbers.
        kind: `words` wrap between words; a `whole` text and a `number`, which stands at the right, are never wrapped;
            `short` is one line.
        below: Whether its cells move below their row where the table is too wide.
    """

    header: str
    kind: Literal["words", "whole", "number", "short"] = "words"
    below: bool = False


def number(header: str) -> Column:
    """Make a column of numbers, aligned at the right; the header names their unit."""
    return Column(header, "number")


def whole(header: str) -> Column:
    """Make a column of texts that are never wrapped, such as times."""
    return Column(header, "whole")


def short(header: str) -> Column:
    """Make a column that takes the width which is left, and is cut there."""
    return Column(header, "short")


def below(header: str) -> Column:
    """Make a column of long texts, which move below their row in a narrow terminal."""
    return Column(header, below=True)
