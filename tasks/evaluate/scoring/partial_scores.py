"""Scores of unfinished suites, one line per item, so that an interrupted scoring continues where it stopped.

A line is appended and handed to the operating system as soon as an item is scored. A killed process loses nothing;
a machine that loses power loses perhaps the last seconds. A finished suite moves into the score cache, and its file
of partial scores is deleted.
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


class ScoredItem(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(frozen=True)

    item: ItemScore
    seconds: float
    """Since the line before, or since scoring was resumed."""


class PartialScores:
    """One model's scores on an unfinished suite; opened by `open_partial_scores`."""

    def __init__(self, path: Path, scored: Sequence[ScoredItem], file: IO[str]) -> None:
        self._path, self._file = path, file
        self.items = {line.item.id: line.item for line in scored}
        """Scored items by id."""
        self.seconds = sum(line.seconds for line in scored)
        """Time spent on scoring so far, over all attempts."""
        self._last_add = time.monotonic()

    def add(self, items: Sequence[ItemScore]) -> None:
        """Append scores."""
        now = time.monotonic()
        share = (now - self._last_add) / max(len(items), 1)
        self._last_add = now
        for item in items:
            self._file.write(f"{ScoredItem(item=item, seconds=share).model_dump_json()}\n")
            self.items[item.id] = item
            self.seconds += share
        self._file.flush()

    def start_clock(self) -> None:
        """Count time as scoring from now on; the time before was waiting."""
        self._last_add = time.monotonic()

    def delete(self) -> None:
        """Delete the file: the suite is in the score cache."""
        self._path.unlink(missing_ok=True)


@contextmanager
def open_partial_scores(path: Path) -> Iterator[PartialScores]:
    """Open the partial scores of a suite for reading and appending; a second process waits for the first.

    Args:
        path: `ScoreCache.partial_scores_path` of the scoring.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        scored, intact = _read(path)
        if not intact:
            # A kill cut a line short: the next line must not continue it.
            write_whole(path, "".join(f"{line.model_dump_json()}\n" for line in scored), READABLE)
        with path.open("a") as file:
            yield PartialScores(path, scored, file)
        if path.is_file() and path.stat().st_size == 0:
            path.unlink()


def finish_suite(
    cache: ScoreCache,
    partial_scores: PartialScores,
    suite: Suite,
    key: Mapping[str, str],
    items: Sequence[ItemScore],
    conditions: Conditions,
) -> SuiteScores:
    """Return the scores of a suite; cache them if every item is scored, else leave the partial scores for later.

    Args:
        cache: receives the scores of a whole suite.
        partial_scores: of the same suite; deleted when the suite is cached.
        suite: the scored suite.
        key: artifact_digest, suite_digest and scorer, as `ScoreCache.find` takes them.
        items: the items that count, in the order in which they were evaluated.
        conditions: recorded with the scores.
    """
    is_whole = len(items) == suite.items
    by_id = {item.id: item for item in items}
    scores = SuiteScores(
        suite=suite.name,
        **key,
        items=tuple(by_id[id] for id in suite.ids) if is_whole else tuple(items),
        seconds=partial_scores.seconds,
        conditions=conditions,
        suite_items=None if is_whole else suite.items,
    )
    if is_whole:
        cache.keep(scores)
        partial_scores.delete()
    return scores


def scores_before_gap(order: Sequence[str], items: Mapping[str, ItemScore]) -> list[ItemScore]:
    """Return the scores from the beginning of an order to its first missing item.

    Only these may be evaluated before the suite is complete: which items are answered first depends on their content.
    """
    return [items[id] for id in takewhile(items.__contains__, order)]


def read_partial_scores(path: Path) -> dict[str, ItemScore]:
    """Read the scores of an unfinished suite by item id; empty if there is no file."""
    return {line.item.id: line.item for line in _read(path)[0]}


def _read(path: Path) -> tuple[list[ScoredItem], bool]:
    """The readable lines, and whether every line was readable."""
    if not path.is_file():
        return [], True
    text = path.read_text(errors="replace")
    # Not splitlines: an answer may contain the other characters that it splits at.
    *lines, last_line = text.split("\n")
    scored, intact = [], not last_line
    for line in lines:
        try:
            scored.append(ScoredItem.model_validate_json(line))
        except ValidationError:
            # The item is scored again.
            intact = False
    return scored, intact
