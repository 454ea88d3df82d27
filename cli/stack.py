"""`status`: what runs and what serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.columns import below, number
from cli.output import JsonOption, say, show_json, table
from weighbridge.terminal import on_one_line, styled
from weighbridge.units import duration

if TYPE_CHECKING:
    from cli.tables import Table
    from stack.lifecycle import ServiceStatus
    from stack.report import LineStatus

SHORT_DIGEST = 12
ROLLOUT_STATES = {"rolling": "canary", "rolled_back": "rolled back"}
"""What people call a state of the registry, where that differs from the tag."""
COLOURS = {"healthy": "green", "starting": "yellow", "unhealthy": "red", "frozen": "red", "down": "red"}


def status(
    watch: Annotated[
        bool, typer.Option("--watch", help="Weights, health and rates each second, until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what runs and what serves: services, lines, versions, digests, weights."""

    from stack import lifecycle, report
    from stack.notes import status_notes
    from tasks.serve.installation import ServingInstallation
    from weighbridge.home import home_hint
    from weighbridge.settings import use_libraries

    installation = ServingInstallation.load()
    if watch:
        from cli import status_watch

        status_watch.watch(installation.gateway, as_json)
    settings = installation.settings
    use_libraries(settings)
    services = lifecycle.status(settings)
    mlflow_answers = any(service.name == "mlflow" and service.state == "healthy" for service in services)
    lines, notes = report.line_statuses(installation, mlflow_answers), status_notes(settings)
    if as_json:
        show_json(
            {
                "home": str(settings.home),
                "gateway": f"{settings.gateway_url}/v1",
                "services": [service.model_dump() for service in services],
                "lines": [line.model_dump() for line in lines],
                "notes": notes,
            }
        )
        return
    say(_services_table(services))
    if any(line.versions or line.awaiting for line in lines):
        for rows in (_lines_table(lines), _waiting_table(lines)):
            if rows.rows:
                say(rows)
        for line in lines:
            if line.rollout is not None and line.rollout.sentence:
                say(styled(line.rollout.sentence, "yellow"))
            for version in line.versions:
                if version.reason:
                    say(f"{styled(f'{line.line} version {version.version}:', 'red')} {version.reason}")
    else:
        say("No line serves anything yet.")
    for sentence in notes:
        say(on_one_line(sentence))
    if all(service.state == "down" for service in services):
        say(f"The stack of {settings.home} is down: `weighbridge up` starts it.")
        if hint := home_hint():
            say(hint)


def _services_table(services: list[ServiceStatus]) -> Table:
    rows = table("service", "state", number("up"), number("pid"), "address")
    for service in services:
        state = styled(service.state, COLOURS[service.state])
        rows.add_row(
            service.name,
            state,
            duration(service.up_seconds) if service.pid else "–",
            str(service.pid or "–"),
            service.url,
        )
    return rows


def _lines_table(lines: list[LineStatus]) -> Table:
    rows = table("line", number("version"), "alias", "scheme", "digest", number("weight (%)"), "engine", "state")
    for line in lines:
        for version in line.versions:
            rows.add_row(
                line.line,
                str(version.version),
                ", ".join(version.aliases) or "–",
                version.scheme,
                version.digest[:SHORT_DIGEST],
                str(version.weight) if version.in_rotation else "–",
                version.engine,
                ROLLOUT_STATES.get(version.state, version.state),
            )
    return rows


def _waiting_table(lines: list[LineStatus]) -> Table:
    rows = table("line", number("candidate"), "scheme", "digest", "state", below("next"))
    for line in lines:
        for candidate in line.awaiting:
            state, command = (
                ("awaits approval", f"approve {line.line} {candidate.version}")
                if candidate.as_signed
                else ("not as signed", f"candidates {line.line}")
            )
            digest = candidate.digest[:SHORT_DIGEST]
            rows.add_row(line.line, str(candidate.version), candidate.scheme, digest, state, f"weighbridge {command}")
    return rows


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(status)
