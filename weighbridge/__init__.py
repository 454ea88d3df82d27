"""Weighbridge: a release line for open-weight language models. This package is what every room may know."""

__version__ = "0.1.0"
