"""Items as they are scored, one line each, so that a scoring that is cut off goes on where it stopped.

A line is appended and handed to the operating system as soon as an item has its score: a process that is
killed loses nothing, a machine that loses power perhaps the last seconds. Once a suite is whole it goes into
the score book and the journal goes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import IO

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.evaluate.scoring.scores import Conditions, ItemScore, ScoreCache, SuiteScores
from tasks.evaluate.suites.suite import Suite
from weighbridge.files import READABLE, write_whole


class Line(BaseModel):
    """One line of a journal."""

    model_config = ConfigDict(frozen=True)

    item: ItemScore
    seconds: float
    """Since the line before, or since scoring went on."""


class PartialScores:
    """One model's unfinished scoring of one suite; made by `open_partial_scores`."""

    def __init__(self, path: Path, lines: Sequence[Line], file: IO[str]) -> None:
        self._path, self._file = path, file
        self.items = {line.item.id: line.item for line in lines}
        """What has a score, by id."""
        self.seconds = sum(line.seconds for line in lines)
        """Spent on scoring so far, over all attempts."""
        self._last = time.monotonic()

    def add(self, items: Sequence[ItemScore]) -> None:
        """Keep scores."""
        now = time.monotonic()
        share = (now - self._last) / max(len(items), 1)
        self._last = now
        for item in items:
            self._file.write(f"{Line(item=item, seconds=share).model_dump_json()}\n")
            self.items[item.id] = item
            self.seconds += share
        self._file.flush()

    def start_clock(self) -> None:
        """Time from here on counts as scoring; what came before was waiting."""
        self._last = time.monotonic()

    def delete(self) -> None:
        """The suite is in the book: the journal is no longer needed."""
        self._path.unlink(missing_ok=True)


@contextmanager
def open_partial_scores(path: Path) -> Iterator[PartialScores]:
    """Open a journal to read what is there and to add to it; one process at a time, another one waits.

    Args:
        path: `ScoreBook.journal_path` of the scoring.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        lines, sound = _read(path)
        if not sound:
            # Torn by a kill: what is added must not continue half a line.
            write_whole(path, "".join(f"{line.model_dump_json()}\n" for line in lines), READABLE)
        with path.open("a") as file:
            yield PartialScores(path, lines, file)
        if path.is_file() and path.stat().st_size == 0:
            path.unlink()


def finish_suite(
    cache: ScoreCache,
    journal: PartialScores,
    suite: Suite,
    key: Mapping[str, str],
    items: Sequence[ItemScore],
    conditions: Conditions,
) -> SuiteScores:
    """What a scoring came to: a whole suite goes into the book and its journal goes; a part stays in the journal.

    Args:
        key: what the book finds it by.
        items: that were looked at, in the order in which they were.
    """
    whole = len(items) == suite.items
    by_id = {item.id: item for item in items}
    scores = SuiteScores(
        suite=suite.name,
        **key,
        items=tuple(by_id[id] for id in suite.ids) if whole else tuple(items),
        seconds=journal.seconds,
        conditions=conditions,
        suite_items=None if whole else suite.items,
    )
    if whole:
        cache.keep(scores)
        journal.delete()
    return scores


def scores_before_gap(order: Sequence[str], items: Mapping[str, ItemScore]) -> list[ItemScore]:
    """The scores from the order's beginning to its first gap.

    Only these may be looked at before all are there: which items are answered first has to do with what they are.
    """
    return [items[id] for id in takewhile(items.__contains__, order)]


def read_partial_scores(path: Path) -> dict[str, ItemScore]:
    """What an unfinished scoring has so far, by id; nothing where there is none."""
    return {line.item.id: line.item for line in _read(path)[0]}


def _read(path: Path) -> tuple[list[Line], bool]:
    """The lines that can be read, and whether that is all of them."""
    if not path.is_file():
        return [], True
    text = path.read_text(errors="replace")
    # Not splitlines: an answer may hold one of the other characters that end a line there.
    *rows, rest = text.split("\n")
    lines, sound = [], not rest
    for row in rows:
        try:
            lines.append(Line.model_validate_json(row))
        except ValidationError:
            # Its item is asked again.
            sound = False
    return lines, sound
