"""The gateway as the rollout sees it: say which version gets how much, and know when that is so.

A change is written down (`routes.json`), rendered for Envoy, and awaited: a method returns when Envoy
runs the change. Clusters come before the routes that name them and go after these, so that no request
meets a route into nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.serve.gateway.admin import Admin, BackendCounters, Taken
from tasks.serve.gateway.bootstrap import bootstrap_document, envoy_command
from tasks.serve.gateway.discovery import cluster_name, clusters_document, routes_document
from tasks.serve.gateway.files import as_json
from tasks.serve.gateway.keys import DEFAULT, Keys, load_keys, save_keys
from tasks.serve.gateway.routes import Backend, LineRoute, Routes, RoutesFile
from weighbridge.errors import GatewayFailed
from weighbridge.files import write_whole
from weighbridge.settings import Settings, load_settings

TAKE_SECONDS = 20.0
"""How long Envoy may take over one document: milliseconds, but 10 s for a new cluster that never answers its
first health check."""

POLL_SECONDS = 0.05
QUIET_SECONDS = 1.0
"""How long a backend must have had nothing to do: requests that Envoy routed just before a shift may still
be on their way from one of its threads to the backend."""


class Gateway:
    """The installation's gateway; several may be made, in several processes, at once.

    Args:
        settings: the installation's by default.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        self.folder = self.settings.home / "gateway"
        # Envoy reads its documents again whenever anything moves into their folder: nothing else lies there.
        self._documents = self.folder / "discovery"
        self._file = RoutesFile(self.folder)
        self._admin = Admin(self.settings.gateway_admin_url, self.folder / "envoy.json")

    # --- starting ---------------------------------------------------------------------------

    def bootstrap(self) -> Path:
        """Write everything that Envoy starts from, rendered anew from the routes; harmless while it runs.

        Returns:
            The file for `envoy -c`.
        """
        self.settings.logs_folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "envoy.json"
        with self._file.writing():
            write_whole(config, as_json(bootstrap_document(self.settings, self._documents)))
            self._render(self._file.load(), wait=False)
        return config

    def envoy_command(self) -> list[str]:
        """The command line that runs Envoy in the foreground, after `bootstrap()`."""
        return envoy_command(self.folder / "envoy.json")

    def health(self) -> bool:
        """Whether Envoy runs with our configuration and answers clients."""
        import httpx  # half a second that callers without Envoy need not pay

        if not self._admin.up():
            return False
        try:
            return httpx.get(f"{self.settings.gateway_url}/healthz", timeout=5, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    # --- routes -----------------------------------------------------------------------------

    def routes(self) -> Routes:
        """What is meant to be served, whether or not Envoy runs."""
        return self._file.load()

    def set_line(self, line: str, backends: Sequence[Backend], *, wait: bool = True) -> None:
        """Give a line exactly these backends and weights.

        Args:
            wait: whether Envoy must be there to take it; otherwise it takes it when it starts.

        Raises:
            GatewayFailed: the backends contradict each other, Envoy is not up (nothing is changed then), or
                it did not take the change in time (the change stays written down: repeat it or write another).
        """
        self._change(line, lambda _: tuple(backends), wait)

    def shift(self, line: str, weights: dict[str, int], *, wait: bool = True) -> None:
        """Share a line's requests out anew among the backends that it has.

        Args:
            weights: version to per cent, 100 in all, or 0 for none; versions not named get nothing.

        Raises:
            GatewayFailed: the line has no such version; else as `set_line`.
        """

        def shifted(route: LineRoute) -> tuple[Backend, ...]:
            for version in weights:
                route.backend(version)
            return tuple(
                backend.model_copy(update={"weight": weights.get(backend.version, 0)}) for backend in route.backends
            )

        self._change(line, shifted, wait)

    def remove_backend(self, line: str, version: str, *, wait: bool = True) -> None:
        """Take a drained backend away; one that is not there is no matter.

        Raises:
            GatewayFailed: it still gets requests or still answers some; else as `set_line`.
        """

        def without(route: LineRoute) -> tuple[Backend, ...]:
            if version not in [backend.version for backend in route.backends]:
                return route.backends
            if weight := route.backend(version).weight:
                raise self._busy(line, version, f"gets {weight} per cent of the requests")
            if (wait or self._admin.up()) and (active := self.active_requests(line, version)):
                raise self._busy(line, version, f"still answers {active} requests")
            return tuple(backend for backend in route.backends if backend.version != version)

        self._change(line, without, wait)

    # --- what goes on -----------------------------------------------------------------------

    def counters(self, line: str, version: str) -> BackendCounters:
        """How a backend has fared since Envoy started.

        Raises:
            GatewayFailed: Envoy does not answer or does not run this version.
        """
        return self._admin.counters(cluster_name(line, version))

    def active_requests(self, line: str, version: str) -> int:
        """Requests that a backend is answering, streams included."""
        return self.counters(line, version).active

    def wait_drained(self, line: str, version: str, timeout_seconds: float) -> bool:
        """Wait until a backend has had nothing to do for QUIET_SECONDS.

        Returns:
            Whether that came within the time.

        Raises:
            GatewayFailed: the backend still gets new requests, or Envoy does not answer.
        """
        if weight := self.routes().line(line).backend(version).weight:
            raise self._busy(line, version, f"gets {weight} per cent of the requests")
        deadline = time.monotonic() + timeout_seconds
        quiet_since: float | None = None
        while True:
            now = time.monotonic()
            if self.active_requests(line, version):
                quiet_since = None
            else:
                quiet_since = now if quiet_since is None else quiet_since
                if now - quiet_since >= QUIET_SECONDS:
                    return True
            if now >= deadline:
                return False
            time.sleep(POLL_SECONDS)

    # --- keys -------------------------------------------------------------------------------

    def key(self, name: str = DEFAULT) -> str:
        """A client's API key; the first use of an installation makes the one named `default`.

        Raises:
            GatewayFailed: no client is called so.
        """
        keys = self._keys().root
        if name not in keys:
            raise GatewayFailed(
                f"No API key is named {name}; there are: {', '.join(keys) or 'none'}.",
                "Name one of these, or add it to the file and run `weighbridge up`.",
                where=str(self._key_file),
            )
        return keys[name]

    def add_key(self, name: str, *, wait: bool = True) -> str:
        """A client's API key, made if there is none of that name, and known to Envoy on return.

        Raises:
            GatewayFailed: the name cannot be used; else as `set_line`.
        """
        self._require_up(wait)
        keys = self._keys()
        with self._file.writing():
            try:
                keys = Keys.model_validate(keys.add(name).root)
            except ValidationError as error:
                raise GatewayFailed(
                    f"{name!r} cannot name a key: {error.errors()[0]['msg']}.", "Choose another name."
                ) from None
            save_keys(self._key_file, keys)
            self._render(self._file.load(), wait)
        return keys.root[name]

    # --- behind the door --------------------------------------------------------------------

    @property
    def _key_file(self) -> Path:
        return self.folder / "keys.json"

    def _keys(self) -> Keys:
        if self._key_file.exists():
            return load_keys(self._key_file)
        with self._file.writing():
            return load_keys(self._key_file)

    def _change(self, line: str, backends: Callable[[LineRoute], tuple[Backend, ...]], wait: bool) -> None:
        self._require_up(wait)
        with self._file.writing():
            before = self._file.load()
            try:
                route = LineRoute(line=line, backends=backends(before.line(line)))
                # Copies made by `shift` have not been checked yet.
                route = LineRoute.model_validate(route.model_dump())
            except ValidationError as error:
                raise GatewayFailed(
                    f"This route of {line} cannot be: {error.errors()[0]['msg']}.",
                    "Name every version once, with weights that sum to 100 or to 0.",
                    where=line,
                ) from None
            after = before
            if route != before.line(line) or line not in [known.line for known in before.lines]:
                after = before.with_line(route)
                self._file.save(after)
            # Rendered even when nothing changed: the writer before may have been killed between the two.
            self._render(after, wait)

    def _require_up(self, wait: bool) -> None:
        if wait and not self._admin.up():
            raise GatewayFailed(
                "The gateway is not up.",
                "Start the stack with `weighbridge up`, then run the command again.",
                where=self._admin.url,
            )

    def _render(self, routes: Routes, wait: bool) -> None:
        """Bring Envoy to the routes, or only its files when it is not there."""
        keys = load_keys(self._key_file)
        clusters, paths = clusters_document(routes), routes_document(routes, keys)
        if not wait and not self._admin.up():
            self._write("cds.json", clusters)
            self._write("rds.json", paths)
            return
        first = clusters_document(routes, leaving=self._present_clusters())
        self._write("cds.json", first)
        self._await(lambda taken: taken.runs(first), "clusters")
        self._write("rds.json", paths)
        self._await(lambda taken: taken.routes == paths["version_info"], "routes")
        if clusters != first:
            self._write("cds.json", clusters)
            self._await(lambda taken: taken.runs(clusters), "clusters")

    def _write(self, name: str, document: dict[str, Any]) -> None:
        write_whole(self._documents / name, as_json(document))

    def _present_clusters(self) -> tuple[dict[str, Any], ...]:
        path = self._documents / "cds.json"
        return tuple(json.loads(path.read_text())["resources"]) if path.is_file() else ()

    def _await(self, done: Callable[[Taken], bool], what: str) -> None:
        deadline = time.monotonic() + TAKE_SECONDS
        while not done(taken := self._admin.taken()):
            if time.monotonic() >= deadline:
                waiting = f" ({', '.join(taken.warming)} not ready)" if taken.warming else ""
                raise GatewayFailed(
                    f"The gateway did not take the new {what} within {TAKE_SECONDS:.0f} seconds{waiting}.",
                    f"Look for 'rejected' in Envoy's log in {self.settings.logs_folder}; what served before serves on.",
                    where=str(self._documents),
                )
            time.sleep(POLL_SECONDS)

    @staticmethod
    def _busy(line: str, version: str, why: str) -> GatewayFailed:
        return GatewayFailed(
            f"Version {version} of {line} {why}.",
            "Shift its requests to another version and wait until it is drained.",
            where=f"{line}@{version}",
        )
