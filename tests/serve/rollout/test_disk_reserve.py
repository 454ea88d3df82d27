"""The disk reserve for rollbacks; a disk that is really full is in test_faults_around.py."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tasks.serve.rollout.disk_reserve import RESERVE_BYTES, keep_reserve, with_reserve
from weighbridge.errors import DiskFull
from weighbridge.files import write_whole
from weighbridge.settings import load_settings


def test_removing_traffic_is_retried_without_the_disk_reserve() -> None:
    settings = load_settings()
    keep_reserve(settings)
    reserve = settings.home / "gateway" / "reserve"
    assert reserve.stat().st_size == RESERVE_BYTES
    keep_reserve(settings)
    tries = []

    def move() -> str:
        tries.append(reserve.exists())
        if reserve.exists():
            raise DiskFull("There is no room.", "Free some.")
        return "moved"

    assert with_reserve(settings, move) == "moved"
    assert tries == [True, False]
    assert with_reserve(settings, move) == "moved"
    keep_reserve(settings)
    assert reserve.stat().st_size == RESERVE_BYTES


def test_a_disk_too_full_without_the_reserve_is_reported() -> None:
    def move() -> None:
        raise DiskFull("There is no room.", "Free some.")

    with pytest.raises(DiskFull):
        with_reserve(load_settings(), move)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_file_that_does_not_fit_is_reported_and_keeps_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "routes.json"
    write_whole(path, "old")

    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"routes\.json"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
