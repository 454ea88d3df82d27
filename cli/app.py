"""The application: every command, under the name that a user types."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import (
    approve,
    audit,
    backup,
    candidates,
    compare,
    cost,
    fit,
    keys,
    lines,
    manifests,
    notify,
    pages,
    quantize,
    roles,
    services,
    serving,
    signing_keys,
    stack,
    store,
    suites,
    verdicts,
    watch,
)

app = typer.Typer(
    name="weighbridge",
    help="A release line for open-weight language models: from a new release to serving, and back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
services.add_to(app)
stack.add_to(app)
lines.add_to(app)
fit.add_to(app)
quantize.add_to(app)
cost.add_to(app)
suites.add_to(app)
verdicts.add_to(app)
watch.add_to(app)
compare.add_to(app)
candidates.add_to(app)
approve.add_to(app)
serving.add_to(app)
keys.add_to(app)
signing_keys.add_to(app)
manifests.add_to(app)
store.add_to(app)
roles.add_to(app)
audit.add_to(app)
backup.add_to(app)
notify.add_to(app)
pages.add_to(app)


@app.command()
def version() -> None:
    """Print the version."""
    from weighbridge import __version__

    print(__version__)


def _print_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that stand before a command."""
