"""`backup` and `restore`: what people decided, in one file; weights are not in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.output import JsonOption, say, show_json
from weighbridge.errors import StackFailed
from weighbridge.terminal import styled


def backup(
    target: Annotated[Path, typer.Argument(help="File to write, such as weighbridge-2026-11-26.tar.gz.")],
    as_json: JsonOption = False,
) -> None:
    """Copy MLflow's records and files, the audit log and the store's index into one file; the stack may run."""
    from registry.backup import back_up
    from weighbridge.settings import load_settings

    contents = back_up(load_settings(), target.absolute(), lambda text: None if as_json else say(text))
    if as_json:
        show_json(contents.model_dump())
        return
    say(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {len(contents.sha256)} files, {contents.database}")
    say(f"{contents.audit_entries} audit entries, head {styled(contents.audit_head, 'bold')}")
    say(f"{len(contents.artifacts)} artifacts by name; their weights and the signing key are not in it.")
    say("Keep it where the signing key is not: together they are enough to forge another.")


def restore(
    source: Annotated[Path, typer.Argument(help="A file that `backup` wrote.", exists=True, dir_okay=False)],
    replace: Annotated[bool, typer.Option("--replace", help="Move what this installation has aside.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file and write nothing.")] = False,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Believe a backup that no key of this installation signed.")
    ] = False,
    rewind: Annotated[
        bool, typer.Option("--rewind", help="Take back what the audit log has and the backup has not.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Restore a backup into an installation whose stack is down."""
    from registry.backup import restore as restore_backup
    from tasks.serve.fleet.supervisor import Supervisor
    from weighbridge.settings import load_settings

    settings = load_settings()
    if not dry_run and Supervisor(settings).answers():
        raise StackFailed(
            "The stack runs, and would write into the files that are replaced.", "Run `weighbridge down` first."
        )
    restored = restore_backup(
        settings,
        source,
        replace=replace,
        dry_run=dry_run,
        unsigned=unsigned,
        rewind=rewind,
        report=lambda text: say(text, error=as_json),
    )
    if as_json:
        show_json(restored.model_dump())
        return
    contents = restored.contents
    say(f"Backup of {contents.made_at} by Weighbridge {contents.weighbridge}: {contents.audit_entries} audit entries")
    if not restored.signed:
        say(f"{styled('Signed by no key of this installation:', 'red')} nothing in it is proven.")
    if restored.taken_back:
        say(f"{styled('Takes back what happened since:', 'red')} {restored.taken_back}")
    if restored.replaced:
        say(
            f"{'Would replace' if dry_run else 'Replaced'} {', '.join(restored.replaced)}; "
            f"the old files go to {restored.aside}"
        )
    for artifact in restored.missing:
        origin = f"{artifact.repo}@{artifact.commit[:12]}"
        say(
            f"{styled('Not in this store:', 'yellow')} {artifact.line} {artifact.short} ({artifact.scheme} of {origin})"
        )
    if restored.missing:
        say("Fetch these from the remote store, or make them again with `weighbridge release LINE --fresh`.")
    say("Nothing was changed." if dry_run else "Restored. `weighbridge up` starts with it.")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(backup)
    app.command()(restore)
