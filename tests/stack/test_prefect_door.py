"""Prefect's server serves nobody who does not show the installation's secret, and no page of another site.

The routes are those of the installed Prefect, so a route that an upgrade brings is tried too.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from weighbridge import prefect_api
from weighbridge.settings import Settings

# Prefect's server takes half a minute to start, longer on a machine that is busy with other tests.
pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

FOR_EVERYBODY = {
    ("GET", "/api/health"),
    ("GET", "/api/ready"),
    # The page's own files, and what it must know to ask for the secret.
    ("GET", "/ui-settings"),
}
ID = "00000000-0000-0000-0000-000000000000"


def routes(app: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Each method and path of an app and of what is mounted or included in it; WEBSOCKET for a WebSocket."""
    found: list[tuple[str, str]] = []
    for route in app.routes:
        inner = getattr(route, "app", None)
        path = prefix + getattr(route, "path", "")
        if hasattr(route, "original_router"):
            context = getattr(route, "include_context", None)
            found += routes(route.original_router, prefix + (getattr(context, "prefix", "") or ""))
        elif inner is not None and hasattr(inner, "routes") and type(route).__name__ == "Mount":
            found += routes(inner, path)
        elif type(route).__name__ in ("WebSocketRoute", "APIWebSocketRoute"):
            found.append(("WEBSOCKET", path))
        else:
            found += [(method, path) for method in sorted(getattr(route, "methods", None) or ("GET",))]
    return found


def prefects_routes() -> list[tuple[str, str]]:
    from prefect.server.api.server import create_app

    return [(method, re.sub(r"{[^}]*}", ID, path)) for method, path in routes(create_app(ephemeral=True))]


@pytest.fixture
def page(prefect_server: Settings) -> Iterator[httpx.Client]:
    """Somebody on this machine who does not know the secret."""
    with httpx.Client(base_url=prefect_server.prefect_url, timeout=60, trust_env=False) as client:
        yield client


def test_no_route_of_the_installed_prefect_answers_without_the_secret(page: httpx.Client) -> None:
    http = [(method, path) for method, path in prefects_routes() if method != "WEBSOCKET"]
    assert len(http) > 150, "Prefect has more routes than were found"

    def is_open(method: str, path: str) -> bool:
        content: dict[str, object] | None = {} if method in ("POST", "PUT", "PATCH") else None
        return page.request(method, path, json=content).status_code != 401

    answered = {(method, path) for method, path in http if is_open(method, path) and method != "HEAD"}
    assert answered <= FOR_EVERYBODY


def test_no_route_answers_to_a_secret_that_is_nearly_right(page: httpx.Client, prefect_server: Settings) -> None:
    user, _, password = prefect_api.read_secret(prefect_server).partition(":")
    for wrong in [(user, ""), (user, password[:-1]), (user, password + "x"), ("admin", password), ("", "")]:
        assert page.get("/api/admin/version", auth=wrong).status_code == 401
    assert page.get("/api/admin/version", auth=(user, password)).status_code == 200


@pytest.mark.parametrize("path", ["/api/flows/filter", "/api/health", "/ui-settings", "/"])
def test_a_name_that_was_rebound_to_this_machine_is_refused(
    page: httpx.Client, prefect_server: Settings, path: str
) -> None:
    user, _, password = prefect_api.read_secret(prefect_server).partition(":")
    for host in ("rebound.evil.example", f"evil.example:{prefect_server.prefect_port}", "127.0.0.1.evil.example", ""):
        assert page.get(path, headers={"Host": host}, auth=(user, password)).status_code in (400, 421)
    assert page.get("/api/health", headers={"Host": f"localhost:{prefect_server.prefect_port}"}).status_code == 200


def test_a_page_of_another_site_is_refused_and_told_nothing_about_other_origins(
    page: httpx.Client, prefect_server: Settings
) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for origin in ("https://evil.example", "http://127.0.0.1:1", "null"):
        answer = page.options("/api/deployments/", headers={"Origin": origin, **preflight})
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
        with prefect_api.client(prefect_server) as client:
            assert client.post("/flows/filter", json={}, headers={"Origin": origin}).status_code == 403
    with prefect_api.client(prefect_server) as client:
        assert client.post("/flows/filter", json={}, headers={"Origin": prefect_server.prefect_url}).status_code == 200


def test_the_page_is_served_and_asks_for_the_secret(page: httpx.Client) -> None:
    settings = page.get("/ui-settings").json()
    assert (settings["auth"], settings["api_url"]) == ("BASIC", "/api")
    assert page.get("/", headers={"Accept": "text/html"}, follow_redirects=True).status_code == 200


async def _is_let_in(address: str, secret: str, origin: str | None) -> bool:
    try:
        async with connect(address, subprotocols=["prefect"], origin=origin, proxy=None) as socket:  # type: ignore[list-item, arg-type]
            await socket.send(json.dumps({"type": "auth", "token": secret}))
            return bool(json.loads(await asyncio.wait_for(socket.recv(), 30))["type"] == "auth_success")
    except (ConnectionClosed, InvalidStatus):
        return False


def test_websockets_need_the_secret_too_and_come_from_no_other_site(prefect_server: Settings) -> None:
    secret = prefect_api.read_secret(prefect_server)
    paths = [path for method, path in prefects_routes() if method == "WEBSOCKET"]
    assert len(paths) >= 5
    for path in paths:
        address = f"ws{prefect_server.prefect_url.removeprefix('http')}{path}"
        for shown, origin in [("", None), ("wrong", None), (secret, "https://evil.example")]:
            assert not asyncio.run(_is_let_in(address, shown, origin)), (path, shown == secret, origin)
        assert asyncio.run(_is_let_in(address, secret, None)), path


def test_prefect_typed_in_a_folder_takes_the_secret_from_the_profile(prefect_server: Settings, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(f'[tool.prefect]\nprofiles_path = "{prefect_server.prefect_profiles}"\n')
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [str(Path(sys.executable).with_name("prefect")), "work-pool", "ls"]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert prefect_server.prefect_profiles.stat().st_mode & 0o077 == 0
    assert prefect_api.secret_file(prefect_server).stat().st_mode & 0o077 == 0


def test_the_secret_is_in_no_list_of_processes_and_no_log(prefect_server: Settings) -> None:
    password = prefect_api.read_secret(prefect_server).partition(":")[2]
    assert not [process.pid for process in psutil.process_iter() if password in " ".join(_command_line(process))]
    assert password not in (prefect_server.home / "prefect.log").read_text()


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
