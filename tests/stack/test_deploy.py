"""Objects that `up` creates in a real Prefect server: the work pool, and automations, replaced by name."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml

from stack.deploy import automate, ensure_work_pool
from stack.services import POOL, POOL_TYPE
from tests.support.waiting import wait_for
from weighbridge import prefect_api
from weighbridge.errors import StackFailed
from weighbridge.home import project_root
from weighbridge.settings import Settings

# Prefect's server takes half a minute to start, longer on a machine that is busy with other tests.
pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
DESCRIBED = project_root() / "automations.yaml"


@pytest.fixture
def api(prefect_server: Settings) -> Iterator[httpx.Client]:
    with prefect_api.client(prefect_server, timeout=60, retry_seconds=60) as client:
        yield client


def known(api: httpx.Client) -> list[dict[str, Any]]:
    automations: list[dict[str, Any]] = api.post("/automations/filter", json={}).raise_for_status().json()
    return [automation for automation in automations if automation["name"].startswith("weighbridge-")]


def a_running_run(api: httpx.Client) -> str:
    flow = api.post("/flows/", json={"name": "promote"}).raise_for_status().json()
    body = {"flow_id": flow["id"], "state": {"type": "RUNNING", "name": "Running"}}
    run: str = api.post("/flow_runs/", json=body).raise_for_status().json()["id"]
    return run


def heartbeat(api: httpx.Client, run: str) -> None:
    event = {
        "id": str(uuid4()),
        "event": "prefect.flow-run.heartbeat",
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
    }
    api.post("/events", json=[event]).raise_for_status()


def state(api: httpx.Client, run: str) -> dict[str, Any]:
    state: dict[str, Any] = api.get(f"/flow_runs/{run}").raise_for_status().json()["state"]
    return state


def hasty(folder: Path) -> Path:
    """The automation with a few seconds instead of minutes."""
    text = yaml.safe_load(DESCRIBED.read_text())
    text["automations"][0]["trigger"]["within"] = 12
    path = folder / "automations.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def test_the_work_pool_is_created_once(prefect_server: Settings, api: httpx.Client) -> None:
    ensure_work_pool(prefect_server)
    created = api.get(f"/work_pools/{POOL}").raise_for_status().json()
    ensure_work_pool(prefect_server)
    assert api.get(f"/work_pools/{POOL}").json() == created
    assert (created["name"], created["type"]) == (POOL, POOL_TYPE)


def test_an_automation_is_created_once_and_updated_in_place(
    prefect_server: Settings, api: httpx.Client, tmp_path: Path
) -> None:
    automate(prefect_server, DESCRIBED)
    [first] = known(api)
    automate(prefect_server, hasty(tmp_path))
    [second] = known(api)
    assert first["id"] == second["id"]
    assert (first["trigger"]["within"], second["trigger"]["within"]) == (300, 12)


def test_a_run_without_heartbeats_is_marked_crashed(
    prefect_server: Settings, api: httpx.Client, tmp_path: Path
) -> None:
    automate(prefect_server, hasty(tmp_path))
    silent, living = a_running_run(api), a_running_run(api)
    heartbeat(api, silent)

    def crashed() -> bool:
        heartbeat(api, living)
        return bool(state(api, silent)["type"] == "CRASHED")

    wait_for(crashed, lambda: str(state(api, silent)), seconds=180)
    assert "Run the same command again" in state(api, silent)["message"]
    assert state(api, living)["type"] == "RUNNING"


def test_an_automation_that_prefect_rejects_is_reported_with_its_file(prefect_server: Settings, tmp_path: Path) -> None:
    wrong = tmp_path / "automations.yaml"
    wrong.write_text("automations: [{name: weighbridge-wrong, trigger: {type: sundial}, actions: []}]")
    with pytest.raises(StackFailed, match=r"(?s)Prefect does not take weighbridge-wrong.*Correct automations\.yaml"):
        automate(prefect_server, wrong)
