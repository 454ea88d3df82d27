"""Tables of commands: as wide as the terminal, and never wider. No word is cut or broken to make one fit.

A table that is too wide for its terminal first has narrower gaps, then moves the columns made by `cli.columns.below` to
lines of their own under each row, then wraps texts between words, and at last becomes a block of `header  value` lines
for each row. Only columns made by `short` are cut, with …; their commands have another way to show the whole text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from cli.columns import Column

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

COMFORTABLE, COMFORTABLE_BELOW = 24, 40
"""A text's column is at least this wide, if its texts are, before columns move below their row; and those that move."""
SHORTEST = 10
"""A short column is not cut further."""
INDENT = "    "
"""Before what stands below a row."""


class Table:
    """Rows in columns; printed by `cli.output.say`.

    Args:
        columns: The columns; a plain text is the header of a column of words.
        title: Printed before the table.
    """

    def __init__(self, columns: Sequence[str | Column], title: str = "") -> None:
        self.columns = [Column(column) if isinstance(column, str) else column for column in columns]
        self.title = title
        self.rows: list[tuple[str | Text, ...]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Add a row: a cell for each column, plain, `styled`, or a text of rich."""
        if len(cells) != len(self.columns):
            raise ValueError(f"a row of {len(cells)} cells in a table of {len(self.columns)} columns")
        self.rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Lay the table out for a console."""
        rows = [[_as_text(console, cell) for cell in row] for row in self.rows]
        if self.title:
            yield Text(self.title, style="bold", overflow="fold")
        yield from _Layout(self.columns, rows, console, options.max_width).lines()
        yield Text("")


class _Layout:
    """The lines of a table for one width."""

    def __init__(self, columns: list[Column], rows: list[list[Text]], console: Console, width: int) -> None:
        self.columns, self.rows, self.console, self.width = columns, rows, console, width
        self.everything = list(range(len(columns)))
        self.beside = [at for at in self.everything if not columns[at].below]

    def lines(self) -> Iterator[Text]:
        beside = (self.everything, self.beside) if len(self.beside) < len(self.everything) else (self.everything,)
        for shown, gap, comfortable in (
            *((shown, gap, True) for shown in beside for gap in (2, 1)),
            (beside[-1], 1, False),
        ):
            if shown and (widths := self._widths(shown, gap, comfortable)):
                return self._as_table(shown, widths, gap)
        return self._as_blocks()

    def _widths(self, shown: list[int], gap: int, comfortable: bool) -> list[int]:
        """Return a width for each of these columns, or nothing if they do not fit."""
        widest = [max(cell_len(line) for line in self._texts(at)) for at in shown]
        widths = [self._least(at, most, comfortable) for at, most in zip(shown, widest, strict=True)]
        left = self.width - sum(widths) - gap * (len(shown) - 1)
        if left < 0:
            return []
        # Those that need least first: each gets an equal part of what is left, or all that it needs.
        wanting = sorted(range(len(shown)), key=lambda place: widest[place] - widths[place])
        for done, place in enumerate(wanting):
            more = min(widest[place] - widths[place], left // (len(wanting) - done))
            widths[place] += more
            left -= more
        return widths

    def _least(self, at: int, widest: int, comfortable: bool) -> int:
        kind = self.columns[at].kind
        # A header may take several lines, but its words are whole too.
        header = max((cell_len(word) for word in self.columns[at].header.split()), default=0)
        cells = [line for row in self.rows for line in row[at].plain.split("\n")]
        longest = max(map(cell_len, cells), default=0)
        if kind in ("number", "whole"):
            return max(header, longest)
        if kind == "short":
            return max(header, min(longest, COMFORTABLE if comfortable else SHORTEST))
        word = max((cell_len(word) for line in cells for word in line.split()), default=0)
        least = COMFORTABLE_BELOW if self.columns[at].below else COMFORTABLE
        return max(header, word, min(longest, least)) if comfortable else max(header, word)

    def _texts(self, at: int) -> list[str]:
        cells = [row[at].plain for row in self.rows]
        return [line for text in (self.columns[at].header, *cells) for line in text.split("\n")]

    def _as_table(self, shown: list[int], widths: list[int], gap: int) -> Iterator[Text]:
        headers = [Text(self.columns[at].header, style="bold") for at in shown]
        yield from self._row(shown, headers, widths, gap)
        yield Text("─" * (sum(widths) + gap * (len(widths) - 1)), style="dim")
        moved = [at for at in self.everything if at not in shown]
        for row in self.rows:
            yield from self._row(shown, [row[at] for at in shown], widths, gap)
            yield from self._below(moved, row)

    def _row(self, shown: list[int], cells: list[Text], widths: list[int], gap: int) -> Iterator[Text]:
        wrapped = [
            self._wrapped(cell, width, self.columns[at].kind)
            for at, cell, width in zip(shown, cells, widths, strict=True)
        ]
        for number_ in range(max(map(len, wrapped))):
            line = Text(no_wrap=True)
            for at, lines, width in zip(shown, wrapped, widths, strict=True):
                part = lines[number_].copy() if number_ < len(lines) else Text()
                part.rstrip()
                part.align("right" if self.columns[at].kind == "number" else "left", width)
                line.append_text(part).append(" " * gap)
            line.rstrip()
            yield line

    def _wrapped(self, cell: Text, width: int, kind: str) -> list[Text]:
        if kind == "short":
            cut = cell.copy()
            cut.truncate(width, overflow="ellipsis")
            return [cut]
        return list(cell.wrap(self.console, max(1, width), overflow="fold")) or [Text()]

    def _below(self, moved: list[int], row: list[Text]) -> Iterator[Text]:
        """Yield the lines below a row: as many cells on each as are whole there."""
        line = Text()
        for at in moved:
            if not row[at].plain:
                continue
            part = Text.assemble((f"{self.columns[at].header}: ", "dim"), row[at])
            if line.plain and cell_len(INDENT + line.plain + INDENT + part.plain) <= self.width:
                line.append(INDENT).append_text(part)
                continue
            yield from self._indented(line)
            line = part
        yield from self._indented(line)

    def _indented(self, text: Text) -> Iterator[Text]:
        if not text.plain:
            return
        for line in text.wrap(self.console, max(1, self.width - len(INDENT)), overflow="fold"):
            line.rstrip()
            yield Text(INDENT).append_text(line)

    def _as_blocks(self) -> Iterator[Text]:
        """Yield a block of lines for each row: where even whole words do not fit beside each other."""
        labels = max(cell_len(column.header) for column in self.columns)
        for place, row in enumerate(self.rows):
            if place:
                yield Text("")
            for column, cell in zip(self.columns, row, strict=True):
                if not cell.plain:
                    continue
                label = Text(column.header.ljust(labels) + "  ", style="bold")
                lines = cell.wrap(self.console, max(1, self.width - labels - 2), overflow="fold")
                for number_, line in enumerate(lines):
                    line.rstrip()
                    yield (label.copy() if number_ == 0 else Text(" " * (labels + 2))).append_text(line)


def _as_text(console: Console, cell: str | Text) -> Text:
    return cell.copy() if isinstance(cell, Text) else console.render_str(cell)
