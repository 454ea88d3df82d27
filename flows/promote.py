"""Make what serves a line what the registry asks for."""

from __future__ import annotations

from prefect import flow

from tasks.announce import announced
from tasks.serve.installation import ServingInstallation
from tasks.serve.serving_record import record_serving, retire_engines
from tasks.serve.settled import is_serving, requested_version
from tasks.serve.step import (
    Serving,
    check_approval,
    finish_rollout,
    prepare_rollback,
    record_waiting_releases,
    roll_back_traffic,
    shift_traffic,
    start_engine,
    traffic_lock,
    unfinished_rollback,
)
from tasks.steps import named_failures
from weighbridge.line import Line

LOCK_SECONDS = 900


@flow(name="promote", flow_run_name="promote-{line}", persist_result=True, result_serializer="json")
@announced("promote")
@named_failures
def promote(line: str, version: int | None = None) -> Serving:
    """Compare what the registry asks for with what the gateway serves, and close the difference.

    A rollback that was begun and that the registry does not have yet is finished first. Then releases are recorded
    that were weighed while MLflow did not answer.

    Args:
        line: a file in `lines/`.
        version: of the registered model `<line>`; by default the newest approval that is still undecided, else the
            version that the alias `production` names.

    Raises:
        WeighbridgeError: a step failed; what served before continues to serve.
    """
    configured, installation = Line.load(line), ServingInstallation.load()
    with traffic_lock(installation, line, LOCK_SECONDS) as lock:
        if (pending := unfinished_rollback(installation, configured)) is not None:
            earlier, reason = pending
            engine = prepare_rollback(installation, configured, earlier, reason)
            roll_back_traffic(installation, configured, earlier, engine, reason)
        record_waiting_releases(installation, configured)
        target = requested_version(installation, configured, version)
        if target is None:
            return Serving(line=line, version=None)
        if is_serving(installation, configured, target):
            record_serving(installation, configured, target)
            retire_engines(installation, configured)
            return Serving(line=line, version=target.version, digest=target.digest, scheme=target.scheme)
        artifact = check_approval(installation, configured, target)
        engine = start_engine(installation, configured, target, artifact)
        steps = shift_traffic(installation, configured, target, engine, lock)
        finish_rollout(installation, configured, target)
    return Serving(
        line=line, version=target.version, digest=target.digest, scheme=target.scheme, changed=True, steps=tuple(steps)
    )
