"""Ports for what a test starts."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

FIRST, LAST = 20000, 32000
"""Below the range from which Linux gives ports to outgoing connections (32768 to 60999 unless set otherwise): a port
of that range may be free now and taken when the server that it was meant for has come as far as to listen."""


def free_port() -> int:
    """A port that nobody has just now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Ports in a row that nobody has just now."""
    while True:
        first = random.randrange(FIRST, LAST - count)
        ports = list(range(first, first + count))
        try:
            with ExitStack() as stack:
                for port in ports:
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
        except OSError:
            continue
        return ports
