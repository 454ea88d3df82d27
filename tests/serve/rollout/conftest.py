"""A real Envoy under a real supervisord, before the fleet's tiny engines."""

from __future__ import annotations

import time

import pytest

from tasks.serve.fleet.supervisor import Program, Supervisor
from tasks.serve.gateway import Gateway


@pytest.fixture
def gateway(settings, fleet):
    made = Gateway(settings)
    made.bootstrap()
    Supervisor(settings).run(
        Program(
            name="gateway",
            command=tuple(made.envoy_command()),
            folder=made.folder,
            log=settings.logs_folder / "gateway.log",
        )
    )
    deadline = time.monotonic() + 20
    while not made.health():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return made
