"""Lines of progress in a run's log."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest

from tasks import steps
from weighbridge import pace


def messages(
    caplog: pytest.LogCaptureFixture, counts: Iterable[int], total: int, unit_bytes: bool = False
) -> list[str]:
    progress = steps.log_progress("score", unit_bytes)
    for done in counts:
        progress(done, total)
    return [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def slow(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is left out, and the shortest time counts as long enough."""
    monkeypatch.setattr(logging.getLogger("prefect"), "propagate", True)
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(steps, "QUIET_SECONDS", 0)
    monkeypatch.setattr(pace, "ENOUGH_SECONDS", 0)


def test_time_left_is_said_once_it_is_known_and_not_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    told = messages(caplog, (0, 10, 20, 30, 40), 40)
    assert told[:3] == ["score: 0 % (0 of 40)", "score: 25 % (10 of 40)", "score: 50 % (20 of 40)"]
    assert told[3].startswith("score: 75 % (30 of 40), about ") and told[3].endswith(" left")
    assert told[4] == "score: 100 % (40 of 40)"


def test_what_an_earlier_run_did_is_told_at_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "QUIET_SECONDS", 3600)
    assert messages(caplog, (51, 52, 53), 100) == ["score: resumed at 51 % (51 of 100)"]


def test_work_that_begins_says_nothing_of_an_earlier_run(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "QUIET_SECONDS", 3600)
    assert messages(caplog, (0, 1, 2), 100) == []


def test_bytes_have_a_speed_once_it_is_known(caplog: pytest.LogCaptureFixture) -> None:
    told = messages(caplog, (0, 10**6, 2 * 10**6, 3 * 10**6), 4 * 10**6, unit_bytes=True)
    assert told[1] == "score: 25 % (1 of 4 MB)"
    assert "MB/s), about " in told[3]
