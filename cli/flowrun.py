"""Run a flow in this process, or through the worker: there, a run that is under way is followed, not doubled."""

from __future__ import annotations

import importlib
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import TerminationSignal
from pydantic import BaseModel, ConfigDict

import weighbridge.errors
from cli.flow_errors import ReportedErrors, told_once
from cli.leaving import ended_here, ending_by_signals, not_followed
from cli.output import say_plain
from cli.silence import Silence
from tasks.stored_results import only_own_results
from weighbridge.deployments import start
from weighbridge.errors import Interrupted, StackDown, StackFailed, WeighbridgeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import Log

    from weighbridge.settings import Settings

only_own_results()

POLL_SECONDS = 1.0
START_ATTEMPTS = 3
"""Prefect on a busy machine may answer late; the same idempotency key never makes a second run."""
DUE_WITHIN = timedelta(seconds=5)
"""Runs that the schedule plans for later than this are not under way."""
ACTIVE = (StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED)
"""States of a run that is under way, in the order in which such runs are followed."""
WAITING_FOR_SLOT = "AwaitingConcurrencySlot"
STARTS_AGAIN = "AwaitingRetry"
WORKER_RETRY = "Aborted submission of flow run"
"""The worker logs this at each poll while a run waits for its deployment's slot (prefect/workers/base.py, 3.8.8)."""


class StepRow(BaseModel):
    """One step of a flow run, as Prefect keeps it."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: str
    """Completed, Cached, Failed, …"""
    seconds: float


class WorkerRun(BaseModel):
    """A flow run that has ended at the worker."""

    model_config = ConfigDict(frozen=True)

    result: dict[str, Any]
    steps: list[StepRow]
    began_before: bool
    """Whether it was running already when the command asked for it."""


def run_here(settings: Settings, flow: str, parameters: dict[str, Any]) -> tuple[dict[str, Any], list[StepRow]]:
    """Run a flow in this process, with its log on the terminal.

    Raises:
        Interrupted: Ctrl-C, a closed terminal or SIGTERM ended it; says what it left and how to go on.
        WeighbridgeError: whatever the flow raised.
    """
    function = getattr(importlib.import_module(f"flows.{flow}"), flow)
    try:
        with told_once(), ending_by_signals():
            state: State = function(**parameters, return_state=True)
    except (KeyboardInterrupt, TerminationSignal):
        raise ended_here(settings, flow, parameters) from None
    result = state.result(raise_on_failure=False)
    run_id = state.state_details.flow_run_id
    steps = []
    if run_id:
        with get_client(sync_client=True) as client:
            steps = _steps(client, run_id)
    if isinstance(result, BaseException):
        raise result
    return result.model_dump(), steps


def run_through_worker(
    settings: Settings, flow: str, line_name: str, parameters: dict[str, Any], report: Callable[[str], None]
) -> WorkerRun:
    """Follow the run of a line's deployment that does this already, else start one; show its log, return its result.

    Args:
        settings: of the installation.
        flow: `release`, `promote` or `rollback`.
        line_name: the deployment's name.
        parameters: of the run. A run with other parameters is not the same work, and is waited for.
        report: called with each line for a person.

    Raises:
        StackDown, ReleaseNotStarted: see `weighbridge.deployments.start`.
        Interrupted: Ctrl-C; the run goes on.
        WeighbridgeError: the kind that the flow run ended with.
    """
    deployment = f"{flow}/{line_name}"
    run: FlowRun | None = None
    try:
        with get_client(sync_client=True) as client:
            run = find_active_run(client, flow, line_name, parameters)
            began_before = run is not None and run.state_type == StateType.RUNNING
            if run is not None:
                report(f"{deployment}: {run.name} is under way ({(run.state_name or '').lower()}); following it.")
            else:
                run = client.read_flow_run(UUID(_start(settings, deployment, parameters)))
                report(f"{deployment}: {run.name} is scheduled at the worker.")
            run = _follow(client, run, flow, report, Silence(settings, flow, line_name))
            steps = _steps(client, run.id)
    except KeyboardInterrupt:
        raise not_followed(settings, flow, parameters, run.name if run else "") from None
    assert run.state is not None
    if not run.state.is_completed():
        raise error_of(run)
    result = run.state.result()
    # Out of its store the result is plain JSON again.
    fields = result if isinstance(result, dict) else result.model_dump()
    return WorkerRun(result=fields, steps=steps, began_before=began_before)


def find_active_run(client: SyncPrefectClient, flow: str, line_name: str, parameters: dict[str, Any]) -> FlowRun | None:
    """Find the run of a deployment that is running, or else due first, with the same parameters.

    Args:
        client: of the Prefect server.
        flow: name of the flow.
        line_name: name of the deployment.
        parameters: those that are not None.
    """
    runs = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[line_name])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(ACTIVE))),
            expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC) + DUE_WITHIN),
        ),
    )
    same = [run for run in runs if {k: v for k, v in run.parameters.items() if v is not None} == parameters]
    return min(same, key=_follow_order, default=None)


def error_of(run: FlowRun) -> WeighbridgeError:
    """Rebuild the named error that a flow run in another process ended with, from its state's message."""
    message = (run.state.message if run.state else "") or "no message"
    if run.state_type == StateType.CANCELLED:
        return Interrupted(
            f"{run.name} was cancelled in Prefect; its finished steps are kept.",
            "The same command goes on after them.",
            where=f"flow run {run.name}",
        )
    for part in message.split(": "):
        kind = getattr(weighbridge.errors, part.strip(), None)
        if isinstance(kind, type) and issubclass(kind, WeighbridgeError):
            what, _, next_step = message.rpartition(f"{part}: ")[2].partition(" Next: ")
            return kind(what, next_step or "See the flow run in Prefect.", where=f"flow run {run.name}")
    return StackFailed(
        f"The flow run ended as {run.state_name}: {message}",
        "See its log in Prefect, and `weighbridge logs worker`.",
        where=f"flow run {run.name}",
    )


