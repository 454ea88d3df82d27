"""Lines of a suite's JSONL file. A reader stops at the first flawed line; the lint reports all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from weighbridge.documents import parse_json, read_bytes
from weighbridge.errors import DocumentInvalid

MAX_BYTES = 256 * 2**20
"""Of a suite's items; the largest known one is 30 MB."""


class FlawedLine(NamedTuple):
    """A line of a suite's file that is not an item, with the reason."""

    code: str
    what: str


def lines_of(path: Path) -> Iterator[tuple[int, dict[str, Any] | FlawedLine]]:
    """Yield the number and the object, or flaw, of every non-empty line; ids of objects are unique."""
    line_of_id: dict[str, int] = {}
    try:
        content = read_bytes(path, MAX_BYTES)
    except DocumentInvalid as error:
        yield 1, FlawedLine("unreadable", f"the file is not read: {error.what}")
        return
    # Only at line feeds: a text may hold other separators of lines, which JSON allows.
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, path.name)
        except DocumentInvalid as error:
            yield number, FlawedLine("broken-line", _described(error))
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


def _described(error: DocumentInvalid) -> str:
    at = f" at column {error.column}" if error.column else ""
    return f"{error.what.removeprefix('The file is ').removesuffix('.')}{at}"
