"""`lines`: what is configured, and every mistake in it; nothing here needs the stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cli.columns import below, number
from cli.new_line import new
from cli.output import JsonOption, say, say_plain, show_json, table
from weighbridge.terminal import styled

if TYPE_CHECKING:
    from weighbridge.errors import WeighbridgeError
    from weighbridge.line import Line


lines = typer.Typer(
    help="Lines: list and check them, all mistakes at once; make one, and retire one.", invoke_without_command=True
)


@lines.callback()
def list_(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the lines and check each one's file. Exit status 2 when a file has a mistake; all of them are shown."""
    if context.invoked_subcommand is None:
        _list(as_json)


lines.command()(new)


@lines.command()
def deployments() -> None:
    """Print every deployment as a file for `prefect deploy --all --prefect-file`, for a Prefect server of your own."""
    from stack.line_deployments import whole_document
    from weighbridge.settings import load_settings

    say_plain(whole_document(load_settings().root).removesuffix("\n"))


def _list(as_json: bool) -> None:
    from tasks.evaluate.check_line import check_line
    from weighbridge.errors import LineInvalid, LineUnknown
    from weighbridge.line import Line, line_names
    from weighbridge.settings import load_settings

    settings = load_settings()
    loaded: list[Line] = []
    problems: list[WeighbridgeError] = []
    for name in line_names():
        try:
            line = Line.load(name)
        except (LineInvalid, LineUnknown) as error:
            problems.append(error)
            continue
        loaded.append(line)
        problems += check_line(line, settings)
    if as_json:
        show_json(
            {"lines": [line.model_dump() for line in loaded], "problems": [problem.as_dict() for problem in problems]}
        )
    else:
        _show(loaded, problems)
    if problems:
        raise typer.Exit(problems[0].exit_status)


def _show(loaded: list[Line], problems: list[WeighbridgeError]) -> None:

    rows = table("line", below("source"), "schemes", "runs on", "engine", number("suites"))
    for line in loaded:
        rows.add_row(
            line.name,
            line.source,
            ", ".join(line.schemes),
            ", ".join(line.target.gpus),
            line.engine.name,
            str(len(line.suites)),
        )
    say(rows)
    if not problems:
        say("All files are checked; every name in them exists.")
        return
    mistakes = table("file", "mistake", "next")
    for problem in problems:
        mistakes.add_row(problem.where, styled(problem.what, "red"), problem.next_step)
    say(mistakes, error=True)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.add_typer(lines, name="lines")
