"""`up` on a full disk: refused by name before a service starts that would die of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack import lifecycle
from weighbridge.errors import DiskFull
from weighbridge.settings import load_settings


def test_a_home_on_a_full_disk_is_refused_before_anything_starts(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "LEAST_FREE_MIB", 10**9)
    with pytest.raises(DiskFull, match="MiB free") as caught:
        lifecycle.up(load_settings(), lambda name, text: None)
    assert caught.value.where == str(own_home)
    assert list(own_home.iterdir()) == []
