"""`audit`: who approved, promoted and rolled back what, and whether that record is whole."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.output import JsonOption, say, show_json, table

audit = typer.Typer(help="Who changed what and when, and whether that record is whole.", invoke_without_command=True)


@audit.callback()
def show(
    context: typer.Context,
    line: Annotated[str | None, typer.Option(help="Only this line's.")] = None,
    last: Annotated[int, typer.Option(min=1, help="So many entries, the newest.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Show the newest entries of the audit log."""
    if context.invoked_subcommand:
        return
    from rich.markup import escape

    from registry.audit import AuditLog

    entries = list(AuditLog().entries(line))[-last:]
    if as_json:
        show_json([entry.model_dump() for entry in entries])
        return
    shown = table("#", "when (UTC)", "who", "action", "model", "version", "what, and why")
    for one in entries:
        version = "–" if one.version is None else str(one.version)
        what = one.what[:12] if one.action in ("approve", "override") else one.what
        who = f"{one.who} at {one.address}" if one.address else one.who
        cells = (who, one.action, one.model or one.line or "–", version, ". ".join(filter(None, (what, one.reason))))
        shown.add_row(str(one.number), one.at[:19].replace("T", " "), *map(escape, cells))
    for column in shown.columns[:4]:
        column.no_wrap = True
    say(shown)


@audit.command()
def verify(
    head: Annotated[str, typer.Option(help="A hash noted earlier, which an entry must have.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Find an entry that was edited, removed, added or moved. Exit status 10 when there is one."""
    from registry.audit import NOTHING, AuditLog

    last = AuditLog().verify(head)
    found = {"entries": last.number if last else 0, "head": last.hash if last else NOTHING}
    if as_json:
        show_json(found)
        return
    say(f"{found['entries']} entries, each following the one before. Head: [bold]{found['head']}[/]")
    say(
        "Note the head elsewhere: `audit verify --head` shows later that nothing before it was cut off or written anew."
    )


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(audit, name="audit")
