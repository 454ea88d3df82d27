"""How commands speak: people get tables and colours, `--json` gets JSON on standard output and nothing else."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weighbridge.errors import WeighbridgeError

if TYPE_CHECKING:
    from rich.table import Table

MANY_COLUMNS = 8
"""A table of more is all short cells, which folding would make unreadable."""
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
LineArgument = Annotated[str, typer.Argument(help="A line: the name of a file in lines/, without .yaml.")]


def show_error(error: WeighbridgeError) -> None:
    """One message: what is wrong, where, and what to do next; JSON when the command was asked for JSON."""
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


def table(*columns: str, title: str = "") -> Table:
    """A plain table in the house style."""
    from rich import box
    from rich.table import Table

    made = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=len(columns) > MANY_COLUMNS)
    return made


def say(*what: Any) -> None:
    """Print for a person; long addresses are not broken."""
    from rich.console import Console

    Console(soft_wrap=True).print(*what, highlight=False)


def note(who: str, text: str) -> None:
    """A line of progress on standard error, so that standard output stays clean."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text.assemble((f"{who:>10}  ", "bold cyan"), text))
