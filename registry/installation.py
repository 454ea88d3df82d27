"""An installation: its settings, artifact store, registry, audit log and outbox, made once and handed to every step.

`tasks/serve/installation.py` adds the gateway and the fleet.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self

from registry.audit import AuditLog
from registry.models.outbox import Outbox
from registry.models.registry import Registry
from registry.signing import KeyPair
from registry.store import Artifact, Store
from registry.watch.ledger import Ledger
from weighbridge.settings import Settings, load_settings


class Installation:
    """Everything that a step below serving works with.

    Args:
        settings: Settings of the installation. The parts are made from them at first use.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def load(cls) -> Self:
        """Load the installation that the environment names.

        Raises:
            SettingsInvalid: A variable has a value that cannot be used.
        """
        return cls(load_settings())

    @cached_property
    def store(self) -> Store:
        """The artifact store."""
        return Store.of(self.settings)

    @property
    def keys(self) -> KeyPair:
        """Keys that artifacts and verdicts are signed and verified with."""
        return KeyPair.of(self.settings)

    @cached_property
    def registry(self) -> Registry:
        """The registered models in MLflow."""
        return Registry(self.settings, self.audit_log)

    @cached_property
    def audit_log(self) -> AuditLog:
        """The log of every change of what serves."""
        return AuditLog.of(self.settings)

    @cached_property
    def outbox(self) -> Outbox:
        """Releases that were weighed while MLflow did not answer."""
        return Outbox.of(self.settings)

    def production_artifact(self, line_name: str) -> Artifact | None:
        """Find the artifact that the registry says is in production, or None.

        Raises:
            ArtifactMissing: The store no longer has it.
            StackDown: MLflow does not answer.
        """
        production = self.registry.production(line_name)
        return self.store.get(line_name, self.registry.approved_digest(production)) if production else None

    def ledger(self, line_name: str) -> Ledger:
        """Open the watch's ledger of a line."""
        return Ledger.of(self.settings, line_name)

    def __getstate__(self) -> dict[str, Any]:
        # Steps may run in other processes, and connections cannot be sent there.
        return {"settings": self.settings}
