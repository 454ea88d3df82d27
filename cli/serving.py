"""`release`, `approve`, `promote`, `rollback`: the same flows as the deployments, here or through the worker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import JsonOption, LineArgument, say, show_json, table

if TYPE_CHECKING:
    from cli.flowrun import StepRow

WorkerOption = Annotated[bool, typer.Option("--worker", help="Run as the Prefect deployment, through the worker.")]
OUTCOME_COLOURS = {"non_inferior": "green", "baseline": "cyan"}


def release(
    line: LineArgument,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; the line's own by default.")] = None,
    scheme: Annotated[
        list[str] | None, typer.Option(help="Only this scheme; may be given again. bf16: as published.")
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
    result, steps = _run(
        "release", line, {"line": line, "revision": revision, "schemes": scheme or None}, worker, as_json, fresh
    )
    if as_json:
        show_json({**result, "steps": [step.model_dump() for step in steps]})
        return
    _show_steps(steps)
    shown = table("scheme", "digest", "outcome", "candidate", "verdict")
    for one in result["candidates"]:
        colour = OUTCOME_COLOURS.get(one["outcome"], "red")
        version = str(one["version"]) if one["version"] is not None else "–"
        shown.add_row(one["scheme"], one["digest"][:12], f"[{colour}]{one['outcome']}[/]", version, one["sentence"])
    say(shown)
    for one in result["candidates"]:
        say(f"Report {one['scheme']}: {one['report']}")
    say(f"MLflow: {result['run_url']}")
    waiting = [one["version"] for one in result["candidates"] if one["version"] is not None]
    say(f"Approve: [bold]weighbridge approve {line} {waiting[0]} --reason …[/], or *Promote model* in MLflow")


def approve(
    line: LineArgument,
    candidate: Annotated[str, typer.Argument(help="Version of LINE-candidates, or a digest's beginning.")],
    reason: Annotated[str, typer.Option(help="Why; kept with the version.")] = "",
    override: Annotated[
        bool,
        typer.Option("--override", help="CANDIDATE is the digest of one that failed; the line names who may."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Approve a candidate: the same call as MLflow's *Promote model*. `promote` then makes it serve."""
    import getpass

    settings = _ready(line)
    from registry.access import accounts
    from registry.models.registry import Registry
    from tasks.serve.approval import check_production
    from weighbridge.line import Line

    registry, plan = Registry(), Line.load(line)
    accounts.sign_in(settings)
    # Where MLflow asks who is there, that name counts and no other.
    signed_in = accounts.signed_in_as() if settings.mlflow_auth else ""
    who = signed_in or os.environ.get("WEIGHBRIDGE_USER") or getpass.getuser()
    if override:
        version = registry.override(line, candidate, reason, who, plan.approval)
    else:
        found = registry.candidate(line, candidate)
        check_production(plan, found, registry)
        version = registry.approve(line, found.version, reason, who)
    if as_json:
        show_json(version.model_dump())
        return
    say(f"Version {version.version} of {line} is approved ({version.scheme}, {version.digest[:12]}).")
    say(f"It serves after [bold]weighbridge promote {line}[/]; where promote/{line} is scheduled, it starts by itself.")
    say(f"{settings.mlflow_url}/#/models/{line}")


def promote(
    line: LineArgument,
    version: Annotated[int | None, typer.Option(help="Version of LINE; by default the newest approved.")] = None,
    worker: WorkerOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make what serves what the registry asks for, step by step, without dropping a request."""
    result, steps = _run("promote", line, {"line": line, "version": version}, worker, as_json)
    _show_serving(result, steps, as_json)


def rollback(
    line: LineArgument,
    to: Annotated[int | None, typer.Option(help="Version of LINE; by default what served before.")] = None,
    reason: Annotated[str, typer.Option(help="Why; kept with the version that is taken back.")] = "rolled back by hand",
    worker: WorkerOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go back to an earlier version, now; a rollout in progress gives way."""
    to = _switch_first(line, to, reason, as_json)
    result, steps = _run("rollback", line, {"line": line, "to": to, "reason": reason}, worker, as_json)
    _show_serving(result, steps, as_json)


def _switch_first(line: str, to: int | None, reason: str, as_json: bool) -> int | None:
    """Move traffic before Prefect and MLflow are imported, which takes longer than all the rest.

    Returns:
        The version that a flow is to record; what was asked for when traffic could not be moved from here.
    """
    from tasks.serve.rollout.rollback import switch_warm
    from weighbridge.settings import load_settings

    version = switch_warm(load_settings(), line, to, reason)
    if version is None:
        return to
    if not as_json:
        say(f"{line}: version {version} has all new requests; the registry is told next.")
    return version


def _ready(line: str) -> Any:
    """Settings, after checking what is cheap to check: the line's file and the stack."""
    from stack import lifecycle
    from weighbridge.line import Line
    from weighbridge.settings import load_settings, use_libraries

    settings = load_settings()
    use_libraries(settings)
    Line.load(line)
    lifecycle.require_up(settings)
    return settings


def _run(
    flow: str, line: str, parameters: dict[str, Any], worker: bool, as_json: bool, fresh: bool = False
) -> tuple[dict[str, Any], list[StepRow]]:
    _ready(line)
    if as_json:
        os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"
        os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
    if fresh:
        os.environ["PREFECT_TASKS_REFRESH_CACHE"] = "true"
    from cli import flowrun

    wanted = {name: value for name, value in parameters.items() if value is not None}
    return flowrun.through_worker(flow, line, wanted) if worker else flowrun.here(flow, wanted)


def _show_steps(steps: list[StepRow]) -> None:
    shown = table("step", "state", "seconds")
    for step in steps:
        colour = {"Completed": "green", "Cached": "cyan"}.get(step.state, "red")
        shown.add_row(step.name, f"[{colour}]{step.state}[/]", f"{step.seconds:.1f}")
    say(shown)


def _show_serving(result: dict[str, Any], steps: list[StepRow], as_json: bool) -> None:
    if as_json:
        show_json({**result, "flow_steps": [step.model_dump() for step in steps]})
        return
    _show_steps(steps)
    if result["version"] is None:
        say(
            f"Nothing of {result['line']} is approved and nothing serves: `weighbridge release {result['line']}` first."
        )
    elif result["changed"]:
        say(f"{result['line']}: version {result['version']} ({result['scheme']}, {result['digest'][:12]}) serves.")
    else:
        say(f"{result['line']}: version {result['version']} serves already; nothing to do.")


def add_to(app: typer.Typer) -> None:
    """Make the commands known."""
    for command in (release, approve, promote, rollback):
        app.command()(command)
