"""Stored routes and rendered configuration, without a running Envoy (it only validates the result)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.serve.endpoint import Endpoint
from tasks.serve.gateway import Backend, Gateway, LineRoute, Routes
from tasks.serve.gateway.clusters import clusters_document
from tasks.serve.gateway.discovery import routes_document
from tasks.serve.gateway.files import as_json
from tasks.serve.gateway.keys import Keys, record_of
from weighbridge.errors import GatewayFailed, KeyNameInvalid

DIGEST = "a" * 64


def backend(version: str, weight: int = 0, port: int = 9999) -> Backend:
    return Backend(version=version, digest=DIGEST, endpoints=(Endpoint(host="127.0.0.1", port=port),), weight=weight)


@st.composite
def line_routes(draw: st.DrawFn, name: str) -> LineRoute:
    versions = draw(st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True), unique=True, max_size=4))
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=len(versions), max_size=len(versions))))
    weights = [high - low for low, high in zip([0, *cuts], [*cuts[:-1], 100])] if versions else []
    if draw(st.booleans()):
        weights = [0] * len(versions)
    ports = st.integers(1, 65535)
    backends = tuple(backend(version, weight, draw(ports)) for version, weight in zip(versions, weights))
    return LineRoute(line=name, backends=backends)


@st.composite
def any_routes(draw: st.DrawFn) -> Routes:
    names = draw(st.lists(st.from_regex(r"[a-z0-9][a-z0-9-]{0,39}", fullmatch=True), unique=True, max_size=5))
    names += draw(st.lists(st.sampled_from(["n", "y", "no", "on", "1e3", "0x1", "null", "v1", "healthz"]), unique=True))
    lines = tuple(draw(line_routes(name)) for name in dict.fromkeys(names))
    return Routes(lines=lines, generation=draw(st.integers(0, 10**6)))


def parsed(document: dict[str, Any]) -> Any:
    return json.loads(as_json(document))


@settings(max_examples=60, deadline=None)
@given(any_routes())
def test_any_routes_render_to_configuration_that_reads_back_with_weights_of_100(routes: Routes) -> None:
    clusters = parsed(clusters_document(routes))
    paths = parsed(routes_document(routes, Keys({"default": record_of("wb-12345678")})))
    assert clusters == clusters_document(routes)
    names = {cluster["name"] for cluster in clusters["resources"]}
    weighted = [
        route["route"]["weighted_clusters"]["clusters"]
        for route in paths["resources"][0]["virtual_hosts"][0]["routes"]
        if "route" in route
    ]
    serving = [line for line in routes.lines if any(each.weight for each in line.backends)]
    assert len(weighted) == 2 * len(serving)
    for shares in weighted:
        assert sum(share["weight"] for share in shares) == 100
        assert {share["name"] for share in shares} <= names


@settings(max_examples=60, deadline=None)
@given(any_routes())
def test_routes_read_back_as_written(routes: Routes) -> None:
    assert Routes.model_validate_json(routes.model_dump_json()) == routes


def test_the_version_of_a_document_is_its_digest() -> None:
    first = Routes(lines=(LineRoute(line="a", backends=(backend("1", 100), backend("2"))),), generation=1)
    # Envoy keeps its version if only the order differs.
    turned = Routes(lines=(LineRoute(line="a", backends=(backend("2"), backend("1", 100))),), generation=2)
    assert clusters_document(first)["version_info"] == clusters_document(turned)["version_info"]
    other = first.with_line(LineRoute(line="a", backends=(backend("3", 100),)))
    assert clusters_document(first)["version_info"] != clusters_document(other)["version_info"]


def test_a_weight_change_leaves_the_clusters_unchanged() -> None:
    before = Routes(lines=(LineRoute(line="a", backends=(backend("1", 100), backend("2"))),))
    after = Routes(lines=(LineRoute(line="a", backends=(backend("1"), backend("2", 100))),))
    assert clusters_document(before)["resources"] == clusters_document(after)["resources"]


@pytest.mark.parametrize(
    "backends",
    [(backend("1", 60), backend("2", 50)), (backend("1", 99),), (backend("1", 50), backend("1", 50))],
)
def test_impossible_weights_are_refused_and_change_nothing(gateway: Gateway, backends: tuple[Backend, ...]) -> None:
    gateway.set_line("a", [backend("1", 100)], wait=False)
    with pytest.raises(GatewayFailed, match=r"sum to 100|twice"):
        gateway.set_line("a", backends, wait=False)
    assert gateway.routes().line("a").backends == (backend("1", 100),)


@pytest.mark.parametrize("version", ["", "1.0", "a b", "../x", "a:b"])
def test_versions_that_break_statistic_names_are_refused(version: str) -> None:
    with pytest.raises(ValidationError):
        backend(version)


def test_a_weight_for_an_unknown_version_names_the_known_versions(gateway: Gateway) -> None:
    gateway.set_line("a", [backend("1", 100), backend("2")], wait=False)
    with pytest.raises(GatewayFailed, match="no version 3 of a; it has: 1, 2"):
        gateway.shift("a", {"3": 100}, wait=False)
    gateway.shift("a", {"2": 100}, wait=False)
    assert [each.weight for each in gateway.routes().line("a").backends] == [0, 100]


def test_a_backend_with_traffic_is_not_removed(gateway: Gateway) -> None:
    gateway.set_line("a", [backend("1", 100), backend("2")], wait=False)
    with pytest.raises(GatewayFailed, match="100 per cent"):
        gateway.remove_backend("a", "1", wait=False)
    gateway.remove_backend("a", "2", wait=False)
    gateway.remove_backend("a", "2", wait=False)
    assert [each.version for each in gateway.routes().line("a").backends] == ["1"]


def test_without_envoy_a_change_is_refused_and_nothing_is_written(gateway: Gateway) -> None:
    with pytest.raises(GatewayFailed, match="not up"):
        gateway.set_line("a", [backend("1", 100)])
    assert gateway.routes() == Routes()
    assert not gateway.health()


def test_keys_are_private_and_stable(gateway: Gateway) -> None:
    key = gateway.key()
    assert len(key) > 40
    assert gateway.key() == key
    gateway.bootstrap()
    for name in ("keys.json", "discovery/rds.json", "routes.json"):
        path = gateway.folder / name
        assert not path.exists() or path.stat().st_mode & 0o777 == 0o600, name
    assert gateway.add_key("bob", wait=False) != key


def test_only_the_installations_key_is_on_disk(gateway: Gateway) -> None:
    gateway.bootstrap()
    keys = {"bob": gateway.add_key("bob", wait=False), "default": gateway.key()}
    holding = {
        name: [path.name for path in gateway.settings.home.rglob("*") if path.is_file() and key in path.read_text()]
        for name, key in keys.items()
    }
    assert holding == {"bob": [], "default": ["default.key"]}
    assert (gateway.folder / "default.key").stat().st_mode & 0o777 == 0o600


def test_keys_are_unique_and_removable(gateway: Gateway) -> None:
    gateway.add_key("bob", wait=False)
    with pytest.raises(KeyNameInvalid, match="bob has a key already"):
        gateway.add_key("bob", wait=False)
    with pytest.raises(KeyNameInvalid, match="cannot name a key"):
        gateway.add_key("b o b", wait=False)
    gateway.remove_key("bob", wait=False)
    with pytest.raises(KeyNameInvalid, match="No API key is named bob; there are: default"):
        gateway.remove_key("bob", wait=False)


def test_the_installations_key_is_not_recreated_after_removal(gateway: Gateway) -> None:
    before = gateway.key()
    gateway.remove_key("default", wait=False)
    with pytest.raises(GatewayFailed, match="no API key of its own"):
        gateway.key()
    assert gateway.add_key("default", wait=False) == gateway.key() != before


@pytest.mark.parametrize("text", ["[]", "nonsense", '{"a": "wb-plain"}', '{"a": {"sha256": "wb-plain"}}'])
def test_an_unusable_keys_file_is_reported(gateway: Gateway, text: str) -> None:
    gateway.folder.mkdir(parents=True)
    (gateway.folder / "keys.json").write_text(text)
    with pytest.raises(GatewayFailed, match=r"keys\.json") as caught:
        gateway.key()
    assert "wb-plain" not in str(caught.value)


def test_damaged_routes_are_reported(gateway: Gateway) -> None:
    gateway.folder.mkdir(parents=True)
    (gateway.folder / "routes.json").write_text('{"lines": 3}')
    with pytest.raises(GatewayFailed, match=r"routes\.json"):
        gateway.routes()


KILLED = """
import os, signal
from weighbridge.settings import Settings
from tasks.serve.gateway import Backend, Gateway
gateway = Gateway(Settings())
gateway._render = lambda wait: os.kill(os.getpid(), signal.SIGKILL)
endpoints = [{"host": "127.0.0.1", "port": 9999}]
gateway.set_line("a", [Backend(version="7", digest="a" * 64, endpoints=endpoints, weight=100)], wait=False)
"""


def test_the_next_start_finishes_an_interrupted_write(gateway: Gateway) -> None:
    gateway.bootstrap()
    environment = {**os.environ, **gateway.settings.as_environment()}
    ended = subprocess.run([sys.executable, "-c", KILLED], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert "a@7" not in (gateway.folder / "discovery" / "cds.json").read_text()
    gateway.bootstrap()
    assert "a@7" in (gateway.folder / "discovery" / "cds.json").read_text()
    assert "a@7" in (gateway.folder / "discovery" / "rds.json").read_text()


@pytest.mark.server
def test_envoy_accepts_the_bootstrap(gateway: Gateway) -> None:
    gateway.set_line("n", [backend("1", 100), backend("2")], wait=False)
    gateway.bootstrap()
    command = [*gateway.envoy_command(), "--mode", "validate"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
