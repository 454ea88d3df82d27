"""A real Envoy under a real supervisord, before the fleet's fake engines."""

from __future__ import annotations

import pytest

from tasks.serve.fleet.local import LocalFleet
from tasks.serve.fleet.program import Program
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway
from tests.support.waiting import wait_for
from weighbridge.settings import Settings


@pytest.fixture
def gateway(settings: Settings, fleet: LocalFleet) -> Gateway:
    gateway = Gateway(settings)
    gateway.bootstrap()
    Supervisor(settings).run(
        Program(
            name="gateway",
            command=tuple(gateway.envoy_command()),
            folder=gateway.folder,
            log=settings.logs_folder / "gateway.log",
        )
    )
    wait_for(gateway.health, seconds=20)
    return gateway
