"""The access log rotates by itself, and whoever reads it along loses no line."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.serve.gateway import access_log, log_files
from tasks.serve.gateway.client_usage import forget, read_usage
from tasks.serve.gateway.log_files import LogFollower, compress, expired, rotate, rotated
from tasks.serve.rollout.window import Window, read_history
from tests.serve.gateway.gateway_support import FakeEngine, Running
from tests.support.waiting import wait_for

Make = Callable[[], FakeEngine]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "gateway-access.log"


def entry(number: int, day: str = "2026-11-30") -> str:
    fields = {"time": f"{day}T10:00:00.000Z", "client": "ci", "line": "toy", "status": 200, "prompt_tokens": number}
    return json.dumps({**fields, "completion_tokens": 1}) + "\n"


def turn(log: Path) -> None:
    assert rotate(log, 1, timedelta(days=1), lambda: None)


def test_a_follower_reads_every_line_through_rotations(log: Path) -> None:
    log.write_text("before\n")
    follower = LogFollower(log)
    with log.open("a") as old:
        old.write("one\nhal")
        old.flush()
        assert list(follower.read()) == [b"one"]
        turn(log)
        # Envoy writes to the renamed file until it has opened the new one.
        old.write("f\ntwo\n")
    log.write_text("three\n")
    turn(log)
    log.write_text("four\n")
    turn(log)
    assert list(follower.read()) == [b"half", b"two", b"three", b"four"]
    log.write_text("five\n")
    assert list(follower.read()) == [b"five"]
    assert list(follower.read()) == []


def test_a_file_emptied_in_place_is_read_from_its_start(log: Path) -> None:
    log.write_text("before " * 10)
    follower = LogFollower(log)
    os.truncate(log, 0)
    with log.open("a") as file:
        file.write("after\n")
    assert list(follower.read()) == [b"after"]


def test_rotation_is_due_by_size_or_by_age(log: Path) -> None:
    assert rotate(log, 10, timedelta(days=1), lambda: None) is None
    log.write_text("short\n")
    assert rotate(log, 10, timedelta(days=1), lambda: None) is None
    yesterday = time.time() - 90_000
    os.utime(log, (yesterday, yesterday))
    assert rotate(log, 10, timedelta(days=1), lambda: None)
    log.write_text("long enough\n")
    assert rotate(log, 10, timedelta(days=1), lambda: None)
    assert [path.read_text() for path in rotated(log)] == ["short\n", "long enough\n"]


def test_usage_is_the_same_before_and_after_compression_and_deletion(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        log.write_text(entry(number) + entry(number, "2026-12-01"))
        turn(log)
    log.write_text(entry(10))
    before = read_usage(log)
    assert sum(row.prompt_tokens for row in before.rows) == 16
    monkeypatch.setattr(log_files, "PLAIN_SECONDS", 0)
    compress(log)
    assert [path.suffix for path in rotated(log)] == [".gz"] * 3
    assert gzip.decompress(rotated(log)[0].read_bytes()).decode() == entry(0) + entry(0, "2026-12-01")
    assert read_usage(log) == before
    assert expired(log, timedelta(days=1)) == []
    first = rotated(log)[0]
    kept = first.read_bytes()
    forget(log, [first])
    assert read_usage(log) == before
    # A process that was killed between the two steps has left the file.
    first.write_bytes(kept)
    assert read_usage(log) == before
    forget(log, expired(log, timedelta(0)))
    assert rotated(log) == [] and read_usage(log) == before
    assert read_usage(log, since_day="2026-12-01").rows == tuple(row for row in before.rows if row.day > "2026-11-30")


def test_the_judge_loses_no_request_to_a_rotation(running: Running, engine: Make) -> None:
    gateway = running.gateway
    log = access_log(gateway.settings)
    running.gateway.set_line("turned", [engine().backend("1", 100)])
    time.sleep(0.01)
    window = Window(log, "turned")
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(running.chat, "turned") for _ in range(200)]
        for _ in range(5):
            wait_for(lambda: log.exists() and log.stat().st_size > 0, seconds=15)
            rotate(log, 1, timedelta(days=1), gateway._admin.reopen_logs)
        assert {answer.result().status_code for answer in asked} == {200}

    def seen() -> int:
        window.read()
        return len(window.of("1").outcome)

    wait_for(lambda: seen() >= 200, lambda: str(seen()), seconds=10)
    assert seen() == 200
    assert len(rotated(log)) == 5
    assert len(read_history(log, "turned", "1")[0].outcome) > 0
