"""Run a flow here or through the worker, and tell its steps afterwards."""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, State
from pydantic import BaseModel, ConfigDict

import weighbridge.errors
from weighbridge.errors import StackFailed, WeighbridgeError

POLL_SECONDS = 1.0


class StepRow(BaseModel):
    """One step of a flow run, as Prefect keeps it."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: str
    """Completed, Cached, Failed, …"""
    seconds: float


def here(flow: str, parameters: dict[str, Any]) -> tuple[dict[str, Any], list[StepRow]]:
    """Run a flow in this process, with its log on the terminal.

    Raises:
        WeighbridgeError: whatever the flow raised.
    """
    function = getattr(importlib.import_module(f"flows.{flow}"), flow)
    state: State = function(**parameters, return_state=True)
    result = state.result(raise_on_failure=False)
    run_id = state.state_details.flow_run_id
    steps = _steps(run_id) if run_id else []
    if isinstance(result, BaseException):
        raise result
    return result.model_dump(), steps


def through_worker(flow: str, line: str, parameters: dict[str, Any]) -> tuple[dict[str, Any], list[StepRow]]:
    """Run a line's deployment, follow its log, and bring its result back.

    Raises:
        WeighbridgeError: the kind that the flow run ended with.
    """
    from prefect.deployments import run_deployment

    run: FlowRun = run_deployment(name=f"{flow}/{line}", parameters=parameters, timeout=0)  # type: ignore[assignment]
    with get_client(sync_client=True) as client:
        seen = 0
        names: dict[UUID | None, str] = {None: flow}
        while True:
            run = client.read_flow_run(run.id)
            logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), offset=seen)
            seen += len(logs)
            for record in logs:
                if record.task_run_id not in names:
                    assert record.task_run_id
                    names[record.task_run_id] = client.read_task_run(record.task_run_id).name
                print(f"{record.timestamp:%H:%M:%S} | {names[record.task_run_id]} | {record.message}", file=sys.stderr)
            if run.state is not None and run.state.is_final():
                break
            time.sleep(POLL_SECONDS)
    steps = _steps(run.id)
    assert run.state is not None
    if run.state.is_completed():
        result = run.state.result()
        # Out of its store the result is plain JSON again.
        return result if isinstance(result, dict) else result.model_dump(), steps
    raise _named(run)


def _steps(run_id: UUID) -> list[StepRow]:
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
    runs.sort(key=lambda one: one.start_time or one.expected_start_time or one.created)  # type: ignore[arg-type,return-value]
    return [
        StepRow(name=one.name, state=one.state_name or "Pending", seconds=one.total_run_time.total_seconds())
        for one in runs
    ]


def _named(run: FlowRun) -> WeighbridgeError:
    """The named error that a flow run in another process ended with, rebuilt from its state's message."""
    message = (run.state.message if run.state else "") or "no message"
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
