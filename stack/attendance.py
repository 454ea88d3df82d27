"""Who watches a line's rollout: a process that lives, one that is frozen, a run that is about to, or nobody.

Told from the record beside the traffic lock (`tasks/serve/rollout/holder.py`) and from Prefect's runs; the lock itself
is not touched.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import httpx
from pydantic import BaseModel, ConfigDict

from tasks.serve.gateway import LineRoute
from tasks.serve.rollout.holder import Holder, read_holder
from weighbridge import prefect_api
from weighbridge.promotion_start import promotion_start
from weighbridge.settings import Settings

ASKED_SECONDS = 3.0
MOVERS = ("promote", "rollback")
"""Flows that move traffic."""
UNDER_WAY = ("RUNNING", "CANCELLING")
"""Prefect's types of states of a run that has a process. A frozen worker may never begin one that is pending."""


class RolloutStatus(BaseModel):
    """A rollout that is not at its end."""

    model_config = ConfigDict(frozen=True)

    state: Literal["attended", "frozen", "unattended"]
    """Whether its process lives, lives and does not run (SIGSTOP, a suspended terminal), or is gone."""
    since: datetime | None = None
    """Last sign of life of a process that is frozen or gone; None if it lives, or if nothing was noted."""
    pid: int = 0
    """Of the process that moves the line's traffic, frozen or not."""
    run: str = ""
    """Id of its flow run."""
    sentence: str = ""
    """What a person should know and may do; empty if it is attended."""


def rollout_status(settings: Settings, route: LineRoute, rolling: bool) -> RolloutStatus | None:
    """Find out who watches a line's rollout.

    Args:
        settings: of the installation.
        route: the line's.
        rolling: whether the registry has a version in the state `rolling`.

    Returns:
        None if one version has all requests, and none is rolling.
    """
    split = len([backend for backend in route.backends if backend.weight]) > 1 or route.mirror is not None
    if not split and not rolling:
        return None
    holder = read_holder(settings, route.line)
    if holder is not None and holder.held and holder.moves_traffic:
        if not holder.is_frozen():
            return RolloutStatus(state="attended", pid=holder.pid, run=holder.run)
        return RolloutStatus(
            state="frozen",
            since=holder.last_sign,
            pid=holder.pid,
            run=holder.run,
            sentence=f"{route.line}: its rollout is frozen since {_clock(holder.last_sign)}, because process "
            f"{holder.pid} is stopped{_shares(route)}. `weighbridge rollback {route.line}` takes over and goes back; "
            f"`kill -CONT {holder.pid}` lets it go on.",
        )
    if run := _run_under_way(settings, route.line, holder):
        return RolloutStatus(state="attended", run=run)
    since = f" since {_clock(holder.last_sign)}" if holder is not None else ""
    return RolloutStatus(
        state="unattended",
        since=holder.last_sign if holder is not None else None,
        sentence=f"{route.line}: rolling, unattended{since}{_shares(route)}. `weighbridge promote {route.line}` goes "
        f"on, `weighbridge rollback {route.line}` goes back{_scheduled(settings, route.line)}.",
    )


def _run_under_way(settings: Settings, line: str, ended: Holder | None) -> str:
    """Id of a run that has a process and is about to move the line's traffic; empty if there is none.

    Prefect takes a run whose process was killed for running, for some minutes: `ended` is the one that is gone.
    """
    asked = {
        "flows": {"name": {"any_": MOVERS}},
        "flow_runs": {"state": {"type": {"any_": UNDER_WAY}}},
        "limit": 50,
    }
    try:
        with prefect_api.client(settings, timeout=ASKED_SECONDS) as server:
            answer = server.post("/flow_runs/filter", json=asked)
        runs = answer.json() if answer.status_code == httpx.codes.OK else []
        gone = ended.run if ended is not None else ""
        ids = [str(run["id"]) for run in runs if run["parameters"].get("line") == line and str(run["id"]) != gone]
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return ""
    return ids[0] if ids else ""


def _shares(route: LineRoute) -> str:
    having = sorted((backend for backend in route.backends if backend.weight), key=lambda backend: -backend.weight)
    parts = [f"version {backend.version} has {backend.weight} %" for backend in having]
    if route.mirror is not None:
        parts.append(f"version {route.mirror.version} gets mirrored requests")
    return f" ({', '.join(parts)})" if parts else ""


def _scheduled(settings: Settings, line: str) -> str:
    at = promotion_start(settings, line).at
    return f"; promote/{line} goes on by its schedule at {at:%H:%M} UTC" if at is not None else ""


def _clock(time: datetime) -> str:
    today = datetime.now(UTC).date() == time.date()
    return f"{time:%H:%M} UTC" if today else f"{time:%Y-%m-%d %H:%M} UTC"
