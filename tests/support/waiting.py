"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_for(condition: Callable[[], Found], told: str | Callable[[], str] = "", seconds: float = 120) -> Found:
    """Poll until something is so.

    Args:
        condition: what it returns counts as so unless it is false.
        told: for the failure: what was waited for, or what gives the text that explains it.
        seconds: how long.

    Returns:
        What the condition returned.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain: {told() if callable(told) else told}")
        time.sleep(0.05)
    return found
