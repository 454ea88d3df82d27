"""An installation that serves: the store and the registry, and with them the gateway and the fleet."""

from __future__ import annotations

from functools import cached_property

from registry.installation import Installation
from tasks.serve.fleet.choice import fleet_of
from tasks.serve.fleet.protocol import Fleet
from tasks.serve.gateway import Gateway


class ServingInstallation(Installation):
    """What flows and commands that move traffic work with."""

    @cached_property
    def gateway(self) -> Gateway:
        """The gateway before all engines."""
        return Gateway(self.settings)

    @cached_property
    def fleet(self) -> Fleet:
        """Where the engines run."""
        return fleet_of(self.settings)
