"""The commands that a user has, on the end-to-end tests' own stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from examples import hub, smollm2
from registry import accounts
from tasks.serve.gateway import Gateway
from weighbridge.settings import Settings

LINE = "smollm2"


@dataclass
class Road:
    """The stack, and the commands that a user has."""

    settings: Settings
    shelf: Path

    def run(self, *arguments: str, expect: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `weighbridge …` to its end and hold its exit status against what is expected."""
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            check=False,
        )
        assert done.returncode == expect, f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str, expect: int = 0, **environment: str) -> Any:
        """Run `weighbridge … --json` and read what it prints."""
        return json.loads(self.run(*arguments, "--json", expect=expect, **environment).stdout)

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
        """Keep the reconciling schedule from doing what a test is about to do."""
        api = f"{self.settings.prefect_url}/api/deployments"
        deployment = httpx.get(f"{api}/name/promote/{LINE}").json()
        for schedule in deployment["schedules"]:
            url = f"{api}/{deployment['id']}/schedules/{schedule['id']}"
            httpx.patch(url, json={"active": False}).raise_for_status()

    def line(self) -> dict[str, Any]:
        """The line as `weighbridge status --json` tells it."""
        found = self.json("status")["lines"]
        return next((one for one in found if one["line"] == LINE), {"serving": None, "versions": [], "awaiting": []})

    def publish(self, which: str) -> str:
        """Make the good or the damaged release the Hub's newest; returns its commit."""
        commit: str = hub.publish(self.shelf / "hub", smollm2.REPO, self.shelf / which)
        return commit

    def apply_roles(self, **environment: str) -> None:
        """Make ada the reviewer of every line in `lines/`, and the lines known to MLflow."""
        roles = self.shelf / "roles.yaml"
        roles.write_text("users:\n  ada: {reviewer: all}\n")
        self.run("roles", "apply", str(roles), **environment)

    @property
    def reviewer(self) -> dict[str, str]:
        """What makes a command ada's."""
        return {accounts.USERNAME: "ada", accounts.PASSWORD: self.password("ada")}

    def password(self, who: str) -> str:
        """An account's password."""
        return accounts.read_password(accounts.password_file(self.settings, who))

    @property
    def key(self) -> str:
        """API key of the gateway."""
        return Gateway(self.settings).key()
