"""Estimates of the time left: from the last minute, and none before enough is known."""

from __future__ import annotations

import pytest

from weighbridge.pace import Pace
from weighbridge.units import duration


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_is_told_before_enough_is_known(clock: Clock) -> None:
    pace = Pace(clock)
    told = []
    for done in range(6):
        pace.note(done)
        told.append(pace.seconds_left(100))
        clock.now += 2
    assert told[:3] == [None] * 3
    assert told[4] == pytest.approx(2 * 96, rel=0.01)


def test_what_an_earlier_run_did_counts_for_no_speed(clock: Clock) -> None:
    pace = Pace(clock)
    for done in range(510, 520):
        pace.note(done)
        clock.now += 1
    assert pace.per_second == pytest.approx(0.9, rel=0.05)
    assert pace.seconds_left(1000) == pytest.approx(481 / 0.9, rel=0.05)


def test_a_slow_start_is_forgotten_after_a_minute(clock: Clock) -> None:
    pace = Pace(clock)
    for done in range(4):
        pace.note(done)
        clock.now += 20
    slow = pace.seconds_left(300)
    for done in range(4, 200):
        pace.note(done)
        clock.now += 1
    assert slow is not None and slow > 5000
    assert pace.seconds_left(300) == pytest.approx(101, rel=0.1)


def test_steps_longer_than_the_window_still_have_a_rate(clock: Clock) -> None:
    pace = Pace(clock)
    for done in range(5):
        pace.note(done)
        clock.now += 100
    assert pace.seconds_left(10) == pytest.approx(6 * 400 / 3)


def test_work_that_stands_still_gets_slower_and_finished_work_has_no_rest(clock: Clock) -> None:
    pace = Pace(clock)
    for done in range(10):
        pace.note(done)
        clock.now += 1
    before = pace.seconds_left(20)
    clock.now += 600
    after = pace.seconds_left(20)
    assert before is not None and after is not None and after > 10 * before
    pace.note(20)
    assert pace.seconds_left(20) is None


def test_work_that_is_done_again_begins_anew(clock: Clock) -> None:
    pace = Pace(clock)
    for done in (*range(10), 2):
        pace.note(done)
        clock.now += 1
    assert pace.seconds_left(20) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (61, "61 s"), (1996, "33 min"), (5400, "2 h"), (93784, "26 h"), (864000, "10 d")]
)
def test_durations_are_read_by_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
