"""Which fleet an installation has; the only place that chooses."""

from __future__ import annotations

from tasks.serve.fleet.local import LocalFleet
from tasks.serve.fleet.protocol import Fleet
from weighbridge.settings import Settings


def fleet_of(settings: Settings) -> Fleet:
    """Choose the fleet of an installation: engines under supervisord on this machine."""
    return LocalFleet(settings)
