"""`release`, `promote`, `rollback`: the same flows as the deployments, here or through the worker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import complete
from cli.approve import waiting_candidates
from cli.columns import below, number
from cli.output import JsonOption, LineArgument, note, say, show_json, table
from tasks.evaluate.verdict.outcomes import OUTCOMES
from weighbridge.terminal import styled

if TYPE_CHECKING:
    from cli.flowrun import StepRow, WorkerRun
    from cli.tables import Table
    from tasks.serve.installation import ServingInstallation

HereOption = Annotated[
    bool,
    typer.Option(
        "--here/--worker",
        help="In this process, which must stay; or, by default, at the worker, which this command follows.",
    ),
]
WorkerOption = Annotated[
    bool,
    typer.Option("--worker", help="Run the Prefect deployment at the worker; a run that is under way is followed."),
]
SHORT_DIGEST = 12


def release(
    line: LineArgument,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; the line's own by default.")] = None,
    scheme: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this scheme; may be given again. bf16: as published.",
            autocompletion=complete.schemes,
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do every step again instead of taking it from the cache.")
    ] = False,
    worker: WorkerOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take a line's newest release from its source to candidates that await approval.

    Exit status 0 when a candidate may be approved; 20 regression, 21 inconclusive, 22 invalid.
    """
    installation = _ready(line, worker=worker)
    _require_names(installation, line)
    parameters = {"line": line, "revision": revision, "schemes": scheme or None}
    result, steps = _run(installation, "release", line, parameters, worker, as_json, fresh)
    if as_json:
        show_json({**result, "steps": [step.model_dump() for step in steps]})
        return
    _show_steps(steps)
    say(candidates_table(result["candidates"]))
    for candidate in result["candidates"]:
        say(f"Report {candidate['scheme']}: {candidate['report']}")
    say(f"MLflow: {result['run_url']}")
    waiting = [candidate["version"] for candidate in result["candidates"] if candidate["version"] is not None]
    if waiting:
        approve_command = styled(f'weighbridge approve {line} {waiting[0]} --reason "…"', "bold")
        page = f"{installation.settings.mlflow_url}/#/models/{line}-candidates/versions/{waiting[0]}"
        say(f"Approve: {approve_command}, or *Promote model* at {page}")


def candidates_table(weighed: list[dict[str, Any]]) -> Table:
    """Lay out the candidates that a release ended with."""
    candidates = table("scheme", "digest", "outcome", number("candidate"), below("verdict"))
    for candidate in weighed:
        colour = OUTCOMES[candidate["outcome"]].terminal_colour
        candidates.add_row(
            candidate["scheme"],
            candidate["digest"][:SHORT_DIGEST],
            styled(candidate["outcome"], colour),
            str(candidate["version"]) if candidate["version"] is not None else "–",
            candidate["sentence"],
        )
    return candidates


