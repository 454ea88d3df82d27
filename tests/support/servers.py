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
FIXTURES = frozenset(
    {"accounts_server", "fleet", "mlflow_server", "prefect", "prefect_server", "road", "running", "running_fleet"}
    | {"supervisor"}
)
"""A test that asks for one of these fixtures needs its server."""

_refusing = False


def mark(item: pytest.Item) -> None:
    """Mark a test that asks for a server's fixture."""
    if FIXTURES & set(getattr(item, "fixturenames", ())):
        item.add_marker("server")


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
