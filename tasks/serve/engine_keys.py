"""The keys of engines: one a started engine, known to the gateway and to our own probes.

A key is a file of mode 0600 in the engine's folder, made when the engine is registered, so that it survives restarts
and goes with the engine. An engine of an older Weighbridge, or of a kind that takes no key, has none.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from weighbridge.files import write_whole
from weighbridge.settings import Settings

FILE = "key"


class EngineKeys:
    """The keys of an installation's engines.

    Args:
        settings: the installation.
    """

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.home / "engines"

    def make(self, engine: str) -> str:
        """Make an engine's key.

        Args:
            engine: its name in the fleet.
        """
        key = secrets.token_urlsafe(32)
        write_whole(self._file(engine), key)
        return key

    def of(self, engine: str) -> str:
        """Return an engine's key; empty if it has none.

        Args:
            engine: its name in the fleet; empty in routes of an older version.
        """
        try:
            return self._file(engine).read_text() if engine else ""
        except FileNotFoundError:
            return ""

    def _file(self, engine: str) -> Path:
        return self._folder / engine / FILE
