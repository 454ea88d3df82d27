"""The flows of which every line has a deployment: one entry here, and one schedule in the line's file if it has any.

The deployment's name is the line's, as in `promote/llama`. `stack/line_deployments.py` makes them from the files in
`lines/`; an entry for the same flow and name in `prefect.yaml` takes the place of one from here.
"""

from __future__ import annotations

from typing import NamedTuple


class LineFlow(NamedTuple):
    """A flow that takes a line."""

    name: str
    """The flow's name, its function, its file in flows/, and its field under a line's `schedules`, if it has one."""
    description: str
    one_at_a_time: bool = True
    """Whether a run waits for the previous one of the same line."""

    @property
    def entrypoint(self) -> str:
        """File and function."""
        return f"flows/{self.name}.py:{self.name}"


LINE_FLOWS = (
    LineFlow("release", "Take the newest release of {line} to candidates that await approval."),
    LineFlow("promote", "Serve what the registry asks for."),
    LineFlow("rollback", "Go back to the previous version, now.", one_at_a_time=False),
)
