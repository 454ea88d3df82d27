"""The whole road on the real stack, in order: each test continues where the test before it ended.

A second `up`, the click on *Promote model*, a rollout and a rollback under load are in test_journey.py.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from examples.load import Load
from registry import accounts
from registry.models.registry import Registry
from registry.store import Store
from tasks.serve.fleet.choice import fleet_of
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.rollout.holder import read_holder
from tests.e2e.e2e_support import LINE, Road
from tests.support.ports import free_ports
from tests.support.waiting import wait_for
from weighbridge import prefect_api

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def weights(road: Road) -> dict[int, int]:
    return {version["version"]: version["weight"] for version in road.line()["versions"] if version["weight"]}


def load_of(road: Road) -> Load:
    return Load(f"{road.settings.gateway_url}/v1", road.key, LINE, clients=8)


def test_nothing_listens_beyond_loopback(road: Road) -> None:
    pid = Supervisor(road.settings).pid
    family = {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    addresses = {
        socket.laddr.ip
        for socket in psutil.net_connections("tcp")
        if socket.laddr and socket.status == psutil.CONN_LISTEN and socket.pid in family
    }
    assert addresses == {"127.0.0.1"}


def test_promoting_before_anything_is_approved_changes_nothing(road: Road) -> None:
    assert road.json("promote", LINE)["version"] is None
    assert weights(road) == {}


def test_the_release_as_published_becomes_the_first_production(road: Road) -> None:
    released = road.json("release", LINE, "--scheme", "bf16")
    [candidate] = released["candidates"]
    assert candidate["outcome"] == "baseline"
    road.run("approve", LINE, str(candidate["version"]), "--reason", "first of its line", environment=road.reviewer)
    # The approval starts the promotion at the worker; the command follows it, or finds it ended.
    road.run("promote", LINE)
    assert weights(road) == {1: 100}
    answer = httpx.post(
        f"{road.settings.gateway_url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {road.key}"},
        json={
            "model": LINE,
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "max_tokens": 12,
        },
        timeout=60,
    )
    assert answer.headers["x-weighbridge-version"] == "1"
    assert "Paris" in answer.json()["choices"][0]["message"]["content"]


def test_a_killed_release_goes_on_from_its_finished_steps(road: Road) -> None:
    process = road.start("release", LINE)
    assert process.stdout is not None
    log = []
    for text in process.stdout:
        log.append(text)
        if "quantize-int8" in text and "Completed" in text:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = road.prefect("deployment", "run", f"release/{LINE}", "--watch")
    assert done.returncode == 0, done.stdout + done.stderr + "".join(log)
    steps = {step["name"]: step["state"] for step in road.json("release", LINE)["steps"]}
    assert set(steps.values()) == {"Cached"}
    assert any(name.startswith("quantize-int4") for name in steps)


def test_the_int8_candidate_passes_and_awaits_approval(road: Road) -> None:
    released = road.json("release", LINE)
    by_scheme = {candidate["scheme"]: candidate for candidate in released["candidates"]}
    assert by_scheme["int8"]["outcome"] == "non_inferior"
    assert by_scheme["int8"]["version"] is not None
    assert set(by_scheme) == {"int8", "int4"}
    [awaiting] = [candidate for candidate in road.line()["awaiting"] if candidate["scheme"] == "int8"]
    card = Registry(road.settings).client.get_model_version(f"{LINE}-candidates", str(awaiting["version"])).description
    assert "general/agreement" in card
    assert weights(road) == {1: 100}


def test_a_second_run_reports_every_step_as_cached(road: Road) -> None:
    """Run the deployment, and read the states of its tasks from Prefect."""
    done = road.prefect("deployment", "run", f"release/{LINE}", "--watch")
    assert done.returncode == 0
    run_id = re.search(r"UUID: ([0-9a-f-]{36})", done.stdout)
    assert run_id, done.stdout
    with prefect_api.client(road.settings) as prefect:
        of_run = {"flow_runs": {"id": {"any_": [run_id[1]]}}}
        tasks = prefect.post("/task_runs/filter", json=of_run).raise_for_status().json()
    assert len(tasks) >= 10
    assert {task["state_name"] for task in tasks} == {"Cached"}


def test_a_killed_promotion_ends_completely_when_run_again(road: Road) -> None:
    candidate = next(version for version in Registry(road.settings).candidates(LINE) if version.scheme == "int8")
    version = road.json("approve", LINE, str(candidate.version), "--reason", "no worse", environment=road.reviewer)[
        "version"
    ]
    # The approval started the promotion at the worker.
    wait_for(lambda: 0 < weights(road).get(version, 0) < 100, "a half-way weight", 240)
    mover = read_holder(road.settings, LINE)
    assert mover is not None
    os.kill(mover.pid, signal.SIGKILL)
    assert weights(road).get(version, 0) < 100
    road.run("promote", LINE)
    assert weights(road) == {version: 100}


def test_a_killed_engine_comes_back_and_serves(road: Road) -> None:
    fleet = fleet_of(road.settings)
    port = next(row["port"] for row in road.line()["versions"] if row["weight"] == 100)
    engine = next(engine for engine in fleet.engines(LINE) if engine.endpoints[0].port == port)
    state = fleet.state(engine)
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)
    wait_for(lambda: not fleet.is_warm(engine), "the kill to be noticed")
    wait_for(lambda: fleet.is_warm(engine), "the engine")
    assert not road.json("promote", LINE)["changed"]


def test_a_killed_worker_comes_back(road: Road) -> None:
    before = next(row for row in road.json("status")["services"] if row["name"] == "worker")["pid"]
    os.kill(before, signal.SIGKILL)
    after = wait_for(
        lambda: next(
            (
                row
                for row in road.json("status")["services"]
                if row["name"] == "worker" and row["state"] == "healthy" and row["pid"] != before
            ),
            None,
        ),
        "the worker",
    )
    assert after is not None and after["pid"] != before


def test_a_damaged_release_goes_nowhere(road: Road) -> None:
    before = road.line()
    versions = [version.version for version in Registry(road.settings).candidates(LINE)]
    road.publish("damaged")
    try:
        done = road.run("release", LINE, expect=20)
    finally:
        road.publish("good")
    assert "VerdictRegression" in done.stderr
    assert "production is untouched" in done.stderr
    assert [version.version for version in Registry(road.settings).candidates(LINE)] == versions
    after = road.line()
    assert (after["serving"], after["awaiting"]) == (before["serving"], before["awaiting"])


def test_what_failed_cannot_be_approved(road: Road) -> None:
    commit = road.publish("damaged")
    road.publish("good")
    failed = next(
        artifact
        for artifact in Store.of(road.settings).artifacts(LINE)
        if (artifact.scheme, artifact.commit) == ("int8", commit)
    )
    done = road.run("approve", LINE, failed.short, "--reason", "try", expect=12)
    assert "ApprovalRefused" in done.stderr
    assert "general/agreement" in done.stderr
    road.run("approve", LINE, "999", "--reason", "try", expect=11)


def test_an_approval_made_by_hand_serves_nobody(road: Road) -> None:
    before = weights(road)
    client = Registry(road.settings).client
    with accounts.signed_in("ada", road.password("ada")):
        forged = client.create_model_version(LINE, source=f"store://{LINE}/{'0' * 64}")

    def state() -> str | None:
        return client.get_model_version(LINE, str(forged.version)).tags.get("weighbridge.state")

    # The version starts the promotion that refuses it.
    wait_for(lambda: state() == "refused", lambda: f"{state()}: {road.run('status').stdout}", 120)
    assert weights(road) == before
    assert not road.json("promote", LINE)["changed"]


def test_moving_the_alias_by_hand_is_obeyed(road: Road) -> None:
    Registry(road.settings).set_production(LINE, 1)
    assert road.json("promote", LINE)["version"] == 1
    assert weights(road) == {1: 100}


def test_down_leaves_nothing(road: Road) -> None:
    supervisor = Supervisor(road.settings)
    assert supervisor.pid is not None
    family = psutil.Process(supervisor.pid).children(recursive=True)
    road.run("down")
    assert [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []
    road.run("promote", LINE, expect=3)


def test_a_backup_with_production_answers_the_old_key_on_a_fresh_machine(
    road: Road, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    first = free_ports(60)[0]
    names = ("gateway_port", "mlflow_port", "prefect_port", "webhook_port", "engine_port_first")
    ports = {name: first + number for number, name in enumerate(names)}
    fresh = {f"WEIGHBRIDGE_{name.upper()}": str(port) for name, port in ports.items()}
    fresh |= {
        "WEIGHBRIDGE_HOME": str(tmp_path / "home"),
        "WEIGHBRIDGE_BACKUP_PASSPHRASE": "correct horse battery staple",
    }
    file = tmp_path / "backup"
    road.run(
        "backup", str(file), "--with-production", environment=fresh | {"WEIGHBRIDGE_HOME": str(road.settings.home)}
    )
    began = time.monotonic()
    road.run("restore", str(file), environment=fresh)
    record_property("seconds to restore", round(time.monotonic() - began, 1))
    try:
        road.run("up", environment=fresh)
        record_property("seconds to up", round(time.monotonic() - began, 1))
        new = road.settings.model_copy(update={"home": tmp_path / "home", **ports})
        with Load(f"{new.gateway_url}/v1", road.key, LINE, clients=2) as load:
            wait_for(lambda: load.by_version.get("1"), "an answer for the old key")
        record_property("seconds to the first answer", round(time.monotonic() - began, 1))
        assert load.failed == []
        [line] = [line for line in road.json("status", environment=fresh)["lines"] if line["line"] == LINE]
        assert {each["version"]: each["weight"] for each in line["versions"] if each["weight"]} == {1: 100}
        assert not road.json("promote", LINE, environment=fresh)["changed"], "the registry agrees with what serves"
    finally:
        road.run("down", environment=fresh)


def test_up_brings_everything_back(road: Road) -> None:
    road.run("up")
    road.stop_schedules()
    assert weights(road) == {1: 100}
    with load_of(road) as load:
        wait_for(lambda: load.by_version.get("1"), "an answer")
    assert load.failed == []
