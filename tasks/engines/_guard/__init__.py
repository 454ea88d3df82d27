"""The check of an engine's key. Its module imports nothing of ours: engines in other environments load it."""
