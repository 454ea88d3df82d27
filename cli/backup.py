"""`backup` and `restore`: what people decided, in one file; with production, also what serves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.columns import number
from cli.output import JsonOption, say, show_json, table
from weighbridge.errors import OptionInvalid, StackFailed
from weighbridge.terminal import styled
from weighbridge.units import GIB

if TYPE_CHECKING:
    from registry.backup import Contents, Forecast, Restored

PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="File of mode 0600 with the passphrase of the secrets; by default $WEIGHBRIDGE_BACKUP_PASSPHRASE, else "
        "it is asked for.",
    ),
]


def backup(
    target: Annotated[Path, typer.Argument(help="File to write, such as weighbridge-2026-11-26.tar.gz.")],
    with_production: Annotated[
        bool,
        typer.Option(
            "--with-production",
            help="Also what serves: weights, lines, suites, routes, and all keys, encrypted by a passphrase.",
        ),
    ] = False,
    with_previous: Annotated[
        bool, typer.Option("--with-previous", help="With production, also the versions that are kept warm.")
    ] = False,
    passphrase_file: PassphraseOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be in it, and how large it is.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy MLflow's records and files, the audit log and the store's index into one file; the stack may run."""
    from cli.passphrase import new_passphrase
    from cli.transfer_progress import transfer_progress
    from registry.backup import back_up, forecast
    from weighbridge.settings import load_settings

    if (with_previous or passphrase_file) and not with_production:
        raise OptionInvalid(
            "Only a backup with production holds weights and secrets.", "Add --with-production.", "--with-previous"
        )
    settings, production = load_settings(), None
    if with_production:
        from tasks.serve.recovery import production_of

        production = production_of(settings, with_previous=with_previous)
    expected = forecast(settings, target.absolute(), production)
    if dry_run:
        show_json(expected.model_dump()) if as_json else _show_forecast(expected, target)
        return
    # Before minutes of copying.
    passphrase = new_passphrase(passphrase_file) if production else ""
    with transfer_progress("weights") as progress:
        contents = back_up(
            settings,
            target.absolute(),
            lambda text: None if as_json else say(text),
            production=production,
            passphrase=passphrase,
            progress=progress,
        )
    if as_json:
        show_json(contents.model_dump())
        return
    _show_written(contents, target)


def _show_forecast(expected: Forecast, target: Path) -> None:
    rows = table("in it", number("size (GiB)"))
    for served in expected.versions:
        artifact, state = served.artifact, "serves" if served.serves else "kept warm"
        what = f"weights of {artifact.line} version {served.version}, {artifact.scheme} {artifact.short}, {state}"
        rows.add_row(what, f"{artifact.size_bytes / GIB:.2f}")
    rows.add_row("records, before packing", f"{expected.records_bytes / GIB:.2f}")
    if expected.versions:
        rows.add_row(f"{len(expected.files)} files of lines, suites, routes and watch", "")
        rows.add_row(f"{len(expected.secrets)} secrets, encrypted: {', '.join(expected.secrets)}", "")
    say(rows)
    enough = expected.free_bytes >= expected.need_bytes
    say(
        f"{target.absolute().parent} has {expected.free_bytes / GIB:.2f} GiB free; at most "
        f"{expected.need_bytes / GIB:.2f} GiB are needed"
        + ("." if enough else f": {styled('too little', 'red')}. Name a file on a larger disk.")
    )
    say("Nothing was written.")


def _show_written(contents: Contents, target: Path) -> None:
    size = target.stat().st_size
    shown = f"{size / GIB:.2f} GiB" if size > GIB else f"{size / 1e6:.1f} MB"
    say(f"{target}: {shown}, {len(contents.sha256)} files, {contents.database}")
    say(f"{contents.audit_entries} audit entries, head {styled(contents.audit_head, 'bold')}")
    if not contents.weights:
        say(f"{len(contents.artifacts)} artifacts by name; their weights and the signing key are not in it.")
        say("Keep it where the signing key is not: together they are enough to forge another.")
        return
    for served in contents.versions:
        artifact, state = served.artifact, "serves" if served.serves else "kept warm"
        say(f"{artifact.line} version {served.version} ({artifact.scheme}, {artifact.short}, {state}), with weights")
    say(f"{len(contents.secrets)} secrets, which only the passphrase opens. Keep it where this file is not.")


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
    passphrase_file: PassphraseOption = None,
    without_secrets: Annotated[
        bool, typer.Option("--without-secrets", help="Leave the secrets out; no passphrase is needed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Restore a backup into an installation whose stack is down."""
    from cli.passphrase import known_passphrase
    from cli.transfer_progress import transfer_progress
    from registry.backup import restore as restore_backup
    from tasks.serve.fleet.supervisor import Supervisor
    from weighbridge.settings import load_settings

    settings = load_settings()
    if not dry_run and Supervisor(settings).answers():
        raise StackFailed(
            "The stack runs, and would write into the files that are replaced.", "Run `weighbridge down` first."
        )
    with transfer_progress("weights") as progress:
        restored = restore_backup(
            settings,
            source,
            replace=replace,
            dry_run=dry_run,
            unsigned=unsigned,
            rewind=rewind,
            passphrase=None if without_secrets else lambda: known_passphrase(passphrase_file),
            report=lambda text: say(text, error=as_json),
            progress=progress,
        )
    if as_json:
        show_json(restored.model_dump())
        return
    _show_restored(restored, dry_run=dry_run)


def _show_restored(restored: Restored, *, dry_run: bool) -> None:
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
    in_it = {served.artifact.digest for served in restored.serves}
    for served in restored.serves:
        artifact, what = served.artifact, "is served" if served.serves else "is kept warm"
        say(f"{artifact.line} version {served.version} ({artifact.scheme}, {artifact.short}) {what} after `up`")
    missing = [artifact for artifact in restored.missing if artifact.digest not in in_it]
    for artifact in missing:
        origin = f"{artifact.repo}@{artifact.commit[:12]}"
        say(
            f"{styled('Not in this store:', 'yellow')} {artifact.line} {artifact.short} ({artifact.scheme} of {origin})"
        )
    if missing:
        say("Fetch these from the remote store, or make them again with `weighbridge release LINE --fresh`.")
    if restored.serves and not restored.secrets:
        say("Without the secrets: clients need new keys (`weighbridge key add`).")
    say("Nothing was changed." if dry_run else "Restored. `weighbridge up` starts with it.")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(backup)
    app.command()(restore)
