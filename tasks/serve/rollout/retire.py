"""Drain and stop what is out of rotation."""

from __future__ import annotations

import time
from collections.abc import Callable

from tasks.serve.fleet.protocol import Fleet
from tasks.serve.gateway import Gateway
from tasks.serve.rollout.rollback import served
from weighbridge.line import Line


def retire(line: Line, gateway: Gateway, fleet: Fleet, tell: Callable[[str], None] = lambda _: None) -> None:
    """Drain and stop what is out of rotation and no longer kept warm.

    What a rollback would go back to, by default the latest out of rotation, stays for the line's
    `keep_warm_minutes`, so that going back is a change of weight. A backend goes only when it has no active
    request, an engine only after its backend.
    """
    if gateway.routes().line(line.name).shadow is not None:
        # A rollout that was killed before its first step; nobody looks at the shadow's answers any more.
        gateway.set_shadow(line.name, None)
    routes = gateway.routes().line(line.name).backends
    engines = fleet.engines(line.name)
    out = [one for one in routes if one.weight == 0]
    engine_of = {
        backend.version: next((one for one in engines if backend.runs_on(one.name, one.endpoints)), None)
        for backend in routes
    }
    kept = max(out, key=lambda one: fleet.out_since(engine_of[one.version]), default=None)
    known = served(gateway.settings, line.name)
    if known is not None and known.previous is not None:
        # A version that failed on its way up left rotation later than the one that served before.
        kept = next((one for one in out if one.version == str(known.previous)), kept)
    for backend in out:
        engine = engine_of[backend.version]
        still_warm = time.time() - fleet.out_since(engine) < line.rollout.keep_warm_minutes * 60
        if engine is not None and backend is kept and still_warm:
            continue
        if not gateway.wait_drained(line.name, backend.version, line.rollout.drain_seconds):
            tell(f"version {backend.version} still has active requests; it is stopped by the next run")
            continue
        gateway.remove_backend(line.name, backend.version)
    kept_backends = gateway.routes().line(line.name).backends
    for engine in engines:
        used = any(backend.runs_on(engine.name, engine.endpoints) for backend in kept_backends)
        if not used and not fleet.on_trial(engine):
            tell(f"{engine.name} is drained and stopped")
            fleet.stop(engine)
