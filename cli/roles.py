"""`roles apply`: who may build, review and operate which line, from a small file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.output import JsonOption, say, show_json

roles = typer.Typer(help="Who may build, review and operate which line.", no_args_is_help=True)


@roles.callback()
def group() -> None:
    """Keep `apply` a subcommand: typer folds a group of one into its only command."""


@roles.command()
def apply(
    file: Annotated[Path, typer.Argument(help="Users with roles and lines (docs/how-to/accounts-and-roles.md).")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make MLflow's accounts and permissions match FILE; users who are not in it lose their roles.

    A password comes from $WEIGHBRIDGE_PASSWORD_<NAME>, from the user's password_file, or is generated into
    <home>/mlflow/passwords/<name>; it is never shown.
    """
    from weighbridge.errors import StackDown
    from weighbridge.line import line_names
    from weighbridge.settings import load_settings, use_libraries

    settings = load_settings()
    use_libraries(settings)
    if not settings.mlflow_auth:
        raise StackDown("MLflow has no accounts.", "Run `weighbridge up --auth` first.", settings.mlflow_url)
    from registry.access.grants import Granting
    from registry.access.roles import read_roles

    lines = line_names(settings.root / "lines")
    requested = read_roles(file, lines)
    # Reported as it happens: a run that stops in the middle has done what it reported.
    report = (lambda text: None) if as_json else say
    changes = Granting(settings, lines).apply(requested, report, dry_run)
    if as_json:
        show_json({"changed": not dry_run and bool(changes), "changes": changes})
    elif not changes:
        say("Accounts and permissions match the file.")
    elif dry_run:
        say("Nothing was changed (--dry-run).")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(roles, name="roles")
