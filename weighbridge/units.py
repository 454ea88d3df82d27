"""Units that every room counts in."""

GIB = 2**30
"""Bytes in a GiB, as drivers and engines count."""


def duration(seconds: float) -> str:
    """Write a duration in the largest unit of which it has one and a half, such as `33 min`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
