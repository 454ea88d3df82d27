"""One real stack for all end-to-end tests: MLflow, Prefect, a worker, Envoy, and a stand-in for the Hub.

The model is the demo's, built once a session. Nothing is shared with the developer's own stack:
a clone of the checkout with a home of its own, other ports. MLflow has accounts: all flows run as the pipeline, and
ada approves.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from examples import damage, smollm2
from tests.e2e import tutorial
from tests.e2e.e2e_support import Road
from tests.support.ports import free_ports
from tests.support.waiting import wait_for
from weighbridge.health import answers
from weighbridge.settings import load_settings


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    folder = tmp_path_factory.mktemp("road")
    root = tutorial.clone(folder / "weighbridge")
    first = free_ports(100)[0]
    ports = ("GATEWAY_PORT", "GATEWAY_ADMIN_PORT", "MLFLOW_PORT", "PREFECT_PORT", "WEBHOOK_PORT", "ENGINE_PORT_FIRST")
    hub_port = first + 90
    os.environ.update(
        {
            "WEIGHBRIDGE_ROOT": str(root),
            "WEIGHBRIDGE_HOME": str(root / ".weighbridge"),
            "HF_ENDPOINT": f"http://127.0.0.1:{hub_port}",
            # GiB of cache; left to itself vLLM takes nearly all of the machine's memory.
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "WEIGHBRIDGE_MLFLOW_AUTH": "true",
            **{f"WEIGHBRIDGE_{name}": str(first + number) for number, name in enumerate(ports)},
        }
    )
    shelf = folder / "shelf"
    smollm2.build(shelf / "good")
    damage.damage(shelf / "good", shelf / "damaged")
    road = Road(load_settings(), shelf)
    road.publish("good")
    serving = subprocess.Popen(
        [sys.executable, "-m", "examples.hub", "serve", str(shelf / "hub"), "--port", str(hub_port)]
    )
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{hub_port}/api/models/{smollm2.REPO}"), "the Hub stand-in")
        road.run("up")
        road.apply_roles()
        road.stop_schedules()
        yield road
    finally:
        serving.terminate()
        serving.wait()
        road.run("down")
        if logs := os.environ.get("WEIGHBRIDGE_KEEP_LOGS"):
            shutil.copytree(road.settings.logs_folder, logs, dirs_exist_ok=True)
