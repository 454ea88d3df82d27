"""Waiting for another process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_for(condition: Callable[[], Found], description: str | Callable[[], str] = "", seconds: float = 120) -> Found:
    """Poll until a condition holds.

    Args:
        condition: Polled until it returns a true value.
        description: Explanation for the failure, or a function that returns it.
        seconds: Longest wait.

    Returns:
        What the condition returned.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(
                f"waited {seconds:.0f} s in vain: {description() if callable(description) else description}"
            )
        time.sleep(0.05)
    return found
