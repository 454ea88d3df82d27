"""Paired scores as arrays, and the JSON-lines file that they come in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from weighbridge.errors import PairsInvalid

Array = NDArray[np.float64]

FORM = 'Each line is {"id", "production", "candidate"[, "cluster"][, "margin"]}, scores from 0 to 1.'


@dataclass(frozen=True, slots=True)
class Pairs:
    """Both models' scores on the same items, in the order given.

    Scores lie between 0 and 1; NaN stands for a lost score. `clusters` has the number of the document or conversation
    that each item belongs to. `production_confidence` is how sure production was of each answer, in nats or any other
    unit: only the order of its absolute values counts.
    """

    ids: tuple[str, ...]
    production: Array
    candidate: Array
    clusters: NDArray[np.int64] | None = None
    production_confidence: Array | None = None

    def __len__(self) -> int:
        return len(self.ids)


def read_pairs(path: Path) -> Pairs:
    """Read a file of paired scores, one JSON object a line; blank lines are skipped.

    Raises:
        PairsInvalid: the file cannot be read, or a line of it is not a pair of scores; names the line.
    """
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise PairsInvalid(f"The file cannot be read: {error}.", FORM, where=str(path)) from error
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    if not lines:
        raise PairsInvalid("The file has no items.", FORM, where=str(path))
    try:
        # Parsing the whole file at once is three times faster than line by line. Lines that are JSON only when joined
        # give another number of rows than there are lines.
        rows = json.loads(f"[{','.join(lines)}]")
    except (ValueError, RecursionError):  # a number of 5,000 digits is no JSONDecodeError
        rows = []
    if len(rows) != len(lines) or not all(type(row) is dict for row in rows):
        _blame_line(path, text)
    return _Columns(path, text, rows).pairs()


class _Columns:
    """Turns rows into columns; an error names the line of its row."""

    def __init__(self, path: Path, text: str, rows: list[dict[str, Any]]) -> None:
        self.path, self.text, self.rows = path, text, rows

    def pairs(self) -> Pairs:
        return Pairs(
            self._ids(),
            self._scores("production"),
            self._scores("candidate"),
            self._clusters(),
            self._production_confidence(),
        )

    def _ids(self) -> tuple[str, ...]:
        ids = [row.get("id") for row in self.rows]
        for number, id in enumerate(ids):
            if not isinstance(id, str | int) or isinstance(id, bool) or id == "":
                self._refuse(number, "`id` is missing, or neither text nor a whole number")
        named = tuple(map(str, ids))
        if len(set(named)) < len(named):
            earlier: set[str] = set()
            for number, name in enumerate(named):
                if name in earlier:
                    self._refuse(number, f"the id {name!r} occurs twice; give runs of one item a common `cluster`")
                earlier.add(name)
        return named

    def _scores(self, field: str) -> Array:
        column = self._numbers(field, lost_allowed=True)
        wrong = (column < 0) | (column > 1)
        if wrong.any():
            self._refuse(int(wrong.argmax()), f"`{field}` is not between 0 and 1")
        return column

    def _production_confidence(self) -> Array | None:
        if not any("margin" in row for row in self.rows):
            return None
        return self._numbers("margin", lost_allowed=False)

    def _clusters(self) -> NDArray[np.int64] | None:
        if not any("cluster" in row for row in self.rows):
            return None
        numbers: dict[str, int] = {}
        column = np.empty(len(self.rows), dtype=np.int64)
        for number, row in enumerate(self.rows):
            name = row.get("cluster")
            if not isinstance(name, str | int) or isinstance(name, bool):
                self._refuse(number, "`cluster` is missing here, or neither text nor a whole number")
            column[number] = numbers.setdefault(str(name), len(numbers))
        return column

    def _numbers(self, field: str, lost_allowed: bool) -> Array:
        try:
            values = [row[field] for row in self.rows]
        except KeyError:
            self._refuse(next(n for n, row in enumerate(self.rows) if field not in row), f"`{field}` is missing")
        if not {type(value) for value in values} <= {int, float, bool, type(None)}:
            odd = next(n for n, v in enumerate(values) if type(v) not in (int, float, bool, type(None)))
            self._refuse(odd, f"`{field}` is not a number")
        lost = np.array([value is None for value in values]) if None in values else np.zeros(len(values), dtype=bool)
        try:
            column = np.array(values, dtype=float)
        except OverflowError:
            column = np.array([np.inf if value is not None and abs(value) > 1e300 else 0.0 for value in values])
        if (wrong := ~np.isfinite(column) & ~(lost if lost_allowed else np.zeros_like(lost))).any():
            self._refuse(int(wrong.argmax()), f"`{field}` is not a finite number")
        return column

    def _refuse(self, row: int, what: str) -> NoReturn:
        lines = [number for number, line in enumerate(self.text.split("\n"), 1) if line and not line.isspace()]
        raise PairsInvalid(f"Line {lines[row]}: {what}.", FORM, where=f"{self.path}:{lines[row]}")


def _blame_line(path: Path, text: str) -> NoReturn:
    for number, line in enumerate(text.split("\n"), 1):
        if not line or line.isspace():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PairsInvalid(f"Line {number} is not JSON: {error}.", FORM, where=f"{path}:{number}") from error
        if type(row) is not dict:
            raise PairsInvalid(f"Line {number} is not a JSON object.", FORM, where=f"{path}:{number}")
    raise AssertionError("each line is an object, and together they are not a list of them")
