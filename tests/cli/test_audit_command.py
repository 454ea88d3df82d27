"""`weighbridge audit`: one line an entry in a narrow terminal too, and of MLflow only what nobody else recorded."""

from __future__ import annotations

import pytest

from cli.audit import acts, entries_table
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


def printed(entries: list[Entry], columns: int) -> list[str]:
    printer = console(width=columns, soft_wrap=True, force_terminal=False)
    with printer.capture() as captured:
        printer.print(entries_table(entries))
    return captured.get().splitlines()


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_each_entry_is_one_line_and_says_who_did_what_to_which_version(columns: int) -> None:
    header, _, first, second, after = printed(ENTRIES, columns)
    assert max(map(len, (header, first, second))) <= columns and not after
    for part in ("1 ", "11-30 17:25", "ada.lovela", "approve", "smollm2 12", "the "):
        assert part in first
    assert "2026" in header
    assert "key limit" in second and "oz" in second


def test_entries_of_several_years_name_the_year() -> None:
    older = ENTRIES[0].model_copy(update={"at": "2025-11-30T17:25:03+00:00"})
    assert "2025-11-30 17:25" in printed([older, ENTRIES[1]], 120)[2]


def test_requests_to_mlflow_are_left_out_unless_only_they_tell_of_an_approval() -> None:
    request = ENTRIES[0].model_copy(update={"action": "mlflow.create_model_version", "model": "smollm2"})
    of_the_command = request.model_copy(update={"number": 2})
    click = request.model_copy(update={"number": 3, "version": 13})
    candidate = request.model_copy(update={"number": 4, "version": 13, "model": "smollm2-candidates"})
    tag = request.model_copy(update={"number": 5, "action": "mlflow.set_registered_model_tag"})

    assert acts([ENTRIES[0], of_the_command, click, candidate, tag]) == [ENTRIES[0], click]
    assert any("approve in MLflow" in line for line in printed([click], 80))
