"""`lines` and `fit`: what is configured and what would fit; nothing here needs the stack."""

from __future__ import annotations

import typer

from weighbridge.cli.output import JsonOption, LineArgument, say, show_json, table

PANEL = "Lines"
COLOURS = {"fits": "green", "tight": "yellow", "no": "red"}


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


def fit(line: LineArgument, as_json: JsonOption = False) -> None:
    """Say which of a line's schemes fit its GPUs, before anything is downloaded."""
    from tasks.fit.report import fit as plan_fit
    from tasks.source.hub import pin
    from weighbridge.line import Line
    from weighbridge.settings import load_settings, use_libraries

    use_libraries(load_settings())
    plan = Line.load(line)
    report = plan_fit(pin(plan), plan)
    if as_json:
        show_json(report.model_dump())
        return
    shown = table("GPU", "scheme", "weights", "KV cache", "rest", "of", "at once", "verdict", "reason")
    for row in report.rows:
        shown.add_row(
            row.gpu,
            row.scheme,
            f"{row.weights_gib:.2f} GiB",
            f"{row.kv_gib:.2f} GiB",
            f"{row.overhead_gib:.2f} GiB",
            f"{row.capacity_gib:.1f} GiB",
            f"{row.max_concurrency:.0f}",
            f"[{COLOURS[row.verdict]}]{row.verdict}[/]",
            row.reason,
        )
    say(shown)


def add_to(app: typer.Typer) -> None:
    """Make the commands known."""
    for command in (lines, fit):
        app.command(rich_help_panel=PANEL)(command)
