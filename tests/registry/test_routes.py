"""Every route of the installed MLflow is either answered or refused on purpose."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from registry.server import refused, routes

REFUSED = Path(__file__).with_name("mlflow_refused.txt")
ANSWERED = {(route.method, route.path) for route in routes.ROUTES}


def refused_routes() -> set[tuple[str, str]]:
    method_and_path = (line.split(" ") for line in REFUSED.read_text().splitlines())
    return {(method, path) for method, path in method_and_path}


def installed_routes(accounts: bool, home: Path) -> set[tuple[str, str]]:
    database = f"sqlite:///{home}/mlflow.db"
    environment = {**os.environ, "WEIGHBRIDGE_MLFLOW_AUTH": str(accounts), "MLFLOW_TRACKING_URI": database}
    command = [sys.executable, "-m", "tests.support.mlflow_routes"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return {(method, path) for method, _, path in (line.partition(" ") for line in done.stdout.splitlines())}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("accounts", [False, True], ids=["without accounts", "with accounts"])
def test_every_route_of_the_installed_mlflow_is_classified(accounts: bool, own_home: Path) -> None:
    installed = {
        (method, path)
        for method, path in installed_routes(accounts, own_home)
        if not path.startswith("/api/2.0/preview/")  # a second spelling, refused as a whole
    }
    assert len(installed) > 200, "the walk has found MLflow's routes"
    unclassified = installed - ANSWERED - refused_routes()
    assert not unclassified, (
        "MLflow has routes that nobody has looked at. Name each in registry/server/routes.py or in "
        f"{REFUSED.name}: {sorted(unclassified)}"
    )
    if accounts:
        gone = (ANSWERED | refused_routes()) - installed
        assert not gone, f"MLflow no longer has these routes: {sorted(gone)}"


def test_no_route_is_both_answered_and_refused() -> None:
    assert not ANSWERED & refused_routes()
    for method, path in refused_routes():
        sample = re.sub(r"\{\w+\}", "x1", path)
        for spelling in {sample, sample.replace("/api/", "/ajax-api/", 1)}:
            found = routes.find(method, spelling)
            assert found is None, f"{method} {spelling} is answered as {found}"
            assert refused.reason_of(spelling) != refused.NOT_NEEDED, f"say why {method} {path} is refused"


def test_a_route_that_no_version_has_is_refused() -> None:
    for path in ("/api/4.0/mlflow/runs/get", "/api/2.0/mlflow/runs/get/", "/api/2.0/preview/mlflow/runs/get", "/admin"):
        assert routes.find("GET", path) is None


def test_what_gives_rights_is_for_admins() -> None:
    for route in routes.ROUTES:
        about_accounts = re.search(r"/(users|roles|webhooks)(/|$)", route.path)
        own = route.path.endswith(("/users/current", "/users/current/permissions", "/users/update-password"))
        assert (route.access == "admin") == (about_accounts is not None and not own), route
