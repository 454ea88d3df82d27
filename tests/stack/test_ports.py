"""Taken ports: all of them at once, whose they are, and an offset that helps."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stack.ports import free_offset, listeners, require_ports
from tests.support.ports import free_ports
from weighbridge.errors import PortTaken
from weighbridge.settings import load_settings

LISTENS = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listens", flush=True)
time.sleep(60)
"""


@contextmanager
def holder(port: int, *arguments: str, **environment: str) -> Iterator[int]:
    """A process that listens on a port."""
    shell = {name: value for name, value in os.environ.items() if not name.startswith("WEIGHBRIDGE_")}
    command = [sys.executable, "-c", LISTENS, str(port), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**shell, **environment})
    try:
        assert process.stdout and process.stdout.readline() == "listens\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ports of this test's services: gateway, MLflow, Prefect, webhook."""
    found = free_ports(4)
    for name, port in zip(("GATEWAY", "MLFLOW", "PREFECT", "WEBHOOK"), found, strict=True):
        monkeypatch.setenv(f"WEIGHBRIDGE_{name}_PORT", str(port))
    return found


def refusal() -> PortTaken:
    settings = load_settings()
    with pytest.raises(PortTaken) as caught:
        require_ports(settings, listeners(settings))
    return caught.value


def test_every_taken_port_is_named_at_once_with_its_holder(ports: list[int]) -> None:
    with holder(ports[0]) as first, holder(ports[2]) as second:
        error = refusal()
    assert f"Port {ports[0]}, which gateway needs, is taken by process {first} " in error.what
    assert f"Port {ports[2]}, which prefect needs, is taken by process {second} " in error.what
    assert str(ports[1]) not in error.what
    assert "WEIGHBRIDGE_GATEWAY_PORT" in error.next_step and "WEIGHBRIDGE_PREFECT_PORT" in error.next_step


def test_another_homes_weighbridge_is_named_by_its_environment(ports: list[int]) -> None:
    with holder(ports[1], WEIGHBRIDGE_HOME="/srv/another"):
        error = refusal()
    assert "taken by the Weighbridge of /srv/another, user " in error.what
    assert "`WEIGHBRIDGE_HOME=/srv/another weighbridge down`" in error.next_step


def test_another_homes_weighbridge_is_named_by_its_command_line(ports: list[int]) -> None:
    with holder(ports[0], "--config-path", "/srv/another/gateway/envoy.json"):
        assert f"Port {ports[0]} (gateway: process " in (said := refusal().what)
    assert "taken by the Weighbridge of /srv/another" in said


def test_what_a_killed_stack_of_this_home_left_is_named_as_its_own(ports: list[int], own_home: Path) -> None:
    with holder(ports[1], WEIGHBRIDGE_HOME=str(own_home)):
        said = refusal().what
    assert "taken by this very home" in said and "weighbridge down" in said


def test_two_services_on_one_port_are_refused(ports: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_PREFECT_PORT", str(ports[1]))
    assert f"Port {ports[1]} is meant for more than one service" in refusal().what


def test_the_offered_offset_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    first = free_offset(settings)
    assert first is not None
    with socket.create_server(("127.0.0.1", settings.gateway_port + first)):
        second = free_offset(settings)
        monkeypatch.setenv("WEIGHBRIDGE_PORT_OFFSET", str(first))
        assert f"weighbridge up --port-offset {second}" in refusal().next_step
    assert second is not None and second > first
    monkeypatch.setenv("WEIGHBRIDGE_PORT_OFFSET", str(second))
    moved = load_settings()
    require_ports(moved, listeners(moved))


def test_a_dry_run_names_taken_ports_and_writes_nothing(ports: list[int], own_home: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "up", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "gateway  would start" in done.stdout
    with holder(ports[3]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and f"Port {ports[3]}" in done.stderr
    assert list(own_home.iterdir()) == []
