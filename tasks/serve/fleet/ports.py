"""Ports of this machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tasks.serve.endpoint import Endpoint
from weighbridge.errors import PortTaken
from weighbridge.health import answers

LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp (include/net/tcp_states.h)."""


def port_is_free(host: str, port: int) -> bool:
    """True if no process listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def require_own_listener(port: int, what: str) -> None:
    """Check that no process of another user listens on a port.

    Any user of the machine may take the port of an engine that ended, and would get what the gateway sends there.

    Args:
        port: of this machine.
        what: the engine that the port belongs to, for the message.

    Raises:
        PortTaken: one does.
    """
    strangers = listeners_of(port) - {os.getuid()}
    if strangers:
        raise PortTaken(
            f"Port {port} of {what} is held by a process of user {min(strangers)}, who gets no requests.",
            "Find and end that process; the next `weighbridge promote` starts the engine on another port.",
            where=f"port {port}",
        )


def listeners_of(port: int) -> set[int]:
    """User ids of the processes that listen on a port; none where the system does not tell."""
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            rows = Path("/proc/net", name).read_text().splitlines()[1:]
        except OSError:
            continue
        for columns in (row.split() for row in rows):
            if columns[3] == LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                found.add(int(columns[7]))
    return found


def answers_as_ours(endpoint: Endpoint, health_path: str, timeout_seconds: float = 2.0) -> bool:
    """True if a process of this user answers an engine's health check."""
    try:
        require_own_listener(endpoint.port, "an engine")
    except PortTaken:
        return False
    return answers(f"{endpoint.url}{health_path}", timeout_seconds)
