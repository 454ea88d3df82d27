"""The lines of a suite's JSONL file: items, or why they are none; a lint goes on where a reader stops."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class FlawedLine(NamedTuple):
    """Why a line of a suite's file is no item."""

    code: str
    what: str


def lines_of(path: Path) -> Iterator[tuple[int, dict[str, Any] | FlawedLine]]:
    """(line number, object or what is wrong) of every line that is not empty; ids are all different."""
    seen: dict[str, int] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            yield number, FlawedLine("broken-line", f"not JSON: {error.msg} at column {error.colno}")
            continue
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row["id"]:
            yield number, FlawedLine("no-id", "each line must be an object with a text `id`")
        elif row["id"] in seen:
            yield number, FlawedLine("duplicate-id", f"the id {row['id']!r} is that of line {seen[row['id']]} too")
        else:
            seen[row["id"]] = number
            yield number, row
