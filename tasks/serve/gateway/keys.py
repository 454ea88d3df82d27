"""The API keys of the gateway's clients, by name: `keys.json`, which holds their digests and no key.

A key is 256 random bits, so that its plain SHA-256 cannot be inverted and needs no salt. Only the installation's own
key is kept in clear, in `default.key` (mode 0600); it is created at the first use.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, RootModel, StringConstraints, ValidationError

from tasks.serve.gateway.routes import NO_LIMITS, Limits
from weighbridge.errors import GatewayFailed, KeyNameInvalid
from weighbridge.files import write_whole
from weighbridge.validation import first_fault

DEFAULT = "default"

ClientName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]


class KeyRecord(BaseModel):
    """One client's key: its digest, its expiry and its limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the key")
    added: AwareDatetime
    expires: AwareDatetime | None = Field(None, description="time from which on it is refused")
    limits: Limits = Field(NO_LIMITS, description="over all lines together; where silent, each line's own hold")

    @property
    def expired(self) -> bool:
        """True if the key is refused by now."""
        return self.expires is not None and self.expires <= datetime.now(UTC)


class Keys(RootModel[dict[ClientName, KeyRecord]]):
    """Records of all keys, by client's name."""

    def add(self, name: str, record: KeyRecord) -> Keys:
        """Return these keys and one more.

        Raises:
            KeyNameInvalid: the name is invalid, or has a key already.
        """
        if name in self.root:
            raise KeyNameInvalid(
                f"{name} has a key already, which cannot be read any more.",
                f"Remove it with `weighbridge key remove {name}` and add it again, or choose another name.",
            )
        try:
            return Keys.model_validate({**self.root, name: record})
        except ValidationError as error:
            raise KeyNameInvalid(f"{name!r} cannot name a key: {first_fault(error)}.", "Choose another name.") from None

    def without(self, name: str) -> Keys:
        """Return these keys without one.

        Raises:
            KeyNameInvalid: there is no key of this name.
        """
        if name not in self.root:
            raise KeyNameInvalid(
                f"No API key is named {name}; there are: {', '.join(self.root) or 'none'}.", "Name one of these."
            )
        return Keys({other: record for other, record in self.root.items() if other != name})


def new_key() -> str:
    """Create a random key; its prefix lets scanners for leaked secrets recognize it."""
    return f"wb-{secrets.token_urlsafe(32)}"


def record_of(key: str, expires: datetime | None = None, limits: Limits = NO_LIMITS) -> KeyRecord:
    """Make the record of a key that is added now."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    return KeyRecord(sha256=digest, added=datetime.now(UTC).replace(microsecond=0), expires=expires, limits=limits)


class KeysFile:
    """`keys.json` and, beside it, the installation's own key.

    Args:
        folder: the gateway's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.own = folder / "keys.json", folder / "default.key"

    def load(self) -> Keys:
        """Read the keys; the first use creates the installation's own, named `default`.

        Raises:
            GatewayFailed: the file is not what this program writes.
        """
        try:
            return Keys.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            key = new_key()
            keys = Keys({DEFAULT: record_of(key)})
            # In this order: a process that is killed between the two leaves a key that the next one replaces.
            write_whole(self.own, f"{key}\n")
            self.save(keys)
            return keys
        except ValidationError as error:
            raise GatewayFailed(
                f"The gateway's keys cannot be read: {first_fault(error)}.",
                "Undo the edit; or delete the file, run `weighbridge up` and give every client a new key.",
                where=str(self.path),
            ) from None

    def save(self, keys: Keys) -> None:
        """Replace the file, readable by its owner only."""
        write_whole(self.path, keys.model_dump_json(indent=2))
        if DEFAULT not in keys.root:
            self.own.unlink(missing_ok=True)
