"""Make steps of a flow: Prefect tasks that run once for the same input.

`step(key=…)` wraps a plain function. The key lists everything that the result depends on. The result is stored under
it, and a later run takes it from there and reports `Cached`, even if this run fails afterwards. This and
`stored_results.py` are the only modules except the rooms' `step.py` that import Prefect.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from importlib import import_module
from inspect import signature
from typing import Any, ParamSpec, TypeVar, cast

import httpx
from prefect import Task, task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.context import TaskRunContext
from prefect.exceptions import MissingContextError, PrefectException
from prefect.logging import get_logger, get_run_logger
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from tasks.stored_results import only_own_results
from weighbridge.errors import SettingsInvalid, WeighbridgeError
from weighbridge.failures import named
from weighbridge.pace import Pace
from weighbridge.settings import Settings
from weighbridge.terminal import watch_log_records
from weighbridge.units import duration

only_own_results()

P = ParamSpec("P")
R = TypeVar("R")

RUNNERS = {"ray": ("prefect_ray", "RayTaskRunner")}
QUIET_SECONDS = 5.0
"""Minimum time between two progress lines."""


def step(
    name: str, key: Callable[..., list[object]] | None = None, version: int = 1
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a step of a flow.

    Args:
        name: shown by Prefect; may contain parameters, as in `quantize-{scheme}`.
        key: called with the step's arguments that it names; its return value identifies the result. Without a key
            the step runs every time.
        version: raise it when the class of the result moves or changes its fields. Prefect returns a stored result of
            a class that is gone as a plain dictionary, so a result of an earlier version must not be found.
    """
    key_arguments = list(signature(key).parameters) if key else []

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        def cache_key(_: TaskRunContext, arguments: dict[str, Any]) -> str | None:
            if key is None:
                return None
            # Without the module's name: a worker loads a flow's file under a new name in every run.
            depends_on = key(**{name: arguments[name] for name in key_arguments})
            # The first version is not part of the key, like results that were stored before versions existed.
            parts = [name, function.__name__, depends_on, *([version] if version > 1 else [])]
            text = json.dumps(parts, sort_keys=True, default=str)
            return f"{function.__name__}-{hashlib.sha256(text.encode()).hexdigest()}"

        return task(
            name=function.__name__,
            version=str(version),
            task_run_name=name,
            cache_key_fn=cache_key if key else None,
            persist_result=key is not None,
            result_serializer="json",
            # A stored result is read back from storage; any other must stay in memory for the caller.
            cache_result_in_memory=key is None,
        )(named_failures(function))

    return decorate


