"""`lines`: what is configured; nothing here needs the stack."""

from __future__ import annotations

import typer

from cli.output import JsonOption, say, show_json, table


def lines(as_json: JsonOption = False) -> None:
    """List the lines and check each one's file."""
    from weighbridge.errors import LineInvalid
    from weighbridge.line import Line, line_names

    rows, problems = [], []
    for name in line_names():
        try:
            rows.append(Line.load(name))
        except LineInvalid as error:
            problems.append(error)
    if as_json:
        show_json(
            {"lines": [row.model_dump() for row in rows], "problems": [problem.as_dict() for problem in problems]}
        )
    else:
        shown = table("line", "source", "schemes", "runs on", "engine", "suites")
        for row in rows:
            shown.add_row(
                row.name,
                row.source,
                ", ".join(row.schemes),
                ", ".join(row.target.gpus),
                row.engine.name,
                str(len(row.suites)),
            )
        say(shown)
    if problems:
        raise problems[0]


def add_to(app: typer.Typer) -> None:
    """Make the command known."""
    app.command()(lines)