def promote(
    line: LineArgument,
    version: Annotated[int | None, typer.Option(help="Version of LINE; by default the newest approved.")] = None,
    here: HereOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make what serves what the registry asks for, step by step, without dropping a request.

    Closing the terminal leaves the worker's run alone. Ctrl-C (exit status 130) does too, and says what has which share
    of the requests.
    """
    installation = _ready(line)
    if (unchanged := _settled(installation, line, version)) is not None:
        _show_serving(installation, unchanged, [], as_json)
        return
    parameters = {"line": line, "version": version}
    if not here:
        _require_worker(installation, "promote", parameters)
    result, steps = _run(installation, "promote", line, parameters, not here, as_json)
    _show_serving(installation, result, steps, as_json)


def _settled(installation: ServingInstallation, line: str, version: int | None) -> dict[str, Any] | None:
    """Return what serves if there is nothing to do: a flow run takes seconds to find that out."""
    from tasks.serve.settled import settled
    from weighbridge.line import Line

    unchanged = settled(installation, Line.load(line), version)
    return None if unchanged is None else unchanged.model_dump()


def rollback(
    line: LineArgument,
    to: Annotated[int | None, typer.Option(help="Version of LINE; by default the one that served before.")] = None,
    reason: Annotated[
        str, typer.Option(help="Why; kept with the version that is rolled back.")
    ] = "rolled back by hand",
    worker: WorkerOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go back to an earlier version, now; a rollout in progress is stopped."""
    to = _shift_traffic_first(line, to, reason, as_json)
    installation = _ready(line, orphans=True, worker=worker)
    parameters = {"line": line, "to": to, "reason": reason}
    result, steps = _run(installation, "rollback", line, parameters, worker, as_json)
    _show_serving(installation, result, steps, as_json)


def _shift_traffic_first(line: str, to: int | None, reason: str, as_json: bool) -> int | None:
    """Move traffic before Prefect and MLflow are imported, which takes longer than all the rest.

    Returns:
        The version that a flow is to record; what was asked for when traffic could not be moved from here.
    """
    from tasks.serve.rollout.rollback import switch_warm
    from weighbridge.settings import load_settings

    version = switch_warm(load_settings(), line, to, reason, lambda text: note("rollback", text))
    if version is None:
        return to
    if not as_json:
        say(f"{line}: version {version} gets all new requests; next the registry records it.")
    return version


def _ready(line: str, *, orphans: bool = False, worker: bool = False) -> ServingInstallation:
    """Load the installation, after cheap checks of the line's file and of the stack.

    Args:
        line: the line's name.
        orphans: whether a line will do whose file is gone while it still serves.
        worker: whether the worker must be up too.
    """
    from stack import lifecycle
    from tasks.serve.installation import ServingInstallation
    from tasks.serve.orphans import line_or_orphan
    from weighbridge.line import Line
    from weighbridge.settings import use_libraries

    installation = ServingInstallation.load()
    use_libraries(installation.settings)
    if orphans:
        line_or_orphan(installation.settings, line)
    else:
        Line.load(line)
    lifecycle.require_up(installation.settings, worker=worker)
    return installation


def _require_worker(installation: ServingInstallation, flow: str, parameters: dict[str, Any]) -> None:
    """Check that the worker takes runs, before one is scheduled that nobody would begin.

    Raises:
        StackDown: it does not; says why, and how to do without it.
    """
    from cli.leaving import command_of
    from stack.worker_life import worker_life
    from weighbridge.errors import StackDown

    life = worker_life(installation.settings)
    if not life.takes_runs:
        given = {name: value for name, value in parameters.items() if value is not None}
        raise StackDown(
            f"The worker does not take {flow}/{parameters['line']}: {life.sentence}.",
            f"{life.next_step}; or run `{command_of(flow, given, '--here')}`, which does without it.",
            where=str(installation.settings.home),
        )


def _require_names(installation: ServingInstallation, line: str) -> None:
    """Check every name in a line before a release, which would find them one by one, each in a page of log.

    Raises:
        LineInvalid: some are unknown; all are named.
    """
    from tasks.evaluate.check_line import unknown_names
    from weighbridge.line import Line

    if (problem := unknown_names(Line.load(line), installation.settings)) is not None:
        raise problem


def _run(
    installation: ServingInstallation,
    flow: str,
    line: str,
    parameters: dict[str, Any],
    worker: bool,
    as_json: bool,
    fresh: bool = False,
) -> tuple[dict[str, Any], list[StepRow]]:
    if as_json:
        os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"
        os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
    if fresh:
        os.environ["PREFECT_TASKS_REFRESH_CACHE"] = "true"
    if not as_json:
        # Before their import, which takes seconds.
        note(flow, f"{line}: loads Prefect and the steps.")
    from cli import flowrun

    given = {name: value for name, value in parameters.items() if value is not None}
    if not worker:
        return flowrun.run_here(installation.settings, flow, given)

    def run() -> WorkerRun:
        return flowrun.run_through_worker(installation.settings, flow, line, given, lambda text: note("worker", text))

    done = run()
    # A promotion that was running already chose its version before this command was typed.
    if flow == "promote" and "version" not in given and done.began_before and not _up_to_date(installation, line, done):
        note("worker", f"{line}: the registry asks for another version by now.")
        done = run()
    return done.result, done.steps


def _up_to_date(installation: ServingInstallation, line: str, done: WorkerRun) -> bool:
    """True if a promotion ended with the version that the registry asks for now."""
    registry = installation.registry
    undecided, production = registry.waiting(line), registry.production(line)
    target = max(undecided, key=lambda version: version.version) if undecided else production
    return target is None or target.version == done.result["version"]


def _show_steps(steps: list[StepRow]) -> None:
    rows = table("step", "state", number("seconds"))
    for step in steps:
        colour = {"Completed": "green", "Cached": "cyan"}.get(step.state, "red")
        rows.add_row(step.name, styled(step.state, colour), f"{step.seconds:.1f}")
    say(rows)


def _show_serving(
    installation: ServingInstallation, result: dict[str, Any], steps: list[StepRow], as_json: bool
) -> None:
    if as_json:
        show_json({**result, "flow_steps": [step.model_dump() for step in steps]})
        return
    if steps:
        _show_steps(steps)
    if result["version"] is None:
        waiting = waiting_candidates(installation, result["line"])
        say(f"Nothing of {result['line']} is approved, and nothing serves.")
        for sentence in waiting or [f"`weighbridge release {result['line']}` first."]:
            say(sentence)
    elif result["changed"]:
        say(
            f"{result['line']}: version {result['version']} "
            f"({result['scheme']}, {result['digest'][:SHORT_DIGEST]}) serves."
        )
    else:
        say(f"{result['line']}: version {result['version']} serves already; nothing to do.")
        for sentence in waiting_candidates(installation, result["line"]):
            say(sentence)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (release, promote, rollback):
        app.command()(command)