def named_failures(function: Callable[P, R]) -> Callable[P, R]:
    """Make a step or a flow raise named errors only, so that Prefect's state says what to do next.

    Args:
        function: The step or the flow; it keeps its signature.
    """

    @functools.wraps(function)
    def named_function(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except WeighbridgeError:
            raise
        except Exception as error:
            raise named(error) from error

    return named_function


def side_by_side(settings: Settings, step_function: Callable[..., R], calls: Sequence[Mapping[str, object]]) -> list[R]:
    """Run a step once for each set of arguments, concurrently up to the installation's limit.

    Each call has its own task runner, because a step may itself run steps side by side: in one shared pool, those would
    wait for the slot that it occupies.

    Args:
        settings: name the task runner, and limit how many calls run at once.
        step_function: made by `step`.
        calls: its arguments by name, one mapping for each run.

    Raises:
        SettingsInvalid: the configured task runner is not installed.
        WeighbridgeError: of the first failed call, after all have ended.
    """
    if len(calls) < 2:
        return [step_function(**arguments) for arguments in calls]
    with _task_runner(settings) as runner:
        futures = [runner.submit(cast("Task[..., R]", step_function), dict(arguments)) for arguments in calls]
        for future in futures:
            future.wait()
    return [future.result() for future in futures]


def _task_runner(settings: Settings) -> TaskRunner[Any]:
    if settings.task_runner == "threads":
        return ThreadPoolTaskRunner(max_workers=settings.weigh_at_once)
    module, kind = RUNNERS[settings.task_runner]
    try:
        runner: TaskRunner[Any] = getattr(import_module(module), kind)()
    except ImportError:
        raise SettingsInvalid(
            f"WEIGHBRIDGE_TASK_RUNNER is {settings.task_runner!r}, and {module} is not installed.",
            f"Install {module.replace('_', '-')} where the flows run, or unset the variable.",
        ) from None
    return runner


def run_logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """The logger of the running step or flow; outside of both, a plain one."""
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger("weighbridge")


def flow_run_id() -> str:
    """The id of the running flow run; empty outside of one."""
    return str(flow_run.id or "")


def log_progress(what: str, unit_bytes: bool = False) -> Callable[[int, int], None]:
    """Make a progress callback that logs percentage and time left, and shows them in Prefect.

    The callback may be called from any thread. Units done at the first call count as done by an earlier run, and are
    told at once.

    Args:
        what: label of the work.
        unit_bytes: whether the counts are bytes, to be shown in MB.
    """
    logger, bar, pace = run_logger(), _ProgressBar(what), Pace()
    last: float | None = None

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        pace.note(done)
        # One unit may be the first of this run.
        resumed = last is None and 1 < done < total
        last = now if last is None else last
        if total <= 0 or (now - last < QUIET_SECONDS and done < total and not resumed):
            return
        last = now
        rate, seconds = pace.per_second, pace.seconds_left(total)
        left = "" if seconds is None else f", about {duration(seconds)} left"
        amount = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB" if unit_bytes else f"{done} of {total}"
        speed = f", {rate / 1e6:.0f} MB/s" if unit_bytes and rate else ""
        logger.info("%s: %s%.0f %% (%s%s)%s", what, "resumed at " * resumed, 100 * done / total, amount, speed, left)
        bar.draw(100 * done / total, f"{what}: {amount}{speed}{left}")

    return progress


def show_table(key: str, rows: Sequence[Mapping[str, object]], title: str) -> None:
    """Show a table on the run's page in Prefect; outside of a run, do nothing."""
    if TaskRunContext.get() is None:
        return
    try:
        create_table_artifact(key=key, table=[dict(row) for row in rows], description=title)
    except (httpx.HTTPError, PrefectException) as error:
        run_logger().warning("The table %s could not be drawn: %s", key, error)


class _ProgressBar:
    """A progress bar on the run's page in Prefect; outside of a run it does nothing.

    Prefect finds the run in the context of the creating thread, so that context is kept. A bar that cannot be drawn
    does not fail the work.
    """

    def __init__(self, what: str) -> None:
        self.key = re.sub(r"[^a-z0-9]+", "-", what.lower()).strip("-")
        self.context = copy_context() if TaskRunContext.get() is not None else None
        self.artifact: Any = None

    def draw(self, per_cent: float, text: str) -> None:
        """Show a percentage with a description."""
        if self.context is None:
            return
        try:
            if self.artifact is None:
                self.artifact = self.context.copy().run(
                    create_progress_artifact, progress=per_cent, key=self.key, description=text
                )
            else:
                self.context.copy().run(
                    update_progress_artifact, artifact_id=self.artifact, progress=per_cent, description=text
                )
        except (httpx.HTTPError, PrefectException) as error:
            get_logger("weighbridge").warning("The progress of %s could not be drawn: %s", self.key, error)
            self.context = None


class _NamedErrorsWithoutTraceback(logging.Filter):
    """Removes the traceback of a named error, whose message is complete without Prefect's stack."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, WeighbridgeError):
            record.exc_info = None
            record.exc_text = None
            record.msg, record.args = "%s", (str(error),)
        return True


# Names and tags from outside reach log lines, which reach terminals.
watch_log_records()
for _name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(_NamedErrorsWithoutTraceback())
