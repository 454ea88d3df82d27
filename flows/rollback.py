"""Go back to an earlier version, now."""

from __future__ import annotations

from prefect import flow

from tasks.serve.rollout.rollback import LOCK_SECONDS
from tasks.serve.step import Serving, earlier, switch_back, tidy, traffic_lock, wake_engine
from weighbridge.line import Line


@flow(name="rollback", flow_run_name="rollback-{line}", persist_result=True, result_serializer="json")
def rollback(line: str, to: int | None = None, reason: str = "rolled back by hand") -> Serving:
    """Give an earlier version all of a line's new requests; a rollout in progress gives way first.

    `weighbridge rollback` has moved traffic already, by `tasks/serve/rollout/rollback.py`, when it starts this, which
    then makes the registry say so; started by itself it does both.

    Args:
        line: a file in `lines/`.
        to: version of the registered model `<line>`; by default what served before.
        reason: kept with the version that is taken back.

    Raises:
        NothingToRollBack: the line has no earlier version.
        ArtifactDamaged: the earlier version's engine is cold and its weights no longer verify.
    """
    configured = Line.load(line)
    # Before the lock: a rollout that gives way for it puts production back, which is what was asked for.
    target = earlier(configured, to)
    with traffic_lock(line, LOCK_SECONDS, urgent=True):
        engine = wake_engine(configured, target, reason)
        switch_back(configured, target, engine, reason)
        tidy(configured)
    return Serving(line=line, version=target.version, digest=target.digest, scheme=target.scheme, changed=True)
