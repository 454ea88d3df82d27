"""Tests that need a server carry the marker `server`; any other test fails when it starts one.

So `make check` stays a matter of minutes: it runs the tests without the marker.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = frozenset(
    {"chromium", "envoy", "initdb", "mlflow", "pg_ctl", "postgres", "prefect_server", "supervisord", "uvicorn", "vllm"}
)
"""Servers that take seconds to start. A thread of the test's own that answers HTTP is none of them."""
SHARED = frozenset({"accounts_server", "mlflow_server", "prefect_server", "road"})
"""Fixtures of servers that several files share."""
FIXTURES = SHARED | {"fleet", "prefect", "running", "running_fleet", "supervisor"}
"""A test that asks for one of these fixtures needs its server."""

_refusing = False


def mark(item: pytest.Item) -> None:
    """Mark a test that asks for a server's fixture."""
    if FIXTURES & set(getattr(item, "fixturenames", ())):
        item.add_marker("server")


def group(item: pytest.Item) -> str:
    """Group of tests that stay on one worker: those that share a server, else those of a file."""
    shared = SHARED & set(getattr(item, "fixturenames", ()))
    return min(shared, default=item.nodeid.partition("::")[0])


@contextmanager
def refused(item: pytest.Item) -> Iterator[None]:
    """Refuse every server that a test without the marker starts, in its fixtures too."""
    global _refusing
    _refusing = item.get_closest_marker("server") is None
    try:
        yield
    finally:
        _refusing = False


def watch() -> None:
    """Check every process that is started from now on."""
    start = subprocess.Popen.__init__

    def checked(self: subprocess.Popen[Any], args: Any, *more: Any, **options: Any) -> None:
        words = [args] if isinstance(args, str | bytes | Path) else list(args)
        names = {Path(str(word)).name.rpartition(".")[2] for word in words[:4]}
        if _refusing and (found := names & PROGRAMS):
            # Popen's destructor reads this.
            self.returncode = -1
            pytest.fail(f"starts {', '.join(found)}: mark it `server`, or do without")
        start(self, args, *more, **options)

    subprocess.Popen.__init__ = checked  # type: ignore[method-assign]
