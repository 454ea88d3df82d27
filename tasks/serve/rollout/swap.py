"""One engine in the place of another, where memory holds only one: the old one stops before the new one starts.

In between, requests are queued; those that waited too long are answered 503 with `Retry-After`. Only for a line that
says so (`rollout.when_no_room: swap`). Such a rollout has no canary steps and keeps nothing warm: a new engine that
fails before it serves is undone by starting the old one again, and a rollback is such a swap too.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from registry.store import Artifact
from tasks.serve.fleet.protocol import Fleet, Report, RunningEngine, no_report
from tasks.serve.gateway import Backend, Gateway, QueuedRequests
from tasks.serve.rollout.canary import switch
from tasks.serve.rollout.retire import engine_behind
from tasks.serve.rollout.traffic import set_backends
from weighbridge.errors import NoRoomBeside, RolloutAborted, WeighbridgeError
from weighbridge.line import Line

UNKNOWN_GAP_SECONDS = 60.0
"""`Retry-After` of a gap of unknown length; the longest that OpenAI's own client obeys."""


def ensure_or_swap(
    line: Line,
    version: str,
    artifact: Artifact,
    gateway: Gateway,
    fleet: Fleet,
    report: Report = no_report,
) -> RunningEngine:
    """Return a warm, proven engine for an artifact: beside what runs or, where the line allows it, in its place.

    Args:
        line: whose engine.
        version: name of the artifact's version at the gateway.
        artifact: what it serves.
        gateway: in front of the engines.
        fleet: where the engines run.
        report: called with a sentence at each stage, with the expected gap before it and the measured one after it.

    Raises:
        NoRoomBeside: the memory for a second engine is not free, and the line refuses to swap.
        RolloutAborted: the new engine failed in the old one's place; the old one serves again.
        EngineFailed, ArtifactDamaged: the new engine failed beside the old one, which continues to serve.
    """
    try:
        return fleet.ensure(line, artifact, report)
    except NoRoomBeside as no_room:
        if line.rollout.when_no_room == "refuse":
            raise
        report(f"{no_room.what} The line swaps.")
    return _swap(line, version, artifact, gateway, fleet, report)


def _swap(
    line: Line, version: str, artifact: Artifact, gateway: Gateway, fleet: Fleet, report: Report
) -> RunningEngine:
    backends = gateway.routes().line(line.name).backends
    serving = max(backends, key=lambda backend: backend.weight, default=None)
    old = engine_behind(serving, fleet.engines(line.name))
    expected = fleet.expected_start_seconds(line)
    report(
        f"{line.name} has no engine from now until the new one is proven: "
        + (f"about {expected:.0f} s, as its engines took before" if expected else "for an unknown time")
        + f", after at most {line.rollout.drain_seconds:.0f} s in which the present answers end"
    )
    began = time.monotonic()
    wait_seconds = line.rollout.hold_requests_seconds
    queued = QueuedRequests(version=version, digest=artifact.digest, seconds=wait_seconds) if wait_seconds else None
    _stop_all(line, gateway, fleet, backends, queued, expected or UNKNOWN_GAP_SECONDS, report)
    try:
        engine = fleet.ensure(line, artifact, report)
        switch(line.name, version, engine, gateway)
    except WeighbridgeError as failed:
        if old is None or serving is None:
            raise
        switch(line.name, serving.version, fleet.ensure(line, old.artifact, report), gateway, returning=True)
        raise RolloutAborted(
            f"Version {version} of {line.name} failed in the place of version {serving.version}, which serves again "
            f"after a gap of {time.monotonic() - began:.0f} s: {failed.what}",
            failed.next_step,
        ) from failed
    report(f"{line.name}: version {version} serves after a gap of {time.monotonic() - began:.0f} s")
    return engine


def _stop_all(
    line: Line,
    gateway: Gateway,
    fleet: Fleet,
    backends: tuple[Backend, ...],
    queued: QueuedRequests | None,
    gap_seconds: float,
    report: Report,
) -> None:
    """Take all of a line's engines out of rotation, drain and stop them.

    Args:
        queued: the version that new requests wait for meanwhile; None answers them 503.
        gap_seconds: expected time without an engine after that; the gateway tells clients.
    """

    def back_at() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=gap_seconds)

    out = tuple(backend.model_copy(update={"weight": 0}) for backend in backends)
    set_backends(gateway, line.name, out, back_at=back_at(), queued=queued)
    for backend in backends:
        if not gateway.wait_drained(line.name, backend.version, line.rollout.drain_seconds):
            report(f"version {backend.version} still had active requests; they are cut")
    # The gap begins only now that the active requests have ended.
    set_backends(gateway, line.name, (), back_at=back_at(), queued=queued)
    for engine in fleet.engines(line.name):
        if not fleet.on_trial(engine):
            fleet.stop(engine)
