"""Measurements from the gateway's access log, line by line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from math import nan
from pathlib import Path

import pytest

from tasks.serve.rollout.sample import Outcome, Sample
from tasks.serve.rollout.window import Window, read_history


def entry(**changes: object) -> str:
    return json.dumps(
        {
            "time": (datetime.now(UTC) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%S.%f")[:23] + "Z",
            "line": "toy",
            "version": "2",
            "status": 200,
            "flags": None,
            "duration_ms": 900,
            "first_byte_ms": 100,
            "bytes_sent": 4000,
            "completion_tokens": 21,
            **changes,
        }
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "gateway-access.log"


def read(log: Path, *lines: str, version: str = "2") -> Sample:
    window = Window(log, "toy")
    log.write_text("".join(f"{line}\n" for line in lines))
    window.read()
    return window.of(version)


def test_an_answer_is_measured_by_times_and_length(log: Path) -> None:
    found = read(log, entry())
    assert found.outcome == [Outcome.ANSWERED]
    assert found.first_ms == [100]
    assert found.durations_ms == [900]
    assert found.token_times_ms == [40]
    assert found.token_counts == [21]


@pytest.mark.parametrize(
    ("token", "kind", "begins"),
    [(300, "text/event-stream; charset=utf-8", 300), (None, "text/event-stream", nan), (None, "application/json", 100)],
)
def test_a_stream_begins_with_its_first_content(log: Path, token: int | None, kind: str, begins: float) -> None:
    found = read(log, entry(first_token_ms=token, content_type=kind))
    assert found.first_ms == pytest.approx([begins], nan_ok=True)


@pytest.mark.parametrize(("details", "counted"), [("lua_response", []), ("via_upstream", [Outcome.FAILED])])
def test_only_429s_of_the_engine_are_failures(log: Path, details: str, counted: list[Outcome]) -> None:
    assert read(log, entry(status=429, details=details)).outcome == counted


@pytest.mark.parametrize("tokens", [None, "-"])
def test_without_token_counts_no_token_times_are_measured(log: Path, tokens: str | None) -> None:
    found = read(log, entry(completion_tokens=tokens))
    assert [*found.token_counts, *found.token_times_ms] == pytest.approx([nan, nan], nan_ok=True)
    assert found.byte_counts == [4000]


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"status": 500}, Outcome.FAILED),
        ({"flags": "UC"}, Outcome.FAILED),
        ({"status": 503, "flags": "UF"}, Outcome.FAILED),
        ({"status": 408}, Outcome.FAILED),
        ({"fault": "error_event"}, Outcome.FAILED),
        ({"fault": "error_event", "flags": "DC"}, Outcome.FAILED),
        ({"fault": "no_done"}, Outcome.UNMARKED),
        ({"fault": "-"}, Outcome.ANSWERED),
        ({"status": 400}, Outcome.REFUSED),
        ({"status": 422}, Outcome.REFUSED),
        ({"status": 0, "flags": "DC"}, Outcome.LEFT_WAITING),
        ({"flags": "DC"}, Outcome.LEFT_WAITING),
        ({"flags": "DC", "first_token_ms": 120}, Outcome.LEFT_READING),
    ],
)
def test_each_request_has_an_outcome(log: Path, changes: dict[str, object], outcome: Outcome) -> None:
    found = read(log, entry(**changes))
    assert found.outcome == [outcome]
    waited = 900.0 if "DC" in str(changes) and "fault" not in changes else nan
    assert found.waited_ms == pytest.approx([waited], nan_ok=True)


def test_a_version_s_history_is_read_with_the_times_in_which_it_had_the_load(log: Path) -> None:
    now = datetime.now(UTC)

    def at(seconds: float, version: str) -> str:
        time = (now - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%f")[:23] + "Z"
        return entry(time=time, version=version, client=f"{version} {seconds:.0f}") + "\n"

    shared = "".join(at(100, version) for version in "1212")
    log.write_text(at(5000, "1") + at(600, "1") + shared + at(50, "1") + "{cut")
    history, full_load = read_history(log, "toy", "1")
    assert history.key == ["1 600", "1 100", "1 100", "1 50"]
    assert full_load.key == ["1 600", "1 50"]
    assert read_history(log.with_name("none"), "toy", "1")[0].requests == 0


def test_other_lines_versions_and_older_requests_are_not_counted(log: Path) -> None:
    old = {"time": "2020-01-01T00:00:00.000Z"}
    found = read(log, entry(line="other"), entry(version="1"), entry(version=None), entry(**old), "{cut off", entry())
    assert found.requests == 1


def test_earlier_entries_are_skipped_and_new_ones_are_read_once(log: Path) -> None:
    log.write_text(entry() + "\n")
    window = Window(log, "toy")
    whole = entry() + "\n"
    with log.open("a") as file:
        file.write(whole[:40])
        file.flush()
        window.read()
        assert window.of("2").requests == 0
        file.write(whole[40:])
        file.flush()
        window.read()
        window.read()
    assert window.of("2").requests == 1


def test_a_rotated_or_missing_log_is_tolerated(log: Path) -> None:
    window = Window(log, "toy")
    window.read()
    log.write_text(entry() + "\n" + entry() + "\n")
    window.read()
    log.write_text(entry() + "\n")
    window.read()
    assert window.of("2").requests == 3
