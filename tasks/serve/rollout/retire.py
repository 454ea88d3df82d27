"""Drain and stop what is out of rotation."""

from __future__ import annotations

import time

from tasks.serve.fleet.protocol import Fleet, Report, RunningEngine, no_report
from tasks.serve.gateway import Backend, Gateway
from tasks.serve.rollout.rollback import served
from tasks.serve.rollout.traffic import mirror_requests
from weighbridge.line import Line


def retire(line: Line, gateway: Gateway, fleet: Fleet, report: Report = no_report) -> None:
    """Drain and stop what is out of rotation and no longer kept warm.

    The version that a rollback would go back to, by default the latest out of rotation, stays for the line's
    `keep_warm_minutes`, so that a rollback is a change of weights. A backend goes only when it has no active request,
    and an engine only after its backend.

    Args:
        line: whose backends and engines.
        gateway: in front of the engines.
        fleet: where the engines run.
        report: called with a sentence for each engine that is stopped, or not drained yet.
    """
    if gateway.routes().line(line.name).mirror is not None:
        # A rollout was killed before its first canary step; its mirror's log is not read any more.
        mirror_requests(gateway, line.name, None)
    backends = gateway.routes().line(line.name).backends
    engines = fleet.engines(line.name)
    engine_of = {backend.version: engine_behind(backend, engines) for backend in backends}
    out = [backend for backend in backends if backend.weight == 0]
    kept = max(out, key=lambda backend: fleet.out_since(engine_of[backend.version]), default=None)
    known = served(gateway.settings, line.name)
    if known is not None and known.previous is not None:
        # A version whose rollout failed left rotation later than the one that served before.
        kept = next((backend for backend in out if backend.version == str(known.previous)), kept)
    for backend in out:
        engine = engine_of[backend.version]
        still_warm = time.time() - fleet.out_since(engine) < line.rollout.keep_warm_minutes * 60
        if engine is not None and backend is kept and still_warm:
            continue
        if not gateway.wait_drained(line.name, backend.version, line.rollout.drain_seconds):
            report(f"version {backend.version} still has active requests; the next run stops it")
            continue
        gateway.remove_backend(line.name, backend.version)
    remaining = gateway.routes().line(line.name).backends
    used = [engine_behind(backend, engines) for backend in remaining]
    for engine in engines:
        if engine not in used and not fleet.on_trial(engine):
            report(f"{engine.name} is drained and stopped")
            fleet.stop(engine)


def engine_behind(backend: Backend | None, engines: list[RunningEngine]) -> RunningEngine | None:
    """Find the engine that a backend leads to; None if the fleet has none."""
    if backend is None:
        return None
    return next((engine for engine in engines if backend.runs_on(engine.name, engine.endpoints)), None)
