"""Serving: engines and where they run, the gateway, and how traffic moves between versions."""
