"""`audit`: who approved, promoted and rolled back what, and whether that record is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import JsonOption, say, show_json, table
from weighbridge.terminal import on_one_line, styled

if TYPE_CHECKING:
    from rich.table import Table

    from registry.audit import Entry

SHORT_DIGEST = 12

audit = typer.Typer(help="Who changed what and when, and whether that record is whole.", invoke_without_command=True)


@audit.callback()
def show(
    context: typer.Context,
    line: Annotated[str | None, typer.Option(help="Only entries of this line.")] = None,
    last: Annotated[int, typer.Option(min=1, help="How many entries to show, the newest.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Show the newest entries of the audit log."""
    if context.invoked_subcommand:
        return
    from registry.installation import Installation

    entries = list(Installation.load().audit_log.entries(line))[-last:]
    if as_json:
        show_json([entry.model_dump() for entry in entries])
        return
    if not entries:
        say(f"The audit log has no entry of {line} yet." if line else "The audit log has no entry yet.")
        return
    say(entries_table(entries))


def entries_table(entries: list[Entry]) -> Table:
    """Lay out audit entries so that they read in a terminal of 80 columns as well as in one of 200.

    Each entry is one cell of two lines: who did what to which version; then what it was about, and why. Seven columns
    of their own leave five letters for each in a narrow terminal.
    """

    rows = table("#", "when (UTC)", "entry")
    for column in rows.columns[:2]:
        column.no_wrap = True
    for entry in entries:
        what = entry.what[:SHORT_DIGEST] if entry.action in ("approve", "override", "admit") else entry.what
        version = "" if entry.version is None else f"version {entry.version}"
        target = " ".join(filter(None, (entry.model or entry.line, version)))
        who = f"{entry.who} at {entry.address}" if entry.address else entry.who
        text = f"{styled(entry.action, 'bold')} {on_one_line(f'{target} by {who}' if target else f'by {who}')}"
        if detail := ". ".join(filter(None, (what, entry.reason))):
            text += f"\n{on_one_line(detail)}"
        rows.add_row(str(entry.number), entry.at[:19].replace("T", " "), text)
    return rows


@audit.command()
def verify(
    head: Annotated[str, typer.Option(help="A hash noted earlier; an entry must have it.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Find an entry that was edited, removed, added or moved, or that was noted and is gone; then exit status 10.

    The log is compared with its head as noted beside it, in MLflow, and in WEIGHBRIDGE_AUDIT_WITNESS_URL.
    """
    from registry.audit import NOTHING
    from registry.installation import Installation
    from registry.witnesses import answers_of

    installation = Installation.load()
    answers = answers_of(installation.settings)
    noted = [(answer.witness, head_) for answer in answers for head_ in answer.heads]
    last = installation.audit_log.verify(head, noted)
    found = {
        "entries": last.number if last else 0,
        "head": last.hash if last else NOTHING,
        "witnesses": [
            {"witness": answer.witness, "entry": answer.newest, "problem": answer.problem} for answer in answers
        ],
    }
    if as_json:
        show_json(found)
        return
    say(f"{found['entries']} entries, each chained to the one before. Head: {styled(found['head'], 'bold')}")
    for answer in answers:
        agrees = f"noted entry {answer.newest}, and the log has it" if answer.newest else "has noted nothing yet"
        say(f"{answer.witness} {answer.problem or agrees}")
    if len(answers) < 2:
        say("Note the head elsewhere, or set WEIGHBRIDGE_AUDIT_WITNESS_URL: whoever takes this machine has MLflow too.")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(audit, name="audit")
