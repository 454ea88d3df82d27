"""When a line's flows start by themselves: the block `schedules` of its file."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, field_validator

from weighbridge.suggestions import did_you_mean

FIELDS_OF_CRON = 5
_SOME_DAY = datetime(2026, 1, 1, tzinfo=UTC)


class Schedule(BaseModel):
    """When a flow of the line starts by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cron: str = Field(description='minute, hour, day of month, month, day of week, as "0 4 * * *"')
    timezone: str = Field("UTC", description="time zone of the five fields, as Europe/Berlin")
    active: bool = Field(description="whether it starts by itself; by hand, and after an approval, it always can")

    @field_validator("cron")
    @classmethod
    def _a_cron_line(cls, cron: str) -> str:
        try:
            # The library also takes a sixth field for seconds, which Prefect would read differently.
            if len(cron.split()) != FIELDS_OF_CRON:
                raise CronSimError(f"has {len(cron.split())} fields instead of {FIELDS_OF_CRON}")
            CronSim(cron, _SOME_DAY)
        except CronSimError as error:
            raise ValueError(f'must read as "0 4 * * *": {str(error)[:1].lower()}{str(error)[1:]}') from None
        return cron

    @field_validator("timezone")
    @classmethod
    def _a_timezone(cls, name: str) -> str:
        known = zoneinfo.available_timezones()
        if name not in known:
            raise ValueError(
                f"there is no time zone called {name!r}{did_you_mean(name, known) or ', as Europe/Berlin'}"
            )
        return name


class ReleaseSchedule(Schedule):
    """When the line's source is checked, and a new release taken to candidates."""

    cron: str = Field("0 4 * * *", description=Schedule.model_fields["cron"].description)
    active: bool = Field(False, description=Schedule.model_fields["active"].description)


class PromoteSchedule(Schedule):
    """When what serves is compared with what is approved. An approval starts it at once, whatever stands here."""

    cron: str = Field("*/10 * * * *", description=Schedule.model_fields["cron"].description)
    active: bool = Field(True, description=Schedule.model_fields["active"].description)


class Schedules(BaseModel):
    """When the line's flows start by themselves. `weighbridge up` sends a change to Prefect."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    release: ReleaseSchedule = Field(ReleaseSchedule(), description="of `release/LINE`")
    promote: PromoteSchedule = Field(PromoteSchedule(), description="of `promote/LINE`")
