"""Sizes that every room counts in."""

GIB = 2**30
"""Bytes; what drivers and engines call GiB."""
