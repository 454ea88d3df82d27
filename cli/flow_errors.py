"""Named errors in the log of a flow run. The command tells its error itself, once and at the end.

Prefect logs an error where a step raises it, as the state of the step, where the flow raises it, and as the state of
the flow; with several steps of the same fault that is a page of one sentence.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from cli.output import note
from weighbridge import errors

STATE = ("Finished in state Failed(", "Finished in state Crashed(")
NAME = re.compile(r"\b([A-Z][A-Za-z]+): ")


def told_error(message: str) -> str:
    """Return the name of the error that a message tells whole, with its next step; empty for any other message."""
    if " Next: " not in message:
        return ""
    names = [name for name in NAME.findall(message) if _is_error(name)]
    whole = names and (message.startswith(STATE) or message.startswith(f"{names[0]}: "))
    return str(names[0]) if whole else ""


class ReportedErrors:
    """The errors that a command's log has told so far."""

    def __init__(self) -> None:
        self._named: set[tuple[str, str]] = set()

    def leave_out(self, message: str, step: str) -> bool:
        """Return whether a message is left out, because the command tells its error at the end.

        Args:
            message: Of the log.
            step: Name of the step that logs it, which is told once with the error's name; empty for the flow.
        """
        if not (name := told_error(message)):
            return False
        if step and (step, name) not in self._named:
            self._named.add((step, name))
            note("failed", f"{step}: {name}")
        return True


class _Filter(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._named = ReportedErrors()

    def filter(self, record: logging.LogRecord) -> bool:
        return not self._named.leave_out(record.getMessage(), str(getattr(record, "task_run_name", "") or ""))


@contextmanager
def told_once() -> Iterator[None]:
    """Leave named errors out of what flows in this process log to the terminal; Prefect's pages have them all."""
    from prefect.logging.handlers import PrefectConsoleHandler

    known = [logging.root, *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
    consoles = [
        handler for logger in known for handler in logger.handlers if isinstance(handler, PrefectConsoleHandler)
    ]
    once = _Filter()
    for handler in consoles:
        handler.addFilter(once)
    try:
        yield
    finally:
        for handler in consoles:
            handler.removeFilter(once)


def _is_error(name: str) -> bool:
    kind = getattr(errors, name, None)
    return isinstance(kind, type) and issubclass(kind, errors.WeighbridgeError)
