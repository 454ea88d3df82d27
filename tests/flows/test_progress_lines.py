"""Lines of progress in a run's log."""

from __future__ import annotations

import logging

import pytest

from tasks import steps


def test_time_left_is_said_once_it_is_known_and_not_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "QUIET_SECONDS", 0)
    monkeypatch.setattr(logging.getLogger("prefect"), "propagate", True)
    with caplog.at_level(logging.INFO):
        progress = steps.log_progress("score")
        for done in (10, 20, 40):
            progress(done, 40)
    first, second, last = (record.getMessage() for record in caplog.records)
    assert first == "score: 25 % (10 of 40)", "the ten may come from an earlier run"
    assert "s left" in second
    assert last == "score: 100 % (40 of 40)"
