"""The commands of a user, on the end-to-end tests' own stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples import hub, smollm2
from registry import accounts
from tasks.serve.gateway import Gateway
from tests.support.waiting import wait_for
from weighbridge import prefect_api
from weighbridge.settings import Settings

LINE = "smollm2"


@dataclass
class Road:
    """The stack, and the commands of a user."""

    settings: Settings
    shelf: Path

    def run(
        self, *arguments: str, expect: int = 0, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `weighbridge …` to its end and hold its exit status against what is expected."""
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **(environment or {})},
            check=False,
        )
        assert done.returncode == expect, f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str, expect: int = 0, environment: Mapping[str, str] | None = None) -> Any:
        """Run `weighbridge … --json` and read what it prints."""
        return json.loads(self.run(*arguments, "--json", expect=expect, environment=environment).stdout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `weighbridge …`, in order to kill it."""
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `prefect …` as a user of this stack would."""
        return subprocess.run(
            [str(Path(sys.executable).with_name("prefect")), *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **self.settings.library_environment(), "COLUMNS": "200"},
            cwd=self.settings.root,
            check=False,
        )

    def stop_schedules(self) -> None:
        """Stop the schedule, so that it does not reconcile before a test does."""
        with prefect_api.client(self.settings) as prefect:
            deployment = prefect.get(f"/deployments/name/promote/{LINE}").raise_for_status().json()
            schedules = f"/deployments/{deployment['id']}/schedules"

            def stop() -> bool:
                # Prefect answers 503 while its database is busy, as after `up` on a loaded machine.
                return all(
                    prefect.patch(f"{schedules}/{schedule['id']}", json={"active": False}).is_success
                    for schedule in deployment["schedules"]
                )

            wait_for(stop, "the schedule to stop")

    def line(self) -> dict[str, Any]:
        """Return the line's part of `weighbridge status --json`."""
        lines = self.json("status")["lines"]
        return next((line for line in lines if line["line"] == LINE), {"serving": None, "versions": [], "awaiting": []})

    def publish(self, which: str) -> str:
        """Make the good or the damaged release the Hub's newest; returns its commit."""
        commit: str = hub.publish(self.shelf / "hub", smollm2.REPO, self.shelf / which)
        return commit

    def apply_roles(self, environment: Mapping[str, str] | None = None) -> None:
        """Make ada the reviewer of every line in `lines/`, and register the lines in MLflow."""
        roles = self.shelf / "roles.yaml"
        roles.write_text("users:\n  ada: {reviewer: all}\n")
        self.run("roles", "apply", str(roles), environment=environment)

    @property
    def reviewer(self) -> dict[str, str]:
        """Environment of a command that ada runs."""
        return {accounts.USERNAME: "ada", accounts.PASSWORD: self.password("ada")}

    def password(self, who: str) -> str:
        """Return an account's password."""
        return accounts.read_password(accounts.password_file(self.settings, who))

    @property
    def key(self) -> str:
        """API key of the gateway."""
        return Gateway(self.settings).key()
