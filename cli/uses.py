"""What uses each artifact of the store: MLflow's aliases and versions, open candidates, and the fleet's engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.serve.installation import ServingInstallation

CLOSED = ("retired", "refused")
"""States of approved versions that are no targets of a rollback."""


def gather_uses(installation: ServingInstallation) -> dict[str, list[str]]:
    """Collect the uses of each digest: MLflow's aliases and open candidates, and the engines of the fleet.

    Raises:
        StackDown, RegistryFailed: MLflow does not answer.
    """
    from weighbridge.line import line_names
    from weighbridge.retired import is_retired

    uses: dict[str, list[str]] = {}
    engines = installation.fleet.engines()
    for engine in engines:
        uses.setdefault(engine.artifact.digest, []).append("engine")
    registry = installation.registry
    _require_answer(registry.tracking_uri)
    lines = {*line_names(), *(line for line, _ in installation.store.listed()), *(engine.line for engine in engines)}
    for line in sorted(lines):
        if is_retired(installation.settings, line):
            continue
        # Oldest first: the newest version decides about a digest that was approved twice.
        approved = {version.digest: version for version in registry.versions(line)}
        for alias, version in (("production", registry.production(line)), ("previous", registry.previous(line))):
            if version:
                uses.setdefault(version.digest, []).append(alias)
        for version in registry.candidates(line):
            after = approved.get(version.digest)
            if after is None or after.state not in CLOSED:
                uses.setdefault(version.digest, []).append(f"candidate {version.version}")
        for version in approved.values():
            if version.digest not in uses and version.state not in CLOSED:
                uses.setdefault(version.digest, []).append(f"version {version.version}")
    return uses


def _require_answer(address: str) -> None:
    """Fail before the import of MLflow's client, which takes seconds, if its server is down."""
    import socket
    from urllib.parse import urlsplit

    from weighbridge.errors import StackDown

    server = urlsplit(address)
    if server.scheme not in ("http", "https"):
        return
    try:
        socket.create_connection((server.hostname or "", server.port or 80), timeout=5).close()
    except OSError:
        raise StackDown(
            "The MLflow server does not answer, and it alone knows which artifacts are in use.",
            "Start the stack with `weighbridge up`, then run the same command again.",
            where=address,
        ) from None
