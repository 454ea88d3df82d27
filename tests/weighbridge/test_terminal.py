"""What comes from outside cannot control a terminal, and cannot pass for something else."""

from __future__ import annotations

import io
import logging
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from tests.support.mutation import examples
from weighbridge.terminal import console, on_one_line, styled, visible, watch_log_records, without_colours

HOSTILE = (
    "ok\x1b[1A\x1b[2K\x1b]0;title\x07\x9b2J\x7f\u202egnp\u2066\u200b\ufeff\r[red]x[/red][link=http://evil]y[/link][/]"
)


def obeyed(text: str) -> list[str]:
    """List the characters that a terminal obeys or hides."""
    return [letter for letter in text if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


@examples()
@given(st.text())
def test_no_text_keeps_a_character_that_a_terminal_obeys_or_hides(text: str) -> None:
    assert set(obeyed(visible(text))) <= {"\n", "\t"}
    assert obeyed(on_one_line(text)) == []
    assert visible("Grüße, 你好 – naïve") == "Grüße, 你好 – naïve"


@pytest.mark.parametrize("printed", ["cell", "title", "string", "object", "style"])
def test_a_console_shows_a_hostile_name_and_obeys_none_of_it(printed: str) -> None:
    printer = console(file=(written := io.StringIO()), width=500)
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    what = {
        "cell": table,
        "title": table,
        "string": HOSTILE,
        "object": Text(HOSTILE),
        "style": styled(HOSTILE, "bold red"),
    }
    printer.print(what[printed])
    assert set(obeyed(written.getvalue())) <= {"\n"}
    assert r"ok\x1b[1A\x1b[2K\x1b]0;title" in written.getvalue()
    assert "[red]x[/red]" in written.getvalue(), "a name's brackets are no markup"


def test_a_style_is_ours_alone() -> None:
    printer = console(file=(written := io.StringIO()), force_terminal=True, color_system="standard", width=100)
    printer.print(f"{styled('bold', 'bold')} [bold]not[/bold]")
    assert written.getvalue() == "\x1b[1mbold\x1b[0m [bold]not[/bold]\n"


def test_columns_are_as_wide_as_what_is_shown() -> None:
    printer = console(file=(written := io.StringIO()), width=60)
    table = Table("name", "next")
    table.add_row("a\x1b[2Kb", "c")
    table.add_row("plain", "c")
    printer.print(table)
    assert len({len(line) for line in written.getvalue().splitlines()}) == 1


def test_log_messages_are_shown_too() -> None:
    before = logging.getLogRecordFactory()
    try:
        watch_log_records()
        record = logging.getLogger("x").makeRecord("x", logging.INFO, "f", 1, "repo %s", ("a\x1b[2Kb",), None)
        assert record.getMessage() == r"repo a\x1b[2Kb"
        try:
            raise ValueError("a\x1b[2Kb")
        except ValueError:
            record = logging.getLogger("x").makeRecord("x", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
        assert logging.Formatter().format(record).endswith(r"ValueError: a\x1b[2Kb")
    finally:
        logging.setLogRecordFactory(before)


def test_a_log_s_colours_are_dropped_and_the_rest_is_shown() -> None:
    assert visible(without_colours("\x1b[32mINFO\x1b[0m moved \x1b[1A")) == r"INFO moved \x1b[1A"
