"""`notify test`: a notification now, to see whether it arrives before something happens at night."""

from __future__ import annotations

import typer

from cli.output import JsonOption, say, show_json, table
from weighbridge.terminal import styled

notify = typer.Typer(help="Notifications of releases, rollouts and rollbacks.", no_args_is_help=True)


@notify.callback()
def _group() -> None:
    """Keep `test` a command of its own."""


@notify.command()
def test(as_json: JsonOption = False) -> None:
    """Send a notification to every address in the file, and say of each whether it was taken.

    Exit status 3 when one was not.
    """
    from weighbridge.errors import NotificationFailed, SettingsInvalid
    from weighbridge.notifications import addresses_file, send
    from weighbridge.settings import load_settings

    settings = load_settings()
    path = addresses_file(settings)
    sent = send(settings, "Weighbridge: a test", f"Notifications of {settings.home} arrive here.")
    if not sent:
        raise SettingsInvalid(
            "There is no address for notifications.",
            f"Write one a line into {path}, of mode 0600, such as `slack://…` or a webhook's `https://…`.",
            where=str(path),
        )
    if as_json:
        show_json([delivery.model_dump() for delivery in sent])
    else:
        rows = table("line", "service", "taken")
        for delivery in sent:
            taken = "yes" if delivery.delivered else styled("no", "red")
            rows.add_row(str(delivery.line), delivery.service, taken)
        say(rows)
    if lost := [delivery for delivery in sent if not delivery.delivered]:
        named = ", ".join(f"line {delivery.line} ({delivery.service})" for delivery in lost)
        raise NotificationFailed(
            f"A notification was not taken: {named}.",
            "Check that address's token, and whether this machine reaches the service; then `weighbridge notify test`.",
            where=str(path),
        )


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.add_typer(notify, name="notify")
