"""Output of commands: tables and colours for people; with `--json` JSON on standard output and nothing else."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from cli.complete import lines as complete_lines
from weighbridge.errors import ExitStatus, WeighbridgeError
from weighbridge.terminal import console, on_one_line, styled, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from cli.columns import Column
    from cli.tables import Table

PIPE_COLUMNS = 120
INPUT, INTERRUPTED = ExitStatus.INPUT, ExitStatus.INTERRUPTED
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
LineArgument = Annotated[
    str, typer.Argument(help="A line: the name of a file in lines/, without .yaml.", autocompletion=complete_lines)
]


class Documents:
    """The JSON documents that this process prints, and the stream for them."""

    def __init__(self) -> None:
        self.stream: TextIO | None = None
        """Standard output, while everything else that is printed goes to standard error; None without `--json`."""
        self.printed = 0

    def reserve(self) -> None:
        """Keep standard output for documents: whatever a library prints goes to standard error."""
        self.stream, sys.stdout = sys.stdout, sys.stderr

    def write(self, text: str) -> None:
        """Print a document."""
        # JSON may contain DEL as it is; a terminal should not.
        print(text.replace("\x7f", "\\u007f"), file=self.stream or sys.stdout, flush=True)
        self.printed += 1


documents = Documents()


def show_error(error: WeighbridgeError) -> None:
    """Print what is wrong, where, and what to do next; with `--json` as the document, if none was printed yet."""
    if documents.stream is not None and not documents.printed:
        documents.write(json.dumps(error.as_dict()))
        return
    place = styled(f"  [{error.where}]", "dim") if error.where else ""
    printer = console(stderr=True, soft_wrap=True)
    printer.print(f"{styled(error.code, 'bold red')}: {error.what}{place}")
    printer.print(f"{styled('Next: ', 'bold')}{error.next_step}")


def show_json(value: Any) -> None:
    """Print JSON, and nothing else, on standard output."""
    documents.write(json.dumps(value, indent=2, default=str))


def show_json_line(value: Any) -> None:
    """Print one line of JSON, for commands that print a line for each file or second."""
    documents.write(json.dumps(value, default=str))


def table(*columns: str | Column, title: str = "") -> Table:
    """A table in the house style, which fits the terminal; see `cli.columns` for those of numbers and long texts."""
    from cli.tables import Table

    return Table(columns, title)


def terminal(*, error: bool = False) -> Console:
    """The console for people; long addresses are not broken."""
    printer = console(soft_wrap=True, stderr=error)
    # A pipe has no width of its own, unless COLUMNS names one. 80 columns would fold tables that a file or a pager can
    # show in one line a row.
    if not printer.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        return console(soft_wrap=True, stderr=error, width=PIPE_COLUMNS)
    return printer


def say(*what: Any, error: bool = False) -> None:
    """Print for a person, on standard error if it is about a mistake."""
    terminal(error=error).print(*what)


def say_wrapped(text: str) -> None:
    """Print sentences for a person, wrapped between words; what has no spaces, such as an address, stays whole."""
    import textwrap

    printer = terminal()
    for paragraph in text.splitlines():
        printer.print(textwrap.fill(paragraph, printer.width, break_long_words=False, break_on_hyphens=False))


def counted(amount: int, thing: str) -> str:
    """Write an amount with the plural of its thing, such as `2 requests`."""
    return f"{amount} {thing}{'' if amount == 1 else 's'}"


def say_plain(text: str, *, error: bool = False) -> None:
    """Print a text as it is, without a layout, such as a line of a log or a secret."""
    print(visible(text), file=sys.stderr if error else sys.stdout)


def bars(*fields: str) -> Progress:
    """Progress bars with time left on standard error; silent without a terminal.

    Args:
        fields: names of a task's own fields, shown after its bar.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    printer = console(stderr=True)
    return Progress(
        TextColumn("{task.description:>34}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *(TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in fields),
        console=printer,
        disable=not printer.is_terminal,
    )


def note(who: str, text: str) -> None:
    """A line of progress on standard error, so that standard output stays clean."""
    console(stderr=True, soft_wrap=True).print(f"{styled(f'{who:>10}  ', 'bold cyan')}{on_one_line(text)}")