def _follow_order(run: FlowRun) -> tuple[int, datetime]:
    assert run.state_type is not None
    return ACTIVE.index(run.state_type), run.expected_start_time or datetime.max.replace(tzinfo=UTC)


def _start(settings: Settings, deployment: str, parameters: dict[str, Any]) -> str:
    key = f"cli/{uuid4()}"
    for _ in range(START_ATTEMPTS - 1):
        try:
            return start(settings, deployment, parameters, key)
        except (StackDown, StackFailed):
            time.sleep(POLL_SECONDS)
    return start(settings, deployment, parameters, key)


def _follow(
    client: SyncPrefectClient, run: FlowRun, flow: str, report: Callable[[str], None], silence: Silence
) -> FlowRun:
    """Show a run's log, from its beginning, until the run has ended."""
    shown, waits = 0, False
    task_names: dict[UUID | None, str] = {None: flow}
    reported = ReportedErrors()
    restarts: set[UUID] = set()
    while True:
        # The state first: a run that has ended writes no more, so the log that is read then is whole.
        run = client.read_flow_run(run.id)
        if run.state_name == WAITING_FOR_SLOT and not waits:
            waits = True
            report(f"{run.name} waits: another run of {flow} for this line is under way, and one runs at a time.")
            if flow == "promote":
                report(
                    "If that one was killed together with its worker, its slot is free within 5 minutes; with --here "
                    "this command does not wait."
                )
        begun, queued = run.state_type == StateType.RUNNING, run.state_name == WAITING_FOR_SLOT
        if why := silence.explain(begun=begun, queued=queued):
            report(f"{run.name}: {why}")
        if run.state_name == STARTS_AGAIN and run.state is not None and run.state.id not in restarts:
            restarts.add(run.state.id)
            report(f"{run.name}: {run.state.message}")
        records = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), offset=shown)
        shown += len(records)
        for record in records:
            if not record.message.startswith(WORKER_RETRY):
                _show(client, record, task_names, reported)
        if run.state is not None and run.state.is_final() and not records:
            return run
        time.sleep(POLL_SECONDS)


def _show(client: SyncPrefectClient, record: Log, task_names: dict[UUID | None, str], reported: ReportedErrors) -> None:
    if record.task_run_id not in task_names:
        assert record.task_run_id
        task_names[record.task_run_id] = client.read_task_run(record.task_run_id).name
    if reported.leave_out(record.message, task_names[record.task_run_id] if record.task_run_id else ""):
        return
    say_plain(f"{record.timestamp:%H:%M:%S} | {task_names[record.task_run_id]} | {record.message}", error=True)


def _steps(client: SyncPrefectClient, run_id: UUID) -> list[StepRow]:
    runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
    runs.sort(key=lambda run: run.start_time or run.expected_start_time or run.created)  # type: ignore[arg-type,return-value]
    return [
        StepRow(name=run.name, state=run.state_name or "Pending", seconds=run.total_run_time.total_seconds())
        for run in runs
    ]
