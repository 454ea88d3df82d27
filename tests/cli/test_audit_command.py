"""`weighbridge audit` reads in a narrow terminal as well as in a wide one."""

from __future__ import annotations

import pytest

from cli.audit import entries_table
from registry.audit import Entry
from weighbridge.terminal import console

ENTRIES = [
    Entry(
        number=1,
        at="2026-11-30T17:25:03.123456+00:00",
        who="ada.lovelace@example.org",
        action="approve",
        line="smollm2",
        version=12,
        what="a" * 64,
        reason="the verdict is non-inferior on every suite and the report was read",
        model="smollm2-candidates",
        address="127.0.0.1",
        previous="0" * 64,
        hash="1" * 64,
    ),
    Entry(
        number=1002,
        at="2026-11-30T17:26:03.123456+00:00",
        who="oz",
        action="key limit",
        line="",
        version=None,
        what="each key, a minute: requests 60, tokens –",
        reason="",
        previous="1" * 64,
        hash="2" * 64,
    ),
]


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_no_word_is_broken_and_each_entry_says_who_did_what_to_which_version(columns: int) -> None:
    printer = console(width=columns, record=True, soft_wrap=True, force_terminal=False)
    with printer.capture() as captured:
        printer.print(entries_table(ENTRIES))
    text = captured.get()
    assert max(map(len, text.splitlines())) <= columns
    words = text.split()
    for word in ("ada.lovelace@example.org", "smollm2-candidates", "127.0.0.1", "non-inferior", "a" * 12, "requests"):
        assert any(word == found.strip(".,") for found in words), f"{word} is broken:\n{text}"
    assert "2026-11-30 17:25:03" in text
    flowing = " ".join(words)
    assert "approve smollm2-candidates version 12 by ada.lovelace@example.org at 127.0.0.1" in flowing
    assert "key limit by oz" in flowing
    assert len(text.splitlines()) <= 12
