"""Make what serves a line what the registry asks for."""

from __future__ import annotations

from prefect import flow

from tasks.serve.step import (
    Serving,
    check_approval,
    record_waiting,
    serves_already,
    settle,
    shift_traffic,
    start_engine,
    switch_back,
    tell_registry,
    tidy,
    traffic_lock,
    unfinished,
    wake_engine,
    wanted,
)
from weighbridge.line import Line

LOCK_SECONDS = 900


@flow(name="promote", flow_run_name="promote-{line}", persist_result=True, result_serializer="json")
def promote(line: str, version: int | None = None) -> Serving:
    """Compare what the registry asks for with what the gateway serves, and close the difference.

    A rollback that was begun and that the registry does not have yet is finished first. Then releases are recorded that
    were weighed while MLflow did not answer.

    Args:
        line: a file in `lines/`.
        version: of the registered model `<line>`; by default the newest approval that nobody has decided
            yet, else what the alias `production` points at.

    Raises:
        WeighbridgeError: named by what went wrong; what served before serves on.
    """
    configured = Line.load(line)
    with traffic_lock(line, LOCK_SECONDS) as lock:
        if (begun := unfinished(configured)) is not None:
            earlier, reason = begun
            switch_back(configured, earlier, wake_engine(configured, earlier, reason), reason)
        record_waiting(configured)
        target = wanted(configured, version)
        if target is None:
            return Serving(line=line, version=None)
        if serves_already(configured, target):
            tell_registry(configured, target)
            tidy(configured)
            return Serving(line=line, version=target.version, digest=target.digest, scheme=target.scheme)
        artifact = check_approval(configured, target)
        engine = start_engine(configured, target, artifact)
        steps = shift_traffic(configured, target, engine, lock)
        settle(configured, target)
    return Serving(
        line=line, version=target.version, digest=target.digest, scheme=target.scheme, changed=True, steps=tuple(steps)
    )
