"""Ports of this machine."""

from __future__ import annotations

import socket


def port_is_free(host: str, port: int) -> bool:
    """True if no process listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
