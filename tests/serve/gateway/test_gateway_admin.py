"""Envoy's admin interface: no port, for its user only, and the gateway of an older version is still reached."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.serve.gateway.bootstrap import admin_socket, bootstrap_document
from tests.serve.gateway.gateway_support import FakeEngine, Running, ask_admin, make_gateway
from tests.support.ports import free_port
from tests.support.waiting import wait_for
from weighbridge.errors import GatewayFailed
from weighbridge.settings import Settings

Make = Callable[[], FakeEngine]
NOBODY = 65534


def connects(path: Path, user: int) -> bool:
    """Whether a process of a user can open a socket."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            socket.socket(socket.AF_UNIX).connect(str(path))
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def addresses(document: object) -> Iterator[dict[str, Any]]:
    """All addresses of a document that are ports."""
    if isinstance(document, dict):
        if "socket_address" in document:
            yield document["socket_address"]
        for part in document.values():
            yield from addresses(part)
    elif isinstance(document, list):
        for part in document:
            yield from addresses(part)


@pytest.mark.parametrize("metrics", [None, 9902])
def test_the_only_ports_are_those_of_clients_and_of_metrics(tmp_path: Path, metrics: int | None) -> None:
    settings = Settings(home=tmp_path, gateway_port=8080, gateway_metrics_port=metrics)
    document = bootstrap_document(settings, tmp_path / "gateway" / "discovery")
    assert document["admin"]["address"] == {"pipe": {"path": str(tmp_path / "gateway" / "admin.sock"), "mode": 0o600}}
    ports = [address["port_value"] for address in addresses(document)]
    assert ports == [8080, *([metrics] if metrics else [])]


def test_envoy_listens_for_clients_only(running: Running) -> None:
    assert running.process is not None
    connections = psutil.Process(running.process.pid).net_connections("tcp")
    listening = [found.laddr.port for found in connections if found.status == psutil.CONN_LISTEN]
    assert set(listening) == {running.gateway.settings.gateway_port}


def test_no_admin_path_is_reached_through_the_clients_port(running: Running, engine: Make) -> None:
    running.gateway.set_line("kept", [engine().backend("1", 100)])
    help_text = ask_admin(running.gateway, "/help").text
    paths = re.findall(r"^  (/[^ :?]*)", help_text, re.MULTILINE)
    assert {"/config_dump", "/drain_listeners", "/quitquitquit", "/healthcheck/fail"} <= set(paths)
    for path in paths:
        for method in ("GET", "POST"):
            headers = {"origin": "https://evil.example", "content-type": "text/plain"}
            status = running.client.request(method, path, headers=headers).status_code
            assert status in (401, 404), f"{method} {path}"
            keyed = {**headers, "authorization": f"Bearer {running.gateway.key()}"}
            assert running.client.request(method, path, headers=keyed).status_code == 404, f"{method} {path} with a key"
    assert running.chat("kept").status_code == 200


def test_the_socket_is_for_its_user_only(running: Running) -> None:
    path = admin_socket(running.gateway.folder)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_cannot_open_the_socket(running: Running) -> None:
    path = admin_socket(running.gateway.folder)
    assert connects(path, os.geteuid()) and not connects(path, NOBODY)


@pytest.mark.server
def test_a_home_with_a_long_path_has_a_gateway_too(tmp_path: Path) -> None:
    running = Running(make_gateway(tmp_path / ("long" * 30)))
    running.gateway.settings.home.mkdir()
    try:
        running.start()
        running.gateway.set_line("far", [])
        assert running.gateway.health()
    finally:
        running.stop()


@pytest.mark.server
def test_the_gateway_of_an_older_version_is_reached_until_it_is_restarted(tmp_path: Path, engine: Make) -> None:
    running, port = Running(make_gateway(tmp_path)), free_port()
    config = running.gateway.bootstrap()
    old = json.loads(config.read_text())
    old["admin"]["address"] = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    config.write_text(json.dumps(old))
    try:
        with running.envoy_log.open("w") as log:
            running.process = subprocess.Popen(running.gateway.envoy_command(), stderr=log)
        wait_for(running.gateway.health, seconds=15)
        assert running.gateway.old_admin == f"http://127.0.0.1:{port}"
        running.gateway.set_line("old", [engine().backend("1", 100)])
        assert running.chat("old").status_code == 200 and running.gateway.client_requests() == 0
        assert running.gateway.counters("old", "1").requests == 1
        running.process.kill()
        running.process.wait()
        running.start()
        assert running.gateway.old_admin == "" and running.chat("old").status_code == 200
        assert running.gateway.counters("old", "1").requests == 1
    finally:
        running.stop()


def test_a_gateway_that_is_down_is_named_by_its_socket(tmp_path: Path) -> None:
    gateway = make_gateway(tmp_path)
    gateway.bootstrap()
    with pytest.raises(GatewayFailed) as caught:
        gateway.counters("toy", "1")
    assert caught.value.where == str(tmp_path / "gateway" / "admin.sock")
