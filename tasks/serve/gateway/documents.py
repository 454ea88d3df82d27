"""The documents that Envoy reads while it runs, `discovery/cds.json` and `rds.json`: written, and awaited.

Clusters are added before the routes that name them and removed after these, so that no route leads nowhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.serve.gateway.admin import Admin, EnvoyConfiguration
from tasks.serve.gateway.clusters import EngineKey, clusters_document
from tasks.serve.gateway.discovery import routes_document
from tasks.serve.gateway.files import as_json
from tasks.serve.gateway.keys import Keys
from tasks.serve.gateway.routes import Routes
from weighbridge.errors import GatewayFailed
from weighbridge.files import write_whole

TAKE_SECONDS = 20.0
"""Longest time that Envoy may take for one document: usually milliseconds, but 10 s for a new cluster that never
answers its first health check."""

POLL_SECONDS = 0.05


class Documents:
    """The documents' folder.

    Args:
        folder: nothing else may lie there, because Envoy reads its documents again whenever a file is moved into it.
        admin: of the Envoy that reads the documents.
        engine_key: returns the key of an engine by its name.
    """

    def __init__(self, folder: Path, admin: Admin, engine_key: EngineKey) -> None:
        self.folder, self._admin, self._engine_key = folder, admin, engine_key

    def write(self, name: str, document: dict[str, Any]) -> None:
        """Replace a document."""
        write_whole(self.folder / name, as_json(document))

    def write_all(self, routes: Routes, keys: Keys) -> None:
        """Write all documents for an Envoy that starts later."""
        self.write("cds.json", clusters_document(routes, engine_key=self._engine_key))
        self.write("rds.json", routes_document(routes, keys))

    def apply(self, routes: Routes, keys: Keys) -> None:
        """Make the running Envoy use these routes and keys.

        Raises:
            GatewayFailed: it did not take them in time.
        """
        clusters, paths = clusters_document(routes, engine_key=self._engine_key), routes_document(routes, keys)
        first = clusters_document(routes, self._present_clusters(), self._engine_key)
        self.write("cds.json", first)
        self._await(lambda running: running.runs(first), "clusters")
        self.write("rds.json", paths)
        self._await(lambda running: running.routes == paths["version_info"], "routes")
        if clusters != first:
            self.write("cds.json", clusters)
            self._await(lambda running: running.runs(clusters), "clusters")

    def _present_clusters(self) -> tuple[dict[str, Any], ...]:
        path = self.folder / "cds.json"
        return tuple(json.loads(path.read_text())["resources"]) if path.is_file() else ()

    def _await(self, done: Callable[[EnvoyConfiguration], bool], what: str) -> None:
        deadline = time.monotonic() + TAKE_SECONDS
        while not done(running := self._admin.configuration()):
            if time.monotonic() >= deadline:
                waiting = f" ({', '.join(running.warming)} not ready)" if running.warming else ""
                raise GatewayFailed(
                    f"The gateway did not take the new {what} within {TAKE_SECONDS:.0f} seconds{waiting}.",
                    "Look for 'rejected' in Envoy's log (`weighbridge logs gateway`); the previous routes still serve.",
                    where=str(self.folder),
                )
            time.sleep(POLL_SECONDS)
