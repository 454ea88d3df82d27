"""No room for two: the old engine goes before the new one comes; in between requests wait, and are answered 503 with
`Retry-After` where they waited too long.

Only for a line that says so (`rollout.when_no_room: swap`). There are no steps then, and no warm way back:
what fails before it serves is undone by starting the old engine again, and a rollback is such a swap too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from registry.store import Artifact
from tasks.serve.fleet.protocol import Fleet, RunningEngine
from tasks.serve.gateway import Backend, Gateway, Held
from tasks.serve.rollout.canary import switch
from weighbridge.errors import NoRoomBeside, RolloutAborted, WeighbridgeError
from weighbridge.line import Line

UNKNOWN_GAP_SECONDS = 60.0
"""What clients are told of a gap of which nothing is known; the longest that OpenAI's own client obeys."""


def engine_with_room(
    line: Line,
    version: str,
    artifact: Artifact,
    gateway: Gateway,
    fleet: Fleet,
    tell: Callable[[str], None] = lambda _: None,
) -> RunningEngine:
    """A warm, proven engine for an artifact: beside what runs, else, where the line allows it, in its place.

    Args:
        line: whose engine.
        version: name of the artifact's version at the gateway.
        artifact: what it serves.
        tell: called with a sentence at each stage, the expected gap before and the measured one after.

    Raises:
        NoRoomBeside: there is no room, and the line refuses to swap.
        RolloutAborted: the new engine failed in the old one's place; the old one serves again.
        EngineFailed, ArtifactDamaged: beside what runs; that serves on.
    """
    try:
        return fleet.ensure(line, artifact, tell)
    except NoRoomBeside as no_room:
        if line.rollout.when_no_room == "refuse":
            raise
        tell(f"{no_room.what} The line swaps.")
    return _swap(line, version, artifact, gateway, fleet, tell)


def _swap(
    line: Line, version: str, artifact: Artifact, gateway: Gateway, fleet: Fleet, tell: Callable[[str], None]
) -> RunningEngine:
    backends = gateway.routes().line(line.name).backends
    serving = max(backends, key=lambda one: one.weight, default=None)
    old = next((one for one in fleet.engines(line.name) if serving and serving.runs_on(one.name, one.endpoints)), None)
    expected = fleet.expected_start_seconds(line)
    tell(
        f"{line.name} has no engine from now until the new one is proven: "
        + (f"about {expected:.0f} s, as its engines took before" if expected else "for how long is not known")
        + f", after at most {line.rollout.drain_seconds:.0f} s in which the present answers end"
    )
    began = time.monotonic()
    wait_seconds = line.rollout.hold_requests_seconds
    held = Held(version=version, digest=artifact.digest, seconds=wait_seconds) if wait_seconds else None
    _clear(line, gateway, fleet, backends, held, expected or UNKNOWN_GAP_SECONDS, tell)
    try:
        engine = fleet.ensure(line, artifact, tell)
        switch(line.name, version, engine, gateway)
    except WeighbridgeError as failed:
        if old is None or serving is None:
            raise
        switch(line.name, serving.version, fleet.ensure(line, old.artifact, tell), gateway)
        raise RolloutAborted(
            f"Version {version} of {line.name} failed in the place of version {serving.version}, which serves again "
            f"after a gap of {time.monotonic() - began:.0f} s: {failed.what}",
            failed.next_step,
        ) from failed
    tell(f"{line.name}: version {version} serves after a gap of {time.monotonic() - began:.0f} s")
    return engine


def _clear(
    line: Line,
    gateway: Gateway,
    fleet: Fleet,
    backends: tuple[Backend, ...],
    held: Held | None,
    gap_seconds: float,
    tell: Callable[[str], None],
) -> None:
    """Take all of a line's engines out of rotation, wait for their last answers, and stop them.

    Args:
        held: what new requests wait for meanwhile; None answers them 503.
        gap_seconds: how long nothing will serve after that; the gateway tells who asks meanwhile.
    """

    def back_at() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=gap_seconds)

    out = tuple(one.model_copy(update={"weight": 0}) for one in backends)
    gateway.set_line(line.name, out, back_at=back_at(), held=held)
    for backend in backends:
        if not gateway.wait_drained(line.name, backend.version, line.rollout.drain_seconds):
            tell(f"version {backend.version} still had active requests; they are cut")
    # Anew, for now the answers that had to end first have ended.
    gateway.set_line(line.name, (), back_at=back_at(), held=held)
    for engine in fleet.engines(line.name):
        if not fleet.on_trial(engine):
            fleet.stop(engine)
