"""Where engines run: an interface (protocol.py), and supervised processes on this machine (local.py)."""
