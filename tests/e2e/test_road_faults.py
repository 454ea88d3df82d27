"""A rollout on the real stack whose movers die: the worker with the flow that it runs, and the whole machine.

The road before the rollout is not travelled here: both versions are the same weights, approved without being weighed.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from examples.load import Load
from registry import accounts
from registry.models.records import CandidateRecord, ReleaseRecord
from registry.models.registry import Registry
from registry.store import Store
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway
from tests.e2e.e2e_support import LINE, Road
from tests.support.waiting import wait_for
from weighbridge import prefect_api

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROLLOUT = f"promote/{LINE}"


def approve(road: Road, content: str) -> int:
    """Approve an artifact of the good release's weights; another content is another artifact. Returns its version."""
    store, registry = Store.of(road.settings), Registry(road.settings)
    staging = store.staging(LINE, f"faults-{content}")
    shutil.copytree(road.shelf / "good", staging, dirs_exist_ok=True)
    (staging / "NOTE.md").write_text(content)
    artifact = store.adopt(staging, line=LINE, scheme="bf16", repo="org/faults", commit="f" * 40)
    production = registry.production(LINE)
    candidate = CandidateRecord(
        artifact=artifact,
        outcome="baseline",
        passes=True,
        sentence="Not weighed.",
        production_digest=production.digest if production else "",
    )
    record = ReleaseRecord(line=LINE, repo="org/faults", commit="f" * 40, key=content, candidates=(candidate,))
    [recorded] = registry.record_release(record).candidates
    assert recorded.version is not None
    with accounts.signed_in("ada", road.password("ada")):
        return registry.approve(LINE, recorded.version, "to be killed on its way", "ada").version


def shares(road: Road) -> dict[str, int]:
    """Versions that get requests, as the gateway is meant to share them out."""
    return {
        backend.version: backend.weight
        for backend in Gateway(road.settings).routes().line(LINE).backends
        if backend.weight
    }


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
    for process in processes:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes, timeout=20)


def test_movers_and_machine_may_die_and_the_next_run_ends_what_they_began(
    road: Road, rolling: tuple[str, Load], record_property: Callable[[str, object], None]
) -> None:
    version, load = rolling
    supervisor = Supervisor(road.settings)
    worker = next(process.pid for process in supervisor.states() if process.name == "worker")
    killed = family(worker)
    assert any("prefect" in " ".join(process.cmdline()) for process in killed[1:]), "the flow is the worker's child"
    kill(killed)
    left = shares(road)
    assert 0 < left[version] < 100
    asked = len(load.answers)
    wait_for(lambda: len(load.answers) > asked + 8, "answers while nobody moves anything")
    assert load.failed == [], "users see nothing of a worker that is gone"
    record_property("requests until the machine went", len(load.answers))

    held = leases(road)
    assert held
    assert supervisor.pid is not None
    began = time.monotonic()
    kill(family(supervisor.pid))
    answered = len(load.answers) - len(load.failed)
    up(road)
    record_property("seconds to up", round(time.monotonic() - began, 1))
    road.stop_schedules()
    assert shares(road) == left
    # Prefect still knows what frees the slot of the killed run, or has freed it: the schedule's next one begins.
    assert leases(road) == held or slots_taken(road) == 0
    wait_for(lambda: len(load.answers) - len(load.failed) > answered + 8, "answers after the restart")
    failed = len(load.failed)
    record_property("failed", failed)
    record_property("seconds of failures", span(load))

    began = time.monotonic()
    # The slot of the killed run may not have lapsed yet.
    assert road.json("promote", LINE, "--here")["version"] == int(version)
    record_property("seconds of the next run", round(time.monotonic() - began, 1))
    record_property("requests", len(load.answers))
    assert shares(road) == {version: 100}
    assert len(load.failed) == failed, "a request failed after the stack was up again"
    assert not road.json("promote", LINE)["changed"]


def up(road: Road) -> None:
    """Bring the stack up while the engines' clients take the processors: where it gives up waiting, it says `again`."""
    for expected in ((0, 3), (0,)):
        done = road.start("up")
        output, _ = done.communicate(timeout=400)
        assert done.returncode in expected, output
        if done.returncode == 0:
            return


def leases(road: Road) -> set[str]:
    """Of the slots of runs under way, as Prefect keeps them."""
    folder = road.settings.home / "prefect" / "concurrency_leases"
    return {path.name for path in folder.glob("*.json") if path.name != "expirations.json"}


def slots_taken(road: Road) -> int:
    """Of the deployment's, which has one."""
    with prefect_api.client(road.settings) as prefect:
        deployment = prefect.get(f"/deployments/name/{ROLLOUT}").raise_for_status().json()
    return int(deployment["global_concurrency_limit"]["active_slots"])


def span(load: Load) -> float:
    """Seconds from the first failed request to the last."""
    failed = [answer.started for answer in load.failed]
    return round(max(failed) - min(failed), 1) if failed else 0.0
