"""Two versions of a line: one that serves, and engines in every state of health."""

from __future__ import annotations

from serve_support import make_artifact, make_line

from examples.load import Load
from tasks.serve.fleet.local import plan_engine
from tasks.serve.rollout.lock import TrafficLock
from tasks.serve.rollout.steps import roll_out


def lock_of(settings):
    return TrafficLock(settings, "toy").acquire(1)


def with_rollout(line, **changes):
    return line.model_copy(update={"rollout": line.rollout.model_copy(update=changes)})


def weights(gateway):
    return {one.version: one.weight for one in gateway.routes().line("toy").backends}


def serve_first(settings, fleet, gateway):
    line = make_line(delay=0.05)
    old = fleet.ensure(line, make_artifact(settings, "old"))
    with lock_of(settings) as lock:
        roll_out(line, "1", old, gateway, lock)
    return line, old


def clients(settings, gateway):
    return Load(f"{settings.gateway_url}/v1", gateway.key(), "toy", clients=8)


def unproven(fleet, settings, **flags):
    """An engine that did well when it was proven and fails afterwards: started past the proof."""
    line = make_line(**flags)
    engine = fleet._register(line, make_artifact(settings, f"unproven {flags}"), plan_engine(line))
    fleet._start(engine)
    fleet._wait_ready(engine, lambda _: None)
    return engine
