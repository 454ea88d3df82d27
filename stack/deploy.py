"""What the Prefect server is to know: the work pool, the deployments of `prefect.yaml`, and `automations.yaml`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import yaml

from stack.services import POOL
from weighbridge.errors import StackFailed
from weighbridge.settings import Settings

Tell = Callable[[str, str], None]
"""Called with a service's name and what has become of it."""


def deploy(settings: Settings, tell: Tell) -> None:
    """Make it all known to the server; skipped when nothing changed.

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
    if marker.is_file() and json.loads(marker.read_text()) == stamp:
        return
    environment = {**os.environ, **settings.as_environment(), **settings.library_environment()}
    prefect = str(Path(sys.executable).with_name("prefect"))
    for command in (
        [prefect, "work-pool", "create", POOL, "--type", "process", "--overwrite"],
        [prefect, "--no-prompt", "deploy", "--all"],
    ):
        done = subprocess.run(command, cwd=settings.root, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stdout + done.stderr).strip()[-600:]
            raise _refused(f"`{' '.join(command[1:])}` failed: {said}", deployments)
    if automations.is_file():
        automate(f"{settings.prefect_url}/api", automations)
    marker.write_text(json.dumps(stamp))
    tell("prefect", "deployments and automations are known")


def automate(api: str, described: Path) -> None:
    """Make a file's automations known to a Prefect server, each in place of the one of its name.

    Args:
        api: the server's address with `/api`.
        described: the file, as `prefect automation create --from-file` takes it.

    Raises:
        StackFailed: the server does not take one.
    """
    # Prefect's own command makes a second one of the same name.
    with httpx.Client(base_url=api, timeout=30) as server:
        for wanted in yaml.safe_load(described.read_text())["automations"]:
            name = {"automations": {"name": {"any_": [wanted["name"]]}}}
            known = server.post("/automations/filter", json=name).raise_for_status().json()
            if known:
                answer = server.put(f"/automations/{known[0]['id']}", json=wanted)
            else:
                answer = server.post("/automations/", json=wanted)
            if answer.is_error:
                raise _refused(f"Prefect does not take {wanted['name']}: {answer.text[-600:]}", described)


def _refused(what: str, described: Path) -> StackFailed:
    return StackFailed(what, f"Correct {described.name} and run `weighbridge up` again.", where=str(described))
