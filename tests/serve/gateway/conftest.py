"""One Envoy for each test module, and engines that stop with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.serve.gateway import Gateway
from tests.serve.gateway.gateway_support import FakeEngine, Running, make_gateway


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return make_gateway(tmp_path)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One Envoy for each module; each test uses its own lines."""
    running = Running(make_gateway(tmp_path_factory.mktemp("gateway")))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def engine() -> Iterator[Callable[[], FakeEngine]]:
    """Factory of engines that stop with the test."""
    engines: list[FakeEngine] = []

    def make() -> FakeEngine:
        engines.append(FakeEngine())
        return engines[-1]

    yield make
    for fake in engines:
        fake.stop()
