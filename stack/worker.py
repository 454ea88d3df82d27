"""The worker: it runs the deployments of `lines/` and `prefect.yaml`, and nothing else that Prefect's API asks for.

    python -m stack.worker        (the stack's service `worker`)

A stock process worker takes command, environment and folder from the API: from the deployment, from its pull steps,
from the run's job variables and from the work pool's template. Whoever may start a release could thereby run a shell.
Here all of them come from the file on disk (`stack/allowed.py`), and the flow's process is told the file's entrypoint,
so that it does not ask the API for one.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anyio
from prefect.client.schemas.objects import FlowRun, WorkPool
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.flows import load_flow_from_entrypoint
from prefect.runner._flow_run_executor import FlowRunExecutionResult, FlowRunExecutorContext
from prefect.runner._starter_engine import EngineCommandStarter
from prefect.states import Failed
from prefect.utilities.processutils import command_to_string, setup_signal_handlers_worker
from prefect.workers.base import BaseWorker, BaseWorkerResult
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult
from pydantic import PrivateAttr

from stack.allowed import Allowed, check
from stack.prefect_run import FIXED
from stack.services import POOL
from weighbridge.errors import RunRefused, WeighbridgeError
from weighbridge.settings import load_settings

if TYPE_CHECKING:
    from uuid import UUID

    from anyio.abc import TaskStatus
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.flows import Flow
    from prefect.runner._process_manager import ProcessHandle

NAME = "local"
RUNS_AT_ONCE = 4
# Settings with the secret: the flow's process takes them from the profile, its children not at all.
SECRETS = {"PREFECT_API_AUTH_STRING": None, "PREFECT_SERVER_API_AUTH_STRING": None}


class RunOfFile(ProcessJobConfiguration):
    """How a run is started: as the file on disk says."""

    _allowed: Allowed = PrivateAttr()

    @property
    def entrypoint(self) -> str:
        """The flow, by the file's entrypoint."""
        return str(load_settings().root / self._allowed.entrypoint)

    @property
    def fixed(self) -> dict[str, Any]:
        """The parameters that the file fixes."""
        return dict(self._allowed.parameters)

    @classmethod
    async def resolve_for_flow_run(
        cls,
        flow_run: FlowRun,
        *,
        client: PrefectClient,
        work_pool: WorkPool,
        worker_name: str,
        worker_id: UUID | None = None,
        deployment: DeploymentResponse | None = None,
    ) -> Self:
        """Look a run up in the file.

        Raises:
            RunRefused: The file has no such deployment, or the run asks for more than it says.
        """
        if flow_run.deployment_id is None:
            raise RunRefused(
                "The worker does not run this: it is a run of no deployment.",
                "Start a deployment of a line, or of prefect.yaml.",
                where=flow_run.name,
            )
        deployment = deployment or await client.read_deployment(flow_run.deployment_id)
        flow = await client.read_flow(flow_run.flow_id)
        allowed = check(
            load_settings().root,
            name=deployment.name,
            flow=flow.name,
            entrypoint=deployment.entrypoint,
            parameters=flow_run.parameters,
            job_variables=_together(deployment.job_variables, flow_run.job_variables),
            pull_steps=deployment.pull_steps or [],
        )
        configuration = cls(env=dict(allowed.environment))
        configuration._allowed = allowed
        configuration.prepare_for_flow_run(flow_run, deployment, flow, work_pool, worker_name, worker_id=worker_id)
        return configuration


def _together(*parts: dict[str, Any] | None) -> dict[str, Any]:
    everything: dict[str, Any] = {}
    for part in parts:
        for key, value in (part or {}).items():
            both = isinstance(value, dict) and isinstance(everything.get(key), dict)
            everything[key] = {**everything[key], **value} if both else value
    return everything


class FileWorker(ProcessWorker, abc.ABC):
    """A process worker that takes from the API which deployment to run, and nothing else.

    `abc.ABC` among the bases keeps it out of Prefect's registry, where the stock worker has the same type.
    """

    job_configuration = RunOfFile

    async def _submit_scheduled_flow_runs(self, flow_run_response: list[WorkerFlowRunResponse]) -> list[FlowRun]:
        # A run that starts again may be due before its old process has ended here, and taking it twice ends the worker.
        here = self._limiter.statistics().borrowers if self._limiter else ()
        return await super()._submit_scheduled_flow_runs(
            [due for due in flow_run_response if due.flow_run.id not in here]
        )

    async def _submit_run_and_capture_errors(
        self, flow_run: FlowRun, task_status: TaskStatus[int | Exception] | None = None
    ) -> BaseWorkerResult | Exception:
        try:
            await self.job_configuration.resolve_for_flow_run(
                flow_run, client=self.client, work_pool=self.work_pool, worker_name=self.name
            )
        except (WeighbridgeError, OSError) as error:
            # Failed, not crashed as Prefect would have it: a crash may be tried again.
            self.get_flow_run_logger(flow_run).error(str(error))
            message = str(error) if isinstance(error, WeighbridgeError) else f"prefect.yaml cannot be read: {error}"
            await self.client.set_flow_run_state(flow_run.id, Failed(message=message), force=True)
            if task_status:
                task_status.started(error)
            return error
        return await super()._submit_run_and_capture_errors(flow_run, task_status)

    async def run(
        self,
        flow_run: FlowRun,
        configuration: ProcessJobConfiguration,
        task_status: TaskStatus[int] | None = None,
    ) -> ProcessWorkerResult:
        """Run a flow in a process of its own, and wait for its end."""
        assert isinstance(configuration, RunOfFile)
        entrypoint, execution = configuration.entrypoint, None

        async def flow_of_hooks(_: FlowRun) -> Flow[..., Any]:
            return load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)

        async with FlowRunExecutorContext() as context:
            starter = EngineCommandStarter(
                command=command_to_string([sys.executable, "-m", "stack.prefect_run"]),
                cwd=Path(load_settings().root),
                env={**configuration.env, **SECRETS, FIXED: json.dumps(configuration.fixed)},
                env_overrides_settings=True,
                entrypoint=entrypoint,
                control_channel=context.control_channel,
            )
            executor = context.create_executor(flow_run, starter, resolve_flow=flow_of_hooks, propose_submitting=False)

            async def execute(*, task_status: TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED) -> None:
                nonlocal execution
                execution = await executor.submit(task_status=task_status)

            async with anyio.create_task_group() as group:
                handle: ProcessHandle = await group.start(execute)
                if task_status and handle.pid is not None:
                    task_status.started(handle.pid)
        return _ended(execution)

    async def __aenter__(self) -> Self:
        # Without the stock worker's runner, which executes pickled flows.
        return await BaseWorker.__aenter__(self)

    async def __aexit__(self, *exc_info: Any) -> None:
        await BaseWorker.__aexit__(self, *exc_info)


def _ended(execution: FlowRunExecutionResult | None) -> ProcessWorkerResult:
    if execution is None or execution.status_code is None:
        raise RuntimeError("The flow's process did not start.")
    return ProcessWorkerResult(status_code=execution.status_code, identifier=str(execution.handle.pid))


def main() -> None:
    """Work until stopped."""
    warnings.simplefilter("ignore", DeprecationWarning)
    worker = FileWorker(POOL, name=NAME, limit=RUNS_AT_ONCE, create_pool_if_not_found=False)
    # A stack that `nohup` or a script's `&` began ignores SIGINT, and Prefect makes one of a SIGTERM.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # At SIGTERM: take no new run, and let those that are under way end.
    setup_signal_handlers_worker(os.getpid(), "the worker", print)
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(worker.start())


if __name__ == "__main__":
    main()
