"""Go back to an earlier version, now."""

from __future__ import annotations

from prefect import flow

from tasks.announce import announced
from tasks.serve.installation import ServingInstallation
from tasks.serve.orphans import line_or_orphan
from tasks.serve.rollout.rollback import LOCK_SECONDS
from tasks.serve.serving_record import retire_engines
from tasks.serve.step import (
    Serving,
    prepare_rollback,
    roll_back_traffic,
    rollback_target,
    traffic_lock,
)
from tasks.steps import named_failures


@flow(name="rollback", flow_run_name="rollback-{line}", persist_result=True, result_serializer="json")
@announced("rollback")
@named_failures
def rollback(line: str, to: int | None = None, reason: str = "rolled back by hand") -> Serving:
    """Give an earlier version all of a line's new requests; a rollout in progress gives way first.

    `weighbridge rollback` has already moved traffic, by `tasks/serve/rollout/rollback.py`, when it starts this flow,
    which then records it in the registry. Started by itself the flow does both.

    Args:
        line: a file in `lines/`.
        to: version of the registered model `<line>`; by default the one that served before.
        reason: kept with the version that loses its traffic.

    Raises:
        NothingToRollBack: the line has no earlier version.
        ArtifactDamaged: the earlier version's engine is cold and its weights no longer match their manifest.
    """
    installation = ServingInstallation.load()
    configured = line_or_orphan(installation.settings, line)
    # Before the lock: a rollout that gives way for it puts production back, which is the target.
    target = rollback_target(installation, configured, to)
    with traffic_lock(installation, line, LOCK_SECONDS, urgent=True):
        engine = prepare_rollback(installation, configured, target, reason)
        roll_back_traffic(installation, configured, target, engine, reason)
        retire_engines(installation, configured)
    return Serving(line=line, version=target.version, digest=target.digest, scheme=target.scheme, changed=True)
