"""Units that every room counts in."""

GIB = 2**30
"""Bytes in a GiB, as drivers and engines count."""
