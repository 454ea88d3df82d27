"""What Envoy reads while it runs, `discovery/cds.json` and `rds.json`: written, and awaited until Envoy runs it.

Clusters come before the routes that name them and go after these, so that no request meets a route into nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.serve.gateway.admin import Admin, Taken
from tasks.serve.gateway.discovery import clusters_document, routes_document
from tasks.serve.gateway.files import as_json
from tasks.serve.gateway.keys import Keys
from tasks.serve.gateway.routes import Routes
from weighbridge.errors import GatewayFailed
from weighbridge.files import write_whole

TAKE_SECONDS = 20.0
"""How long Envoy may take over one document: milliseconds, but 10 s for a new cluster that never answers its
first health check."""

POLL_SECONDS = 0.05


class Documents:
    """The documents' folder.

    Args:
        folder: Envoy reads its documents again whenever anything moves into it: nothing else lies there.
        admin: of the Envoy that reads them.
    """

    def __init__(self, folder: Path, admin: Admin) -> None:
        self.folder, self._admin = folder, admin

    def write(self, name: str, document: dict[str, Any]) -> None:
        """Replace a document."""
        write_whole(self.folder / name, as_json(document))

    def leave(self, routes: Routes, keys: Keys) -> None:
        """Write all for an Envoy that starts later."""
        self.write("cds.json", clusters_document(routes))
        self.write("rds.json", routes_document(routes, keys))

    def apply(self, routes: Routes, keys: Keys) -> None:
        """Bring the running Envoy to these routes and keys.

        Raises:
            GatewayFailed: it did not take them in time.
        """
        clusters, paths = clusters_document(routes), routes_document(routes, keys)
        first = clusters_document(routes, leaving=self._present_clusters())
        self.write("cds.json", first)
        self._await(lambda taken: taken.runs(first), "clusters")
        self.write("rds.json", paths)
        self._await(lambda taken: taken.routes == paths["version_info"], "routes")
        if clusters != first:
            self.write("cds.json", clusters)
            self._await(lambda taken: taken.runs(clusters), "clusters")

    def _present_clusters(self) -> tuple[dict[str, Any], ...]:
        path = self.folder / "cds.json"
        return tuple(json.loads(path.read_text())["resources"]) if path.is_file() else ()

    def _await(self, done: Callable[[Taken], bool], what: str) -> None:
        deadline = time.monotonic() + TAKE_SECONDS
        while not done(taken := self._admin.taken()):
            if time.monotonic() >= deadline:
                waiting = f" ({', '.join(taken.warming)} not ready)" if taken.warming else ""
                raise GatewayFailed(
                    f"The gateway did not take the new {what} within {TAKE_SECONDS:.0f} seconds{waiting}.",
                    "Look for 'rejected' in Envoy's log (`weighbridge logs gateway`); what served before serves on.",
                    where=str(self.folder),
                )
            time.sleep(POLL_SECONDS)
