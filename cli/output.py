"""Output of commands: tables and colours for people; with `--json` JSON on standard output and nothing else."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weighbridge.errors import ExitStatus, WeighbridgeError

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

PIPE_COLUMNS = 120
INTERRUPTED = ExitStatus.INTERRUPTED
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
LineArgument = Annotated[str, typer.Argument(help="A line: the name of a file in lines/, without .yaml.")]


def show_error(error: WeighbridgeError) -> None:
    """Print what is wrong, where, and what to do next; as JSON if the command was given `--json`."""
    if "--json" in sys.argv:
        print(json.dumps(error.as_dict()))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    place = f"  [{error.where}]" if error.where else ""
    console.print(Text.assemble((error.code, "bold red"), ": ", error.what, (place, "dim")))
    console.print(Text.assemble(("Next: ", "bold"), error.next_step))


def show_json(value: Any) -> None:
    """Print JSON, and nothing else, on standard output."""
    print(json.dumps(value, indent=2, default=str))


def table(*columns: str, title: str = "", compact: bool = False) -> Table:
    """A plain table in the house style; a compact one has many short cells, which folding would make unreadable."""
    from rich import box
    from rich.table import Table

    padding = (0, 0) if compact else (0, 1)
    rows = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=padding)
    for column in columns:
        rows.add_column(column, overflow="fold", no_wrap=compact)
    return rows


def say(*what: Any, error: bool = False) -> None:
    """Print for a person, on standard error if it is about a mistake; long addresses are not broken."""
    from rich.console import Console

    # A pipe has no width of its own; 80 columns would cut tables that a file or a pager can show whole.
    console = Console(soft_wrap=True, stderr=error)
    if not console.is_terminal:
        console = Console(soft_wrap=True, stderr=error, width=max(console.width, PIPE_COLUMNS))
    console.print(*what, highlight=False)


def bars(*fields: str) -> Progress:
    """Progress bars with time left on standard error; silent without a terminal.

    Args:
        fields: names of a task's own fields, shown after its bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description:>34}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *(TextColumn(f"{{task.fields[{name}]}}") for name in fields),
        console=console,
        disable=not console.is_terminal,
    )


def note(who: str, text: str) -> None:
    """A line of progress on standard error, so that standard output stays clean."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text.assemble((f"{who:>10}  ", "bold cyan"), text))
