"""Free ports for the servers that a test starts."""

from __future__ import annotations

import os
import random
import socket
from contextlib import ExitStack

FIRST, LAST = 20000, 32000
"""Below the range from which Linux takes ports for outgoing connections (32768 to 60999 unless set otherwise). A port
of that range may be free now and taken before its server listens."""


def own_range() -> tuple[int, int]:
    """Range of this test process; the processes beside it have other ranges."""
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    size = (LAST - FIRST) // int(workers)
    first = FIRST + size * int(worker.removeprefix("gw"))
    return first, first + size


def free_port() -> int:
    """Find a port that is free at the moment."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Find consecutive ports that are free at the moment."""
    lowest, highest = own_range()
    while True:
        first = random.randrange(lowest, highest - count)
        ports = list(range(first, first + count))
        try:
            with ExitStack() as stack:
                for port in ports:
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
        except OSError:
            continue
        return ports
