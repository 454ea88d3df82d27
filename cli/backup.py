"""`backup` and `restore`: what people decided, in one file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.output import JsonOption, say, show_json
from weighbridge.errors import StackFailed


def backup(
    target: Annotated[Path, typer.Argument(help="File to write, such as weighbridge-2026-11-26.tar.gz.")],
    as_json: JsonOption = False,
) -> None:
    """Copy MLflow's records and files, the audit log and the store's index into one file; the stack may run."""
    from registry.backup import back_up
    from weighbridge.settings import load_settings

    contents = back_up(load_settings(), target.absolute(), lambda words: None if as_json else say(words))
    if as_json:
        show_json(contents.model_dump())
        return
    say(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {len(contents.sha256)} files, {contents.database}")
    say(f"{contents.audit_entries} audit entries, head [bold]{contents.audit_head}[/]")
    say(f"{len(contents.artifacts)} artifacts by name; their weights and the signing key are not in it.")


def restore(
    source: Annotated[Path, typer.Argument(help="A file that `backup` wrote.", exists=True, dir_okay=False)],
    replace: Annotated[bool, typer.Option("--replace", help="Move aside what this installation has.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file and change nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a backup back into an installation whose stack is down."""
    from registry.backup import restore as bring_back
    from tasks.serve.fleet.supervisor import Supervisor
    from weighbridge.settings import load_settings

    settings = load_settings()
    if not dry_run and Supervisor(settings).answers():
        raise StackFailed("The stack runs, and would write into what is replaced.", "Run `weighbridge down` first.")
    done = bring_back(
        settings, source, replace=replace, dry_run=dry_run, report=lambda words: None if as_json else say(words)
    )
    if as_json:
        show_json(done.model_dump())
        return
    contents = done.contents
    say(f"Backup of {contents.made_at} by Weighbridge {contents.weighbridge}: {contents.audit_entries} audit entries")
    if done.replaced:
        say(f"{'Would replace' if dry_run else 'Replaced'} {', '.join(done.replaced)}; the old goes to {done.aside}")
    for one in done.missing:
        say(f"[yellow]Not in this store:[/] {one.line} {one.short} ({one.scheme} of {one.repo}@{one.commit[:12]})")
    if done.missing:
        say("Fetch these from the remote store, or make them again with `weighbridge release LINE --fresh`.")
    say("Nothing was changed." if dry_run else "Restored. `weighbridge up` starts with it.")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(backup)
    app.command()(restore)
