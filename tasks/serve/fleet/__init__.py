"""Where engines run: supervised processes on this machine."""
