"""What the Prefect server must know: the work pool, the deployments of `lines/` and `prefect.yaml`, and automations."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from filelock import FileLock

from stack.line_deployments import FILE, deployments, expected_labels, label_of, written_document
from stack.services import POOL, POOL_TYPE
from weighbridge import prefect_api
from weighbridge.documents import read_yaml
from weighbridge.errors import StackFailed
from weighbridge.files import write_whole
from weighbridge.line_flows import LINE_FLOWS
from weighbridge.settings import Settings

ReportService = Callable[[str, str], None]
"""Called with a service's name and what has become of it."""
TIMEOUT_SECONDS, PATIENCE_SECONDS = 120.0, 120.0
"""For an answer, and for a locked database: a busy machine is slow, not broken."""
LOCK_SECONDS = 600.0
PAGE = 200
"""Deployments that Prefect returns at once, at most."""
MESSAGE_CHARACTERS = 600
"""So much of what Prefect says, from its end, goes into an error."""


def deploy(settings: Settings, report: ReportService) -> None:
    """Send deployments and automations that changed, and remove deployments of lines that are gone.

    Args:
        settings: of the installation. The work pool is there already.
        report: called with what was done.

    Raises:
        StackFailed: the server or its command line refuses a file; the file is named.
    """
    (settings.home / "prefect").mkdir(parents=True, exist_ok=True)
    with FileLock(settings.home / "prefect" / ".deploy.lock", timeout=LOCK_SECONDS):
        _deploy(settings, report)


def _deploy(settings: Settings, report: ReportService) -> None:
    marker, root = settings.home / "prefect" / "deployed.json", settings.root
    automations = root / "automations.yaml"
    expected = deployments(root)
    stamp: dict[str, Any] = {
        "server": settings.prefect_url,
        "pool": POOL,
        "automations": automations.read_text() if automations.is_file() else "",
        "deployments": {label_of(entry): _digest(entry) for entry in expected},
    }
    before = _read_marker(marker)
    same_server = all(before.get(name) == stamp[name] for name in ("server", "pool"))
    known = before.get("deployments", {}) if same_server else {}
    with _named_failures(settings), prefect_api.client(settings, TIMEOUT_SECONDS, PATIENCE_SECONDS) as server:
        deployed = line_deployments_of(server)
        gone = _remove_gone(server, deployed, expected_labels(root))
    changed = [
        entry
        for entry in expected
        if known.get(label_of(entry)) != stamp["deployments"][label_of(entry)]
        or (_is_of_a_line_flow(entry) and label_of(entry) not in deployed)
    ]
    if changed:
        _send(settings, changed)
    if automations.is_file() and not (same_server and before.get("automations") == stamp["automations"]):
        automate(settings, automations)
    if before != stamp:
        write_whole(marker, json.dumps(stamp))
    if changed:
        names = sorted({entry["name"] for entry in changed})
        report("prefect", f"deployments of {', '.join(names)} are known")
    if gone:
        report("prefect", f"deployments of lines that are gone are removed: {', '.join(gone)}")


def undeployed_lines(settings: Settings) -> list[str]:
    """Lines of which the local Prefect has not been sent a deployment as their file asks for it; reads files only.

    Returns:
        Their names, without those whose file has a mistake; none before the first `weighbridge up`.
    """
    before = _read_marker(settings.home / "prefect" / "deployed.json")
    if not before:
        return []
    known = before["deployments"]
    entries = [entry for entry in deployments(settings.root) if _is_of_a_line_flow(entry)]
    return sorted({str(entry["name"]) for entry in entries if known.get(label_of(entry)) != _digest(entry)})


def _read_marker(path: Path) -> dict[str, Any]:
    # A damaged marker, or one of an older version, equals none.
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("deployments"), dict) else {}


def _digest(entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True, default=str).encode()).hexdigest()


