"""Two versions of a line: one in production, and engines in every state of health."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from examples.load import Load
from tasks.serve.fleet.local import LocalFleet
from tasks.serve.fleet.protocol import RunningEngine, plan_engine
from tasks.serve.gateway import Gateway
from tasks.serve.rollout.canary import roll_out
from tasks.serve.rollout.lock import TrafficLock
from tests.serve.serve_support import make_artifact, make_line
from tests.support.waiting import wait_for
from weighbridge.errors import RolloutAborted
from weighbridge.line import Line
from weighbridge.settings import Settings

GIVEN = {"steps": [10, 50, 100], "hold_seconds": 2, "max_hold_seconds": 30}

MOVER = """
import sys
from tests.serve.serve_support import make_line, use_fake_engine
use_fake_engine()
from tests.serve.rollout.rollout_support import lock_of, with_rollout
from tasks.serve.fleet.choice import fleet_of
from tasks.serve.gateway import Gateway
from tasks.serve.rollout.canary import roll_out
from weighbridge.settings import load_settings
settings = load_settings()
line = with_rollout(make_line(delay=0.05), steps=[10, 50, 100], hold_seconds=60, max_hold_seconds=90)
new = next(one for one in fleet_of(settings).engines("toy") if one.name == sys.argv[1])
with lock_of(settings) as lock:
    roll_out(line, "2", new, Gateway(settings), lock)
"""


def lock_of(settings: Settings) -> TrafficLock:
    return TrafficLock(settings, "toy").acquire(1)


def with_rollout(line: Line, **changes: object) -> Line:
    return line.model_copy(update={"rollout": line.rollout.model_copy(update=changes)})


def weights(gateway: Gateway) -> dict[str, int]:
    return {backend.version: backend.weight for backend in gateway.routes().line("toy").backends}


def serve_first(settings: Settings, fleet: LocalFleet, gateway: Gateway) -> tuple[Line, RunningEngine]:
    line = make_line(delay=0.05)
    old = fleet.ensure(line, make_artifact(settings, "old"))
    with lock_of(settings) as lock:
        roll_out(line, "1", old, gateway, lock)
    return line, old


def clients(settings: Settings, gateway: Gateway) -> Load:
    return Load(f"{settings.gateway_url}/v1", gateway.key(), "toy", clients=8)


def unproven(fleet: LocalFleet, settings: Settings, **flags: object) -> RunningEngine:
    """Start an engine that fails, without the readiness check, as if it failed afterwards."""
    line = make_line(**flags)
    engine = fleet._register(line, make_artifact(settings, f"unproven {flags}"), plan_engine(line))
    fleet._start(engine)
    wait_for(lambda: fleet.is_warm(engine), "the engine", seconds=15)
    return engine


def note(record_property: Callable[[str, object], None], load: Load, began: float, version: str = "2") -> None:
    """Record what users saw, for the table in the docs."""
    record_property("requests", len(load.answers))
    record_property("failed", len(load.failed))
    record_property("of version", dict(load.by_version))
    record_property("seconds", round(time.monotonic() - began, 1))


def start_mover(new: RunningEngine) -> subprocess.Popen[bytes]:
    """Start a rollout to an engine in another process, at 10 % for a minute."""
    here = os.pathsep.join(p for p in sys.path if p)
    return subprocess.Popen([sys.executable, "-c", MOVER, new.name], env={**os.environ, "PYTHONPATH": here})


def wait_for_weight(gateway: Gateway, version: str, weight: int) -> None:
    # The rollout's process imports scipy first: up to a minute on busy cores.
    wait_for(lambda: weights(gateway).get(version) == weight, lambda: f"{weights(gateway)}", seconds=150)


def kill_when(gateway: Gateway, version: str, weight: int, kill: Callable[[], object]) -> None:
    """Run a kill a second after a canary step has begun."""

    def wait() -> None:
        wait_for_weight(gateway, version, weight)
        time.sleep(1)
        kill()

    threading.Thread(target=wait, daemon=True).start()


def outcome(roll: Callable[[], object]) -> str:
    """Run a rollout; return its error message, or an empty text."""
    try:
        roll()
    except RolloutAborted as error:
        return error.what
    return ""
