"""An installation: its settings, its artifact store and its registry, made once and handed to every step.

`tasks/serve/installation.py` adds the gateway and the fleet.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self

from registry.models.registry import Registry
from registry.store import Store
from weighbridge.settings import Settings, load_settings


class Installation:
    """What the rooms below serving work with.

    Args:
        settings: of the installation; the others are made from them at first use.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def load(cls) -> Self:
        """The installation that the environment names.

        Raises:
            SettingsInvalid: a variable has a value that cannot be used.
        """
        return cls(load_settings())

    @cached_property
    def store(self) -> Store:
        """The artifact store."""
        return Store(self.settings.store_folder, self.settings.store_url)

    @cached_property
    def registry(self) -> Registry:
        """The lines' models in MLflow."""
        return Registry(self.settings)

    def __getstate__(self) -> dict[str, Any]:
        # Steps may run in other processes; connections do not travel.
        return {"settings": self.settings}
