"""A fleet whose engines are tiny real servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.serve.fleet.local import LocalFleet
from tasks.serve.fleet.supervisor import Supervisor
from tests.serve.serve_support import use_fake_engine
from tests.support.ports import free_ports
from weighbridge.settings import Settings, load_settings


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    first = free_ports(62)[0]
    monkeypatch.setenv("WEIGHBRIDGE_ENGINE_PORT_FIRST", str(first))
    monkeypatch.setenv("WEIGHBRIDGE_GATEWAY_PORT", str(first + 60))
    monkeypatch.setenv("WEIGHBRIDGE_GATEWAY_ADMIN_PORT", str(first + 61))
    return load_settings()


@pytest.fixture
def fleet(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalFleet]:
    use_fake_engine(monkeypatch.setattr)
    supervisor = Supervisor(settings)
    supervisor.start({})
    yield LocalFleet(settings)
    supervisor.shut_down()
