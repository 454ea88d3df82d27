"""A rollout on the real stack whose movers die: the worker with the flow that it runs, and the whole machine.

The road before the rollout is not travelled here: both versions are the same weights, approved without being weighed.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest
from e2e_support import LINE, Road, wait_for

from examples.load import Load
from registry.models import Registry
from registry.records import CandidateRecord, ReleaseRecord
from registry.store import Store
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROLLOUT = f"promote/{LINE}"


def approve(road: Road, content: str) -> int:
    """Approve an artifact of the good release's weights; another content is another artifact. Returns its version."""
    store, registry = Store(road.settings.store_folder), Registry(road.settings)
    staging = store.staging(LINE, f"faults-{content}")
    shutil.copytree(road.shelf / "good", staging, dirs_exist_ok=True)
    (staging / "NOTE.md").write_text(content)
    artifact = store.adopt(staging, line=LINE, scheme="bf16", repo="org/faults", commit="f" * 40)
    candidate = CandidateRecord(artifact=artifact, outcome="baseline", passes=True, sentence="Not weighed.")
    record = ReleaseRecord(line=LINE, repo="org/faults", commit="f" * 40, key=content, candidates=(candidate,))
    [recorded] = registry.record_release(record).candidates
    return registry.approve(LINE, recorded.version, "to be killed on its way", "test").version


def shares(road: Road) -> dict[str, int]:
    """Versions that get requests, as the gateway is meant to share them out."""
    return {one.version: one.weight for one in Gateway(road.settings).routes().line(LINE).backends if one.weight}


@pytest.fixture
def rolling(road: Road) -> Iterator[tuple[str, Load]]:
    """A version on its way up through the worker, at less than all traffic, under three clients."""
    if not shares(road):
        approve(road, "first")
        road.run("promote", LINE)
    version = str(approve(road, f"new at {time.time()}"))
    with Load(f"{road.settings.gateway_url}/v1", road.key, LINE, clients=3) as load:
        wait_for(lambda: load.answers, "the first answer")
        started = road.prefect("deployment", "run", ROLLOUT)
        assert started.returncode == 0, started.stderr
        wait_for(lambda: 0 < shares(road).get(version, 0) < 100, "a half-way weight", 300)
        time.sleep(1)
        yield version, load


def family(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def kill(processes: list[psutil.Process]) -> None:
    for one in processes:
        one.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes, timeout=20)


def test_a_worker_killed_with_its_flow_leaves_the_weights_to_the_next_run(road: Road, rolling, record_property) -> None:
    version, load = rolling
    worker = next(one.pid for one in Supervisor(road.settings).states() if one.name == "worker")
    killed = family(worker)
    assert any("prefect" in " ".join(one.cmdline()) for one in killed[1:]), "the flow is the worker's child"
    kill(killed)
    left = shares(road)
    assert 0 < left[version] < 100
    began = time.monotonic()
    done = road.prefect("deployment", "run", ROLLOUT, "--watch")
    record_property("seconds to the end of the next run", round(time.monotonic() - began, 1))
    record_property("runs", runs(road))
    assert done.returncode == 0, done.stdout + done.stderr
    assert shares(road) == {version: 100}
    note(record_property, load)
    assert load.failed == []
    assert not road.json("promote", LINE)["changed"]


def test_a_machine_that_restarts_serves_with_the_same_weights_until_the_next_run(
    road: Road, rolling, record_property
) -> None:
    version, load = rolling
    supervisor = Supervisor(road.settings)
    assert supervisor.pid is not None
    left = shares(road)
    began = time.monotonic()
    kill(family(supervisor.pid))
    assert 0 < left[version] < 100
    answered = len(load.answers) - len(load.failed)
    up(road)
    record_property("seconds to up", round(time.monotonic() - began, 1))
    road.stop_schedules()
    assert shares(road) == left
    wait_for(lambda: len(load.answers) - len(load.failed) > answered + 8, "answers after the restart")
    failed = len(load.failed)
    assert road.json("promote", LINE)["version"] == int(version)
    assert shares(road) == {version: 100}
    note(record_property, load)
    assert len(load.failed) == failed, "a request failed after the stack was up again"
    assert road.run("status").returncode == 0


def up(road: Road) -> None:
    """Bring the stack up while the engines' clients take the processors: where it gives up waiting, it says `again`."""
    for expected in ((0, 3), (0,)):
        done = road.start("up")
        told, _ = done.communicate(timeout=400)
        assert done.returncode in expected, told
        if done.returncode == 0:
            return


def runs(road: Road) -> list[tuple[str, str, str]]:
    """The newest runs of `promote`: state, and when each was made and began."""
    found = httpx.post(
        f"{road.settings.prefect_url}/api/flow_runs/filter",
        json={"flows": {"name": {"any_": ["promote"]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 3},
    ).json()
    return [(one["state_name"], one["created"], one["start_time"]) for one in found]


def note(record_property, load: Load) -> None:
    record_property("requests", len(load.answers))
    record_property("failed", len(load.failed))
    record_property("of version", load.by_version)
    failed = [one.started for one in load.failed]
    record_property("seconds of failures", round(max(failed) - min(failed), 1) if failed else 0)
