"""Client of Envoy's admin interface: the configuration that it runs, and the counters of its clusters."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from tasks.serve.gateway.discovery import ROUTE_CONFIGURATION
from weighbridge.errors import GatewayFailed

if TYPE_CHECKING:
    import httpx

_COUNT = re.compile(
    r"weighbridge\.(?P<what>answers|prompt_tokens|completion_tokens)"
    r"\.line\.(?P<line>[^.]*)\.version\.(?P<version>[^.]*)\.client\.[^/]*?(\.status\.(?P<status>\d+))?"
)

ANSWER_SECONDS = 5.0
"""The admin interface answers from memory, in milliseconds."""


class BackendCounters(BaseModel):
    """Counters of one backend since Envoy started, or since the backend was added."""

    model_config = ConfigDict(frozen=True)

    requests: int
    """Requests whose response began, errors included."""
    errors_5xx: int
    """Of these, answered 5xx by the engine, or by Envoy because the engine could not be reached."""
    broken: int
    """Connections that the engine closed in the middle of a request or a response."""
    active: int
    """Requests in progress, until the last byte of their responses."""
    sent: int = 0
    """Requests that reached the engine."""
    waiting: int = 0
    """Of the active ones, those that wait for a connection."""
    healthy: bool
    """Result of the latest active health check."""


class ClientCounts(BaseModel):
    """Responses to the clients of one version of a line since Envoy started; mirrored requests are not counted."""

    model_config = ConfigDict(frozen=True)

    answers: int = 0
    errors: int = 0
    """Of these, 5xx, from the engine or from Envoy."""
    tokens: int = 0
    """Prompts and completions, where the engine reports them."""


class EnvoyConfiguration(BaseModel):
    """Versions of the two documents that Envoy runs; the reason why it refuses one is in its log only."""

    model_config = ConfigDict(frozen=True)

    clusters: str
    routes: str
    warming: tuple[str, ...]
    """Clusters that wait for their first health check."""
    active: tuple[str, ...]
    """Clusters that serve."""

    def runs(self, document: dict[str, Any]) -> bool:
        """True if Envoy runs exactly these clusters.

        An Envoy that started without clusters regards another document without any as no change, and still names no
        version (1.40).
        """
        same = self.clusters == document["version_info"] or not (document["resources"] or self.active)
        return same and not self.warming


class Admin:
    """A client of Envoy's admin interface, on a socket that only this user can open.

    Args:
        socket: of the interface.
        config: the bootstrap file; it distinguishes our Envoy from any other.
    """

    def __init__(self, socket: Path, config: Path) -> None:
        self._socket, self.config = socket, config
        self._clients: dict[str, httpx.Client] = {}

    @property
    def address(self) -> str:
        """The socket; or, of an Envoy that an older Weighbridge started and no `up` has restarted, its port's URL."""
        return str(self._socket) if self._socket.exists() else self.old_address or str(self._socket)

    @property
    def old_address(self) -> str:
        """URL of the interface, if the bootstrap file on disk is of an older Weighbridge; else empty."""
        try:
            address = json.loads(self.config.read_bytes())["admin"]["address"]["socket_address"]
            return f"http://{address['address']}:{address['port_value']}"
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def up(self) -> bool:
        """True if our Envoy runs and has finished starting."""
        try:
            info = self._get("/server_info")
        except GatewayFailed:
            return False
        options = info.get("command_line_options", {})
        return info.get("state") == "LIVE" and options.get("config_path") == str(self.config)

    def configuration(self) -> EnvoyConfiguration:
        """Read which configuration Envoy runs.

        Raises:
            GatewayFailed: Envoy does not answer.
        """
        parts = {part["@type"].rsplit(".", 1)[-1]: part for part in self._get("/config_dump")["configs"]}
        clusters = parts.get("ClustersConfigDump", {})
        routes = parts.get("RoutesConfigDump", {}).get("dynamic_route_configs", [])
        line_routes = [entry for entry in routes if entry.get("route_config", {}).get("name") == ROUTE_CONFIGURATION]
        warming = clusters.get("dynamic_warming_clusters", [])
        active = clusters.get("dynamic_active_clusters", [])
        return EnvoyConfiguration(
            clusters=clusters.get("version_info", ""),
            routes=line_routes[0].get("version_info", "") if line_routes else "",
            warming=tuple(entry["cluster"]["name"] for entry in warming if "cluster" in entry),
            active=tuple(entry["cluster"]["name"] for entry in active if "cluster" in entry),
        )

    def reopen_logs(self) -> None:
        """Have Envoy write to new log files, after the old ones were renamed; an Envoy that is down does so anyway."""
        import httpx

        with suppress(httpx.HTTPError):
            self._client(self.address).post("/reopen_logs")

    def counters(self, cluster: str) -> BackendCounters:
        """Read the counters of a cluster.

        Raises:
            GatewayFailed: Envoy does not answer or does not run this cluster.
        """
        prefix = f"cluster.{cluster}."
        answer = self._get("/stats", {"format": "json", "filter": f"^{re.escape(prefix)}(upstream|membership)_"})
        counts = {
            entry["name"].removeprefix(prefix): int(entry["value"]) for entry in answer["stats"] if "value" in entry
        }
        if "membership_healthy" not in counts:
            raise GatewayFailed(
                f"The gateway does not run {cluster}.",
                "Run `weighbridge promote` again; it brings the gateway to what the registry asks for.",
                where=self.address,
            )
        return BackendCounters(
            requests=counts.get("upstream_rq_completed", 0),
            errors_5xx=counts.get("upstream_rq_5xx", 0),
            broken=counts.get("upstream_cx_destroy_remote_with_active_rq", 0),
            active=counts.get("upstream_rq_active", 0) + counts.get("upstream_rq_pending_active", 0),
            sent=counts.get("upstream_rq_total", 0),
            waiting=counts.get("upstream_rq_pending_active", 0),
            healthy=counts["membership_healthy"] > 0,
        )

    def client_counts(self) -> dict[tuple[str, str], ClientCounts]:
        """Read responses to clients by line and version; the version is empty where no engine was chosen.

        Raises:
            GatewayFailed: Envoy does not answer.
        """
        sums: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for entry in self._get("/stats", {"format": "json", "filter": r"^weighbridge\."})["stats"]:
            if (count := _COUNT.fullmatch(entry.get("name", ""))) and count["line"]:
                totals = sums[count["line"], count["version"]]
                totals["tokens" if count["status"] is None else "answers"] += entry["value"]
                totals["errors"] += entry["value"] if (count["status"] or "").startswith("5") else 0
        return {key: ClientCounts(**counts) for key, counts in sums.items()}

    def client_requests(self) -> int:
        """Number of clients' requests in progress.

        Raises:
            GatewayFailed: Envoy does not answer.
        """
        answer = self._get("/stats", {"format": "json", "filter": r"^http\.gateway\.downstream_rq_active$"})
        return sum(int(entry["value"]) for entry in answer["stats"] if "value" in entry)

    def _client(self, address: str) -> httpx.Client:
        import httpx  # takes half a second, which callers without Envoy need not spend

        if address not in self._clients:
            is_url = address.startswith("http://")
            # A proxy from the environment is not for this address.
            self._clients[address] = httpx.Client(
                base_url=address if is_url else "http://envoy",
                transport=httpx.HTTPTransport(uds=None if is_url else address, trust_env=False),
                timeout=ANSWER_SECONDS,
                trust_env=False,
            )
        return self._clients[address]

    def _get(self, path: str, params: dict[str, str] | None = None) -> dict[str, Any]:
        import httpx

        address = self.address
        try:
            answer = self._client(address).get(path, params=params)
            return dict(answer.raise_for_status().json())
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            raise GatewayFailed(
                f"The gateway does not answer: {error or type(error).__name__}.",
                "Start the stack with `weighbridge up`, or see why with `weighbridge status`.",
                where=address,
            ) from None
