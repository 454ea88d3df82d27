"""`watch`: find new releases at the lines' sources, decide about each, and start its release once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.columns import below
from cli.output import JsonOption, note, say, show_json, table
from weighbridge.terminal import styled

if TYPE_CHECKING:
    from tasks.source.watch_rows import Row

COLOURS = {"release": "green", "notify": "yellow", "ignore": "dim"}


def watch(
    lines: Annotated[list[str] | None, typer.Argument(help="Lines; all of them by default.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide and print; start nothing, write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look for new commits and successors, decide about each, and start each release that is due, once.

    Without the stack it still decides and prints. Exit status 0 if every line was checked and every release that is
    due was started; else that of the first error.
    """
    from registry.installation import Installation
    from tasks.engines import known_architectures
    from tasks.fit.report import fit_release
    from tasks.source.start import start_release
    from tasks.source.watch import record_decisions, start_releases, triage_line
    from weighbridge.line import Line, line_names
    from weighbridge.settings import load_settings, use_libraries

    settings = load_settings()
    use_libraries(settings)
    if not as_json:
        note("watch", "asks the lines' sources.")
    installation = Installation(settings)
    names = lines or line_names()
    for name in lines or []:
        Line.load(name)  # a mistyped name is an error of the command, not of a row
    rows = [row for name in names for row in triage_line(installation, name, fit_release, known_architectures)]
    if not dry_run:
        rows = start_releases(installation, rows, partial(start_release, settings))
        for problem in record_decisions(installation, names):
            note("mlflow", problem)
    if as_json:
        show_json({"dry_run": dry_run, "rows": [_as_dict(row) for row in rows]})
    else:
        _show(rows)
    if failed := [row.error for row in rows if row.error]:
        raise typer.Exit(failed[0].exit_status)


def _as_dict(row: Row) -> dict[str, Any]:
    decision, error = row.decision, row.error
    decided: dict[str, Any] = {"outcome": None, "reasons": []}
    if decision:
        decided = decision.model_dump(mode="json", exclude={"line", "rules"})
    return {
        **row.model_dump(mode="json", exclude={"decision", "error"}),
        **decided,
        "error": error.model_dump() if error else None,
    }


def _show(rows: list[Row]) -> None:
    table_ = table("line", "outcome", below("what"), "commit", "state", below("why"))
    common = [text for text in rows[0].notes if all(text in row.notes for row in rows)] if len(rows) > 1 else []
    for row in rows:
        decision = row.decision
        why = [f"{row.error.code}: {row.error.what} Next: {row.error.next_step}"] if row.error else []
        why += [reason.text for reason in decision.reasons] if decision else []
        outcome = decision.outcome if decision else "error"
        table_.add_row(
            row.line,
            styled(outcome, COLOURS.get(outcome, "red")),
            decision.repo if decision else "",
            decision.commit[:12] if decision else "",
            row.state,
            "\n".join([*why, *(f"({text})" for text in row.notes if text not in common)]),
        )
    say(table_)
    for text in common:
        say(f"{text[0].upper()}{text[1:]}.")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(watch)
