"""An unfinished scoring keeps what it has, whatever cuts it off."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.evaluate.scoring.partial_scores import open_partial_scores, read_partial_scores, scores_before_gap
from tasks.evaluate.scoring.scores import ItemScore


def items(count: int, start: int = 0) -> list[ItemScore]:
    return [ItemScore(id=f"i{number}", score=1.0, answer="a\u2028b\n\x85") for number in range(start, start + count)]


def test_items_are_there_again_with_the_time_they_took(tmp_path: Path) -> None:
    path = tmp_path / "book/x.jsonl"
    with open_partial_scores(path) as journal:
        journal.add(items(3))
        assert list(read_partial_scores(path)) == ["i0", "i1", "i2"], "already before it is closed"
        spent = journal.seconds
    with open_partial_scores(path) as journal:
        assert list(journal.items.values()) == items(3)
        assert journal.seconds == pytest.approx(spent)
        journal.add(items(2, start=3))
        assert journal.seconds > spent
    assert len(read_partial_scores(path)) == 5


@given(st.integers(0, 400))
def test_wherever_a_line_is_torn_the_rest_is_there_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "x.jsonl"
    with open_partial_scores(path) as journal:
        journal.add(items(4))
    whole = path.read_bytes()
    path.write_bytes(whole[: max(len(whole) - cut, 0)])
    left = path.read_bytes().count(b"\n")
    with open_partial_scores(path) as journal:
        assert list(journal.items.values()) == items(left)
        journal.add(items(1, start=9))
    assert list(read_partial_scores(path).values()) == [*items(left), *items(1, start=9)]


def test_a_journal_that_was_never_written_leaves_nothing(tmp_path: Path) -> None:
    with open_partial_scores(tmp_path / "x.jsonl") as journal:
        assert journal.items == {}
    assert not (tmp_path / "x.jsonl").exists()


def test_only_what_has_no_gap_before_it_is_looked_at() -> None:
    there = {item.id: item for item in items(5) if item.id != "i2"}
    assert [item.id for item in scores_before_gap(["i1", "i0", "i2", "i3"], there)] == ["i1", "i0"]
