"""`up`, `down`, `restart`, `logs`: the services of the local stack."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import JsonOption, documents, note, say, say_plain, show_json
from weighbridge.terminal import styled, without_colours

if TYPE_CHECKING:
    from stack.restarts import Plan

COLOURS = {"healthy": "green", "starting": "yellow", "unhealthy": "red", "frozen": "red", "down": "red"}
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without a question.")]


def up(
    auth: Annotated[
        bool | None,
        typer.Option("--auth/--no-auth", help="Accounts in MLflow; --auth is remembered until --no-auth."),
    ] = None,
    port_offset: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=57000,
            help="Move the ports of all services and engines by so many, for a second stack on a machine; remembered "
            "for the home, and 0 moves them back.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be started, or started again, and why.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start MLflow, Prefect, a worker, the gateway and the engines that should run; harmless if they run."""
    # Said before the imports below, which take seconds on a busy machine.
    note("stack", "looks at what runs")
    from weighbridge.settings import load_settings, use_libraries

    settings = load_settings(port_offset)
    if auth is not None:
        settings = settings.model_copy(update={"mlflow_auth": auth})
    use_libraries(settings)
    from stack import lifecycle
    from weighbridge import prefect_api

    if dry_run:
        _show_plan(lifecycle.plan_up(settings), as_json)
        return
    try:
        rows = lifecycle.up(settings, note)
    except KeyboardInterrupt:
        raise lifecycle.interrupted(settings) from None
    if as_json:
        show_json({"services": [row.model_dump() for row in rows]})
        return
    for row in rows:
        say(f"{row.name:>10}  {styled(row.state, COLOURS[row.state])}  {row.url}")
    say(f"API key of the gateway: {settings.home / 'gateway' / 'default.key'}")
    say(f"Secret of Prefect, which its page asks for: {prefect_api.secret_file(settings)}")
    if settings.mlflow_auth:
        from registry.accounts import ADMIN, password_file

        say(f"MLflow has accounts. Password of {ADMIN}: {password_file(settings, ADMIN)}")


def _show_plan(plan: Plan, as_json: bool) -> None:
    if as_json:
        show_json(plan.model_dump())
        return
    for name in plan.kept:
        say(f"{name:>10}  runs on")
    for name in plan.starts:
        say(f"{name:>10}  would start")
    for restart in plan.restarts:
        say(f"{restart.name:>10}  would restart: {'; '.join(restart.reasons)}")
    if not plan.starts and not plan.restarts:
        say("`weighbridge up` would change nothing.")


def down(yes: YesOption = False, as_json: JsonOption = False) -> None:
    """Stop everything that `up` and the flows started, and wait until it has ended.

    On a terminal it asks first while a release, a rollout or a client's request is under way.
    """
    from stack import stopping
    from weighbridge.settings import load_settings

    settings = load_settings()
    cut = stopping.cut_by_stop(settings)
    for sentence in cut:
        note("stack", sentence)
    # A script goes on as ever: it has nobody to ask.
    if cut and not yes and _is_attended() and not typer.confirm("Stop all the same?", err=True):
        say("Nothing was stopped.")
        return
    stopping.down(settings, note)
    if as_json:
        show_json({"services": []})


def restart(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Services or engines, as `status` names them.")],
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Start services or engines again, one by one, and wait until each is healthy.

    A service takes over this shell's variables, such as a new HF_TOKEN. An engine that has requests, an engine that is
    being scored, and a worker with runs are restarted only after a question, or with --yes.
    """
    note("stack", "looks at what runs")
    from stack import restarting
    from weighbridge.settings import load_settings, use_libraries

    settings = load_settings()
    use_libraries(settings)
    restarting.require_known(settings, names)
    if not yes:
        _confirm(restarting.obstacles(settings, names), names)
    done = restarting.restart(settings, names, note)
    if as_json:
        show_json({"restarted": [entry.model_dump() for entry in done]})
        return
    for entry in done:
        say(f"{entry.name}  {styled(entry.state, COLOURS[entry.state])}  pid {entry.pid}, after {entry.seconds:.0f} s")


def _confirm(obstacles: Sequence[str], names: Sequence[str]) -> None:
    """Ask whether a restart may cut something.

    Raises:
        RestartRefused: There is nobody to ask, or the answer is no.
    """
    from weighbridge.errors import RestartRefused

    if not obstacles:
        return
    what = f"{'; '.join(obstacles)}."
    if _is_attended():
        say(what, error=True)
        if typer.confirm("Restart all the same?", err=True):
            return
    raise RestartRefused(
        f"{what} Nothing was restarted." if not _is_attended() else "Nothing was restarted.",
        f"`weighbridge restart {' '.join(names)} --yes` restarts all the same.",
    )


def _is_attended() -> bool:
    """True if a person can be asked: at a terminal, and not for a program that reads JSON."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty() and documents.stream is None


def logs(
    name: Annotated[str, typer.Argument(help="mlflow, prefect, worker, gateway, or the name of an engine.")] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 40,
) -> None:
    """Show the end of a service's log; without a name, list the logs."""
    from collections import deque

    from weighbridge.errors import ServiceUnknown, StackDown
    from weighbridge.settings import load_settings
    from weighbridge.suggestions import did_you_mean

    folder = load_settings().logs_folder
    known = sorted(path.stem for path in folder.glob("*.log"))
    if not name:
        if not known:
            say(f"There is no log in {folder} yet: `weighbridge up` starts the stack.")
        for stem in known:
            say_plain(f"{stem}  {folder / stem}.log")
        return
    if not known:
        raise StackDown("There is no log yet.", "`weighbridge up` starts the stack.", where=str(folder))
    if name not in known:
        raise ServiceUnknown(
            f"There is no log of {name!r}{did_you_mean(name, known) or '.'}",
            f"Name one of {', '.join(known)}.",
            where=str(folder),
        )
    with (folder / f"{name}.log").open(errors="replace") as file:
        say_plain(without_colours("".join(deque(file, maxlen=lines))).removesuffix("\n"))


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (up, down, restart, logs):
        app.command()(command)
