"""What the Prefect server must know: the work pool, the deployments of `prefect.yaml`, and `automations.yaml`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from stack.services import POOL, POOL_TYPE
from weighbridge import prefect_api
from weighbridge.documents import read_yaml
from weighbridge.errors import StackFailed
from weighbridge.settings import Settings

ReportService = Callable[[str, str], None]
"""Called with a service's name and what has become of it."""
TIMEOUT_SECONDS, PATIENCE_SECONDS = 120.0, 120.0
"""For an answer, and for a locked database: a busy machine is slow, not broken."""
MESSAGE_CHARACTERS = 600
"""So much of what Prefect says, from its end, goes into an error."""


def deploy(settings: Settings, report: ReportService) -> None:
    """Send deployments and automations to the server; skipped when nothing changed. The work pool is there already.

    Raises:
        StackFailed: the server or its command line refuses a file; the file is named.
    """
    marker = settings.home / "prefect" / "deployed.json"
    deployments, automations = settings.root / "prefect.yaml", settings.root / "automations.yaml"
    stamp = {
        "text": deployments.read_text(),
        "automations": automations.read_text() if automations.is_file() else "",
        "server": settings.prefect_url,
        "pool": POOL,
    }
    # A damaged marker equals none.
    if marker.is_file() and marker.read_bytes() == json.dumps(stamp).encode():
        return
    environment = {**os.environ, **settings.as_environment(), **settings.library_environment()}
    command = [str(Path(sys.executable).with_name("prefect")), "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=settings.root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        output = (done.stdout + done.stderr).strip()[-MESSAGE_CHARACTERS:]
        raise _refused(f"`{' '.join(command[1:])}` failed: {output}", deployments)
    if automations.is_file():
        automate(settings, automations)
    marker.write_text(json.dumps(stamp))
    report("prefect", "deployments and automations are known")


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
