"""What will start the promotion of a line, and when: the one answer for `approve`, `status` and MLflow's card."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import httpx
from cronsim import CronSim
from pydantic import BaseModel, ConfigDict

from weighbridge import prefect_api
from weighbridge.deployments import POOL
from weighbridge.health import answers
from weighbridge.settings import Settings

TIMEOUT_SECONDS = 5.0
DOWN = "the stack is down"


class PromotionStart(BaseModel):
    """What starts `promote/LINE` after an approval."""

    model_config = ConfigDict(frozen=True)

    line: str
    when: Literal["at once", "scheduled", "never"]
    """After an approval: within seconds, by the schedule only, or not before a person does something."""
    at: datetime | None = None
    """When the schedule starts it next, if it is active."""
    obstacle: str = ""
    """What is missing for the best of these, such as `no worker is online`."""

    @property
    def sentence(self) -> str:
        """The answer for a person, with what to type if nothing will happen."""
        if self.when == "at once":
            return f"promote/{self.line} starts within seconds of an approval."
        if self.when == "scheduled" and self.at:
            return f"promote/{self.line} starts by its schedule at {self.at:%H:%M} UTC, not sooner: {self.obstacle}."
        return (
            f"Nothing will start promote/{self.line}: {self.obstacle}. "
            f"Run `weighbridge up`, then `weighbridge promote {self.line}`."
        )


def promotion_starts(settings: Settings, lines: Sequence[str]) -> dict[str, PromotionStart]:
    """Find out for some lines at once what starts their promotion; never fails, and asks for some seconds at most.

    Args:
        settings: Settings of the installation.
        lines: Names of lines.
    """
    try:
        with prefect_api.client(settings, TIMEOUT_SECONDS) as client:
            asked = {"deployments": {"name": {"any_": list(lines)}}, "flows": {"name": {"any_": ["promote"]}}}
            found = client.post("/deployments/filter", json=asked).raise_for_status().json()
            workers = client.post(f"/work_pools/{POOL}/workers/filter", json={}).raise_for_status().json()
    except httpx.HTTPStatusError as error:
        return _nothing(lines, f"Prefect refuses the question (HTTP {error.response.status_code})")
    except httpx.HTTPError:
        return _nothing(lines, DOWN)
    if not any(worker["status"] == "ONLINE" for worker in workers):
        return _nothing(lines, "no worker is online")
    clicks = answers(f"http://127.0.0.1:{settings.webhook_port}/health")
    by_line = {deployment["name"]: deployment for deployment in found}
    return {line: _start_of(line, by_line.get(line), clicks) for line in lines}


def promotion_start(settings: Settings, line: str) -> PromotionStart:
    """Find out what starts the promotion of a line, as `promotion_starts` does for many."""
    return promotion_starts(settings, [line])[line]


def promotion_notes(settings: Settings, lines: Sequence[str]) -> list[str]:
    """A sentence for each reason why an approval would wait for a person; none while the stack is down."""
    waiting: dict[str, list[str]] = {}
    for start in promotion_starts(settings, lines).values():
        if start.when == "never" and start.obstacle != DOWN:
            waiting.setdefault(start.obstacle.replace(f"promote/{start.line}", "to promote it"), []).append(start.line)
    return [
        f"{', '.join(names)}: an approval starts nothing, because {obstacle}. `weighbridge up` mends that."
        for obstacle, names in waiting.items()
    ]


def _nothing(lines: Sequence[str], obstacle: str) -> dict[str, PromotionStart]:
    return {line: PromotionStart(line=line, when="never", obstacle=obstacle) for line in lines}


def _start_of(line: str, deployment: dict[str, Any] | None, clicks: bool) -> PromotionStart:
    if deployment is None:
        return PromotionStart(line=line, when="never", obstacle=f"Prefect has no deployment promote/{line}")
    times = (
        []
        if deployment["paused"]
        else [_next(entry["schedule"]) for entry in deployment["schedules"] if entry["active"]]
    )
    at = min((time for time in times if time), default=None)
    if clicks:
        return PromotionStart(line=line, when="at once", at=at)
    obstacle = "the service webhook, which MLflow tells of an approval, does not answer"
    if at:
        return PromotionStart(line=line, when="scheduled", at=at, obstacle=obstacle)
    return PromotionStart(line=line, when="never", obstacle=f"{obstacle}, and its schedule is not active")


def _next(schedule: dict[str, Any]) -> datetime | None:
    """When a cron schedule is due next; None for another kind of schedule, which Prefect alone can tell."""
    from zoneinfo import ZoneInfo

    try:
        now = datetime.now(ZoneInfo(schedule.get("timezone") or "UTC"))
        return next(CronSim(schedule["cron"], now)).astimezone(UTC)
    except (KeyError, ValueError, StopIteration):
        return None
