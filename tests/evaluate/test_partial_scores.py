"""Partial scores survive any interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.evaluate.scoring.partial_scores import open_partial_scores, read_partial_scores, scores_before_gap
from tasks.evaluate.scoring.scores import ItemScore


def items(count: int, start: int = 0) -> list[ItemScore]:
    return [ItemScore(id=f"i{number}", score=1.0, answer="a\u2028b\n\x85") for number in range(start, start + count)]


def test_items_and_their_time_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "scores/x.jsonl"
    with open_partial_scores(path) as partial_scores:
        partial_scores.add(items(3))
        assert list(read_partial_scores(path)) == ["i0", "i1", "i2"], "before the file is closed"
        spent = partial_scores.seconds
    with open_partial_scores(path) as partial_scores:
        assert list(partial_scores.items.values()) == items(3)
        assert partial_scores.seconds == pytest.approx(spent)
        partial_scores.add(items(2, start=3))
        assert partial_scores.seconds > spent
    assert len(read_partial_scores(path)) == 5


@settings(deadline=None)  # files, on a busy machine
@given(st.integers(0, 400))
def test_a_truncated_file_keeps_its_whole_lines_and_can_be_appended_to(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("partial_scores") / "x.jsonl"
    with open_partial_scores(path) as partial_scores:
        partial_scores.add(items(4))
    whole = path.read_bytes()
    path.write_bytes(whole[: max(len(whole) - cut, 0)])
    whole_lines = path.read_bytes().count(b"\n")
    with open_partial_scores(path) as partial_scores:
        assert list(partial_scores.items.values()) == items(whole_lines)
        partial_scores.add(items(1, start=9))
    assert list(read_partial_scores(path).values()) == [*items(whole_lines), *items(1, start=9)]


def test_an_unused_file_is_removed(tmp_path: Path) -> None:
    with open_partial_scores(tmp_path / "x.jsonl") as partial_scores:
        assert partial_scores.items == {}
    assert not (tmp_path / "x.jsonl").exists()


def test_only_scores_before_the_first_gap_are_evaluated() -> None:
    scored = {item.id: item for item in items(5) if item.id != "i2"}
    assert [item.id for item in scores_before_gap(["i1", "i0", "i2", "i3"], scored)] == ["i1", "i0"]