def _send(settings: Settings, entries: list[dict[str, Any]]) -> None:
    """Send some deployments by Prefect's own command, which also reads the flows' parameters."""
    file = settings.home / "prefect" / "deployments.yaml"
    written = settings.root / FILE
    document = {"name": "weighbridge", "pull": None, **written_document(settings.root), "deployments": entries}
    write_whole(file, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    environment = {**os.environ, **settings.as_environment(), **settings.library_environment()}
    prefect = str(Path(sys.executable).with_name("prefect"))
    command = [prefect, "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    done = subprocess.run(command, cwd=settings.root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        output = (done.stdout + done.stderr).strip()[-MESSAGE_CHARACTERS:]
        raise _refused(f"`prefect deploy` failed: {output}", written)


def _is_of_a_line_flow(entry: Any) -> bool:
    return label_of(entry).partition("/")[0] in [flow.name for flow in LINE_FLOWS]


def _remove_gone(server: httpx.Client, deployed: dict[str, dict[str, Any]], expected: set[str]) -> list[str]:
    """Remove the deployments of line flows in the local pool that no file asks for; their runs stay."""
    gone = {
        label: found for label, found in deployed.items() if found["work_pool_name"] == POOL and label not in expected
    }
    for found in gone.values():
        server.delete(f"/deployments/{found['id']}").raise_for_status()
    return sorted(gone)


def line_deployments_of(server: httpx.Client) -> dict[str, dict[str, Any]]:
    """The deployments of line flows that a Prefect server has, by label."""
    found: dict[str, dict[str, Any]] = {}
    for flow in LINE_FLOWS:
        offset = 0
        page: list[dict[str, Any]] = [{}] * PAGE
        while len(page) == PAGE:
            asked = {"flows": {"name": {"any_": [flow.name]}}, "limit": PAGE, "offset": offset}
            page = server.post("/deployments/filter", json=asked).raise_for_status().json()
            found |= {f"{flow.name}/{deployment['name']}": deployment for deployment in page}
            offset += PAGE
    return found


def ensure_work_pool(settings: Settings) -> None:
    """Create the work pool where there is none; a worker fills in the template of its type.

    Raises:
        StackFailed: the server refuses, or does not answer.
    """
    with _named_failures(settings), prefect_api.client(settings, TIMEOUT_SECONDS, PATIENCE_SECONDS) as server:
        answer = server.post("/work_pools/", json={"name": POOL, "type": POOL_TYPE})
    if answer.is_error and answer.status_code != httpx.codes.CONFLICT:
        raise StackFailed(
            f"Prefect does not take the work pool {POOL}: {answer.text[-MESSAGE_CHARACTERS:]}",
            "Read `weighbridge logs prefect`, then run `weighbridge up` again.",
            where=settings.prefect_url,
        )


def automate(settings: Settings, file: Path) -> None:
    """Send a file's automations to a Prefect server, each in place of the one of the same name.

    Args:
        settings: of the installation; they name the server.
        file: as `prefect automation create --from-file` takes it.

    Raises:
        StackFailed: the server refuses one, or does not answer.
    """
    # Prefect's own command creates a second one of the same name.
    with _named_failures(settings), prefect_api.client(settings, TIMEOUT_SECONDS, PATIENCE_SECONDS) as server:
        for automation in read_yaml(file)["automations"]:
            same_name = {"automations": {"name": {"any_": [automation["name"]]}}}
            known = server.post("/automations/filter", json=same_name).raise_for_status().json()
            if known:
                answer = server.put(f"/automations/{known[0]['id']}", json=automation)
            else:
                answer = server.post("/automations/", json=automation)
            if answer.is_error:
                message = answer.text[-MESSAGE_CHARACTERS:]
                raise _refused(f"Prefect does not take {automation['name']}: {message}", file)


@contextmanager
def _named_failures(settings: Settings) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise StackFailed(
            f"Prefect did not answer, or answered with an error ({type(error).__name__}).",
            "Read `weighbridge logs prefect`, then run `weighbridge up` again.",
            where=settings.prefect_url,
        ) from None


def _refused(what: str, file: Path) -> StackFailed:
    return StackFailed(what, f"Correct {file.name} and run `weighbridge up` again.", where=str(file))
