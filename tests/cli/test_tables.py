"""Every table of every command at 80 and at 120 columns, as text files in `tables/` that a person can look at.

A change of a table changes its files: `RENEW_TABLES=1 pytest tests/cli/test_tables.py` writes them anew. Look at the
difference, then commit it.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from cli.columns import Column, below, number, short, whole
from cli.output import say, table
from tests.cli.table_examples import EXAMPLES
from weighbridge.terminal import console, styled

FOLDER = Path(__file__).with_name("tables")
RENEW = bool(os.environ.get("RENEW_TABLES"))


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe, whatever the shell says about colours."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("weighbridge.settings.use_libraries", lambda settings: None)


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return "".join(capsys.readouterr()).splitlines()


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_table_looks_as_it_did(
    name: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    folder = tmp_path / "llama-3.1-8b"
    folder.mkdir()
    EXAMPLES[name](folder)
    lines = lines_of(capsys)
    too_wide = [line for line in lines if len(line) > columns]
    assert not too_wide, "\n".join(too_wide)
    file = FOLDER / f"{name.rstrip('_').replace('_', '-')}-{columns}.txt"
    text = "\n".join(lines) + "\n"
    if RENEW:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert file.read_text() == text, f"{file.name} differs; with RENEW_TABLES=1 this test writes it anew"


def test_without_a_width_a_pipe_gets_120_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def widest() -> int:
        rows = table("what")
        rows.add_row("word " * 60)
        say(rows)
        return max(map(len, lines_of(capsys)))

    assert 110 < widest() <= 120
    monkeypatch.setenv("COLUMNS", "50")
    assert 40 < widest() <= 50
    monkeypatch.setenv("COLUMNS", "wide")
    assert 110 < widest() <= 120


@settings(max_examples=150)
@given(
    columns=st.integers(24, 160),
    rows=st.lists(
        st.tuples(*[st.lists(st.text("abäß界-", min_size=1, max_size=11), max_size=6).map(" ".join)] * 4), max_size=4
    ),
)
def test_no_line_is_wider_than_the_terminal_and_no_word_is_broken(columns: int, rows: list[tuple[str, ...]]) -> None:
    shown = table("first", below("second"), Column("third"), number("fourth (GiB)"))
    for row in rows:
        shown.add_row(*row)
    printer = console(width=columns, force_terminal=False, soft_wrap=True)
    with printer.capture() as captured:
        printer.print(shown)
    lines = captured.get().splitlines()
    assert all(cell_len(line) <= columns and line == line.rstrip() for line in lines)
    expected = Counter(word for row in rows for cell in row for word in cell.split() if cell_len(word) <= columns - 14)
    assert not expected - Counter(word for line in lines for word in line.split())


def test_only_short_columns_are_cut_and_only_as_far_as_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    rows = table(number("#"), whole("time"), short("why"))
    rows.add_row("1", "2026-11-30 17:25", "the report was read by two people")
    say(rows)
    assert lines_of(capsys)[2] == "1 2026-11-30 17:25 the report was read …"


def test_a_cell_keeps_its_colour_and_shows_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    rows = table("state", "name")
    rows.add_row(styled("down", "red"), "a\x1b[2Jb\u202e")
    rows.add_row(Text("up", style="green"), "[red]")
    printer = console(force_terminal=True, width=80, color_system="standard")
    with printer.capture() as captured:
        printer.print(rows)
    text = captured.get()
    assert "\x1b[31mdown\x1b[0m" in text and "\x1b[32mup" in text
    assert r"a\x1b[2Jb\u202e" in text and "[red]" in text


def test_a_row_needs_a_cell_for_each_column() -> None:
    with pytest.raises(ValueError, match="1 cells in a table of 2 columns"):
        table("a", "b").add_row("only")
