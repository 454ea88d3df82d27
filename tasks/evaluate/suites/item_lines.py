"""Lines of a suite's JSONL file. A reader stops at the first flawed line; the lint reports all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class FlawedLine(NamedTuple):
    """A line of a suite's file that is not an item, with the reason."""

    code: str
    what: str


def lines_of(path: Path) -> Iterator[tuple[int, dict[str, Any] | FlawedLine]]:
    """Yield the number and the object, or flaw, of every non-empty line; ids of objects are unique."""
    line_of_id: dict[str, int] = {}
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
        elif row["id"] in line_of_id:
            yield (
                number,
                FlawedLine("duplicate-id", f"the id {row['id']!r} is also that of line {line_of_id[row['id']]}"),
            )
        else:
            line_of_id[row["id"]] = number
            yield number, row
