"""Suggestions for misspelt names in messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that a misspelt one resembles.

    Args:
        name: As it was written.
        known: Names that could stand there.

    Returns:
        `; did you mean NAME?`, to end a sentence; empty if no known name is close. Case is ignored: `l4` means L4.
    """
    by_lowercase = {other.lower(): other for other in known}
    close = get_close_matches(name.lower(), by_lowercase, n=1)
    return f"; did you mean {by_lowercase[close[0]]}?" if close else ""
