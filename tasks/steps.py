"""How a step of a flow is made: a Prefect task that is done once for the content it read.

`step(key=…)` wraps a plain function. The key lists everything that the result depends on; the result is
kept under it, and a later run, whatever became of this one, takes it from there and reports `Cached`.
The only module beside the rooms' `step.py` that knows Prefect.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.context import TaskRunContext
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger

from weighbridge.errors import WeighbridgeError

P = ParamSpec("P")
R = TypeVar("R")

QUIET_SECONDS = 5.0
"""Progress is logged at most this often."""


def step(name: str, key: Callable[..., list[object]] | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a step of a flow.

    Args:
        name: what Prefect shows; may use the parameters, as in `quantize-{scheme}`.
        key: called with the step's arguments by name; what it returns identifies the result. Without it
            the step is done every time.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        def cache_key(_: TaskRunContext, arguments: dict[str, Any]) -> str | None:
            if key is None:
                return None
            text = json.dumps([function.__module__, function.__name__, key(**arguments)], sort_keys=True, default=str)
            return f"{function.__name__}-{hashlib.sha256(text.encode()).hexdigest()}"

        return task(
            name=function.__name__,
            task_run_name=name,
            cache_key_fn=cache_key if key else None,
            persist_result=key is not None,
            result_serializer="json",
            cache_result_in_memory=False,
        )(function)

    return decorate


def run_logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """The logger of the step or flow that runs, or a plain one outside of both."""
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger("weighbridge")


def log_progress(what: str, unit_bytes: bool = False) -> Callable[[int, int], None]:
    """A progress callback that logs share done and time left, at most every few seconds.

    Args:
        what: what is being done, for the line's beginning.
        unit_bytes: whether the counts are bytes, to be shown as MB.
    """
    logger = run_logger()
    start = time.monotonic()
    last = start

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if total <= 0 or (now - last < QUIET_SECONDS and done < total):
            return
        last = now
        left = (now - start) / done * (total - done) if done else 0
        amount = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB" if unit_bytes else f"{done} of {total}"
        speed = f", {done / 1e6 / max(now - start, 1e-3):.0f} MB/s" if unit_bytes else ""
        logger.info("%s: %.0f %% (%s%s), about %.0f s left", what, 100 * done / total, amount, speed, left)

    return progress


class _NamedErrorsWithoutTraceback(logging.Filter):
    """A named error says all a reader needs; a page of Prefect's own stack would bury it."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, WeighbridgeError):
            record.exc_info = None
            record.exc_text = None
            record.msg, record.args = "%s", (str(error),)
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(_NamedErrorsWithoutTraceback())
