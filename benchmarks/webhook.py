"""Delay from a click in MLflow to its flow run: by the webhook, and by the schedule after an outage of the receiver.

    python -m benchmarks.webhook LINE [--clicks 10] [--outage-seconds 30]

Needs a stack of its own with nothing in it (`WEIGHBRIDGE_HOME`, other ports, `weighbridge up`) and an active schedule
of `promote/LINE`. Each click creates a version without a verdict, which `promote` refuses. Measured: the time from
sending the click until Prefect has the flow run; checked: that each run ends as refused.
"""

from __future__ import annotations

import argparse
import statistics
import time
from datetime import datetime
from typing import Any

import httpx

from tasks.serve.fleet.supervisor import Supervisor
from weighbridge import prefect_api
from weighbridge.settings import Settings, load_settings


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("line")
    parser.add_argument("--clicks", type=int, default=10)
    parser.add_argument("--outage-seconds", type=float, default=30)
    options = parser.parse_args()
    settings = load_settings()
    for model in (options.line, f"{options.line}-candidates"):
        _post(f"{settings.mlflow_url}/api/2.0/mlflow/registered-models/create", {"name": model}, may_fail=True)
    delays = []
    for number in range(1, options.clicks + 1):
        delays.append(_click(settings, options.line))
        print(f"click {number}: flow run {delays[-1]:.2f} s later", flush=True)
    print(f"{len(delays)} clicks: median {statistics.median(delays):.2f} s, longest {max(delays):.2f} s", flush=True)
    supervisor = Supervisor(settings)
    supervisor._call("stopProcess", "webhook", True)
    began = time.time()
    print(f"receiver down for {options.outage_seconds:g} s; {datetime.now():%H:%M:%S}", flush=True)
    later = _click(settings, options.line, lambda: _restart(supervisor, began + options.outage_seconds))
    print(f"clicked meanwhile: flow run {later:.0f} s later, {datetime.now():%H:%M:%S}")


def _restart(supervisor: Supervisor, at: float) -> None:
    time.sleep(max(0.0, at - time.time()))
    supervisor._call("startProcess", "webhook", True)


def _click(settings: Settings, line: str, meanwhile: Any = None) -> float:
    """Click, wait for the flow run and its end; seconds from the click until Prefect had the run."""
    # Prefect creates the schedule's runs hours ahead: a run is new when it falls due.
    known = {run["id"] for run in _runs(settings, line) if _is_due(run)}
    clicked = time.time()
    answer = _post(
        f"{settings.mlflow_url}/ajax-api/2.0/mlflow/model-versions/create",
        {"name": line, "source": f"store://{line}/{'0' * 64}"},
    )
    if meanwhile is not None:
        meanwhile()
    while not (new := [run for run in _runs(settings, line) if run["id"] not in known and _is_due(run)]):
        time.sleep(0.02)
    run = new[-1]
    created = max(_time(run["created"]), _time(run["expected_start_time"]))
    while _state(settings, run["id"]) not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
        time.sleep(0.5)
    version = answer["model_version"]["version"]
    found = httpx.get(
        f"{settings.mlflow_url}/api/2.0/mlflow/model-versions/get", params={"name": line, "version": version}
    ).json()["model_version"]
    tags = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
    if tags.get("weighbridge.state") != "refused" or "Refused" not in found.get("description", ""):
        raise SystemExit(f"Version {version} was not refused: {tags}")
    return created - clicked


def _runs(settings: Settings, line: str) -> list[dict[str, Any]]:
    run_filter = {
        "deployments": {"name": {"any_": [line]}},
        "flows": {"name": {"any_": ["promote"]}},
        "sort": "EXPECTED_START_TIME_ASC",
    }
    with prefect_api.client(settings, timeout=60) as prefect:
        found: list[dict[str, Any]] = prefect.post("/flow_runs/filter", json=run_filter).raise_for_status().json()
    return found


def _is_due(run: dict[str, Any]) -> bool:
    return _time(run["expected_start_time"]) <= time.time()


def _state(settings: Settings, run: str) -> str:
    with prefect_api.client(settings) as prefect:
        return str(prefect.get(f"/flow_runs/{run}").raise_for_status().json()["state_type"])


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _post(url: str, body: dict[str, Any], may_fail: bool = False) -> Any:
    answer = httpx.post(url, json=body, timeout=60)
    if not may_fail:
        answer.raise_for_status()
    return answer.json()


if __name__ == "__main__":
    main()
