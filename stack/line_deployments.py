"""The deployments that there should be: those of `prefect.yaml`, and for each file in `lines/` one of each line flow.

What the worker may run (`allowed.py`) and what Prefect is sent (`deploy.py`) are both made from here, from files on
disk alone. An entry of `prefect.yaml` for the same flow and name takes the place of a line's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from weighbridge.deployments import POOL
from weighbridge.documents import read_yaml
from weighbridge.errors import LineInvalid
from weighbridge.line import Line, is_line_name, line_names
from weighbridge.line_flows import LINE_FLOWS, LineFlow

FILE = "prefect.yaml"
ONE_AT_A_TIME = {"limit": 1, "collision_strategy": "ENQUEUE"}


def written_document(root: Path) -> dict[str, Any]:
    """Read `prefect.yaml`; empty without the file.

    Raises:
        DocumentInvalid: It is not YAML.
        OSError: It cannot be read.
    """
    path = root / FILE
    found = read_yaml(path) if path.is_file() else None
    return found if isinstance(found, dict) else {}


def written_deployments(root: Path) -> list[Any]:
    """Read the deployments that people wrote into `prefect.yaml`, not validated.

    Raises:
        DocumentInvalid, OSError: As `written_document`.
    """
    return list(written_document(root).get("deployments") or [])


def deployed_lines(root: Path) -> list[str]:
    """Names of the files in `lines/` that can be names of lines."""
    return [name for name in line_names(root / "lines") if is_line_name(name)]


def label_of(entry: Any) -> str:
    """Flow and name of a deployment, as `promote/llama`: Prefect keeps one of each."""
    fields = entry if isinstance(entry, dict) else {}
    flow = str(fields.get("entrypoint", "")).rpartition(":")[2].replace("_", "-")
    return f"{flow}/{fields.get('name')}"


def generated_deployments(root: Path) -> Iterator[dict[str, Any]]:
    """Make the deployments of all lines, without schedules, but those that `prefect.yaml` has itself.

    A line whose file has a mistake has them too: its runs fail with the mistake's name.
    """
    own = {label_of(entry) for entry in written_deployments(root)}
    for line in deployed_lines(root):
        for flow in LINE_FLOWS:
            entry = _entry(flow, line)
            if label_of(entry) not in own:
                yield entry


def deployments(root: Path) -> list[dict[str, Any]]:
    """All deployments as `prefect deploy` takes them, with the schedules of the lines.

    Those of a line whose file has a mistake are left out, so that Prefect keeps what it has of them.
    """
    lines = {}
    for name in deployed_lines(root):
        with suppress(LineInvalid):
            lines[name] = Line.load(name, root / "lines")
    own = [
        _with_schedules(entry, lines[entry["name"]]) for entry in generated_deployments(root) if entry["name"] in lines
    ]
    return [*written_deployments(root), *own]


def expected_labels(root: Path) -> set[str]:
    """Labels of all deployments that there may be, also of lines whose file has a mistake."""
    return {label_of(entry) for entry in (*written_deployments(root), *generated_deployments(root))}


def whole_document(root: Path) -> str:
    """`prefect.yaml` with the deployments of all lines, for a Prefect server of one's own."""
    document = {"name": "weighbridge", "pull": None, **written_document(root)}
    document.pop("definitions", None)
    return yaml.safe_dump({**document, "deployments": deployments(root)}, sort_keys=False, allow_unicode=True)


def _with_schedules(entry: dict[str, Any], line: Line) -> dict[str, Any]:
    schedule = getattr(line.schedules, entry["entrypoint"].rpartition(":")[2], None)
    description = entry["description"].replace("{line}", f"{line.name} ({line.source})")
    return {**entry, "description": description, "schedules": [schedule.model_dump()] if schedule else []}


def _entry(flow: LineFlow, line: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": line,
        "entrypoint": flow.entrypoint,
        "description": flow.description,
        "parameters": {"line": line},
        "work_pool": {"name": POOL},
    }
    return {**entry, "concurrency_limit": ONE_AT_A_TIME} if flow.one_at_a_time else entry
