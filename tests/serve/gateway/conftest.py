"""One Envoy for a file of tests, and engines that end with theirs."""

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
    """One Envoy a module; tests use lines of their own."""
    running = Running(make_gateway(tmp_path_factory.mktemp("gateway")))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def engine() -> Iterator[Callable[[], FakeEngine]]:
    """Makes engines that end with the test."""
    engines: list[FakeEngine] = []

    def make() -> FakeEngine:
        engines.append(FakeEngine())
        return engines[-1]

    yield make
    for fake in engines:
        fake.stop()
