"""`up`, `status`, `down`, `logs`: the local stack."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.output import JsonOption, note, say, show_json, table

COLOURS = {"healthy": "green", "starting": "yellow", "unhealthy": "red", "down": "red"}


def up(
    auth: Annotated[
        bool | None,
        typer.Option(
            "--auth/--no-auth", help="Whether MLflow asks who is there; once with --auth it does until --no-auth."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start MLflow, Prefect, a worker, the gateway and every engine that should run; harmless when they do."""
    from stack import lifecycle
    from weighbridge.settings import load_settings, use_libraries

    settings = load_settings()
    if auth is not None:
        settings = settings.model_copy(update={"mlflow_auth": auth})
    use_libraries(settings)
    rows = lifecycle.up(settings, note)
    if as_json:
        show_json({"services": [row.model_dump() for row in rows]})
        return
    for row in rows:
        say(f"{row.name:>10}  [{COLOURS[row.state]}]{row.state}[/]  {row.url}")
    say(f"API key of the gateway: {settings.home / 'gateway' / 'default.key'}")
    if settings.mlflow_auth:
        from registry.accounts import ADMIN, password_file

        say(f"MLflow asks who is there. Password of {ADMIN}: {password_file(settings, ADMIN)}")


def down(as_json: JsonOption = False) -> None:
    """Stop everything that `up` and the flows started, and wait until it is gone."""
    from stack import lifecycle
    from weighbridge.settings import load_settings

    lifecycle.down(load_settings(), note)
    if as_json:
        show_json({"services": []})


def status(
    watch: Annotated[
        bool, typer.Option("--watch", help="Each second what serves and how it fares, until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what runs and what serves: services, lines, versions, digests, weights."""
    if watch:
        from cli import status_watch
        from tasks.serve.gateway import Gateway

        status_watch.watch(Gateway(), as_json)
    from stack import lifecycle, report
    from weighbridge.settings import load_settings, use_libraries

    settings = load_settings()
    use_libraries(settings)
    rows, lines = lifecycle.status(settings), report.lines(settings)
    if as_json:
        show_json(
            {
                "home": str(settings.home),
                "gateway": f"{settings.gateway_url}/v1",
                "services": [row.model_dump() for row in rows],
                "lines": [line.model_dump() for line in lines],
            }
        )
        return
    services = table("service", "state", "up", "pid", "address")
    for row in rows:
        services.add_row(
            row.name, f"[{COLOURS[row.state]}]{row.state}[/]", f"{row.up_seconds:.0f} s", str(row.pid or "–"), row.url
        )
    say(services)
    shown = table("line", "version", "alias", "scheme", "digest", "weight", "engine", "state")
    for line in lines:
        for one in line.versions:
            shown.add_row(
                line.line,
                str(one.version),
                ", ".join(one.aliases) or "–",
                one.scheme,
                one.digest[:12],
                f"{one.weight} %" if one.in_rotation else "–",
                one.engine,
                one.state,
            )
        for candidate in line.awaiting:
            shown.add_row(
                line.line,
                f"candidate {candidate.version}",
                "–",
                candidate.scheme,
                candidate.digest[:12],
                "–",
                "–",
                f"awaits approval: weighbridge approve {line.line} {candidate.version}",
            )
    say(shown if any(line.versions or line.awaiting for line in lines) else "No line serves anything yet.")


def logs(
    name: Annotated[str, typer.Argument(help="mlflow, prefect, worker, gateway, or an engine's name.")] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 40,
) -> None:
    """Show the end of a service's log; without a name, list the logs there are."""
    from collections import deque

    from weighbridge.errors import StackDown
    from weighbridge.settings import load_settings

    folder = load_settings().logs_folder
    known = sorted(path.stem for path in folder.glob("*.log"))
    if not name:
        for stem in known:
            print(f"{stem}  {folder / stem}.log")
        return
    if name not in known:
        raise StackDown(
            f"There is no log of {name!r}; logs: {', '.join(known) or 'none yet'}.",
            "Name one of these, or run `weighbridge up` first.",
            where=str(folder),
        )
    with (folder / f"{name}.log").open(errors="replace") as file:
        print("".join(deque(file, maxlen=lines)), end="")


def add_to(app: typer.Typer) -> None:
    """Make the commands known."""
    for command in (up, status, down, logs):
        app.command()(command)
