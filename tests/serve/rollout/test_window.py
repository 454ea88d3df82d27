"""Measurements from the gateway's access log, line by line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.serve.rollout.window import Sample, Window


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
    assert (found.requests, found.failed) == (1, 0)
    assert found.first_byte_ms == [100]
    assert found.total_ms == [900]
    assert found.token_ms == [40]
    assert found.tokens == [21]


@pytest.mark.parametrize(("token", "begins"), [(300, 300), (None, 100)])
def test_a_stream_s_first_byte_is_its_first_token(log: Path, token: int | None, begins: int) -> None:
    assert read(log, entry(first_token_ms=token)).first_byte_ms == [begins]


@pytest.mark.parametrize(("details", "counted"), [("lua_response", 0), ("via_upstream", 1)])
def test_only_429s_of_the_engine_are_failures(log: Path, details: str, counted: int) -> None:
    assert read(log, entry(status=429, details=details)).failed == counted


@pytest.mark.parametrize("tokens", [None, "-"])
def test_without_token_counts_no_token_times_are_measured(log: Path, tokens: str | None) -> None:
    found = read(log, entry(completion_tokens=tokens))
    assert (found.tokens, found.token_ms, found.sent_bytes) == ([], [], [4000])


@pytest.mark.parametrize(
    "bad",
    [{"status": 500}, {"status": 400}, {"flags": "UC"}, {"status": 0, "flags": "DC"}, {"status": 503, "flags": "UF"}],
)
def test_errors_cuts_and_clients_that_gave_up_waiting_are_failures(log: Path, bad: dict[str, object]) -> None:
    found = read(log, entry(**bad))
    assert (found.requests, found.failed, found.total_ms) == (1, 1, [])


def test_a_disconnected_client_is_no_failure_and_not_measured(log: Path) -> None:
    found = read(log, entry(flags="DC"))
    assert (found.requests, found.failed, found.total_ms, found.tokens) == (1, 0, [], [])
    assert found.first_byte_ms == [100]


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
