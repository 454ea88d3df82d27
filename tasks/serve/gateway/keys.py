"""The API keys of the gateway's clients, by name: `keys.json`, readable by its owner only."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

from pydantic import RootModel, StringConstraints, ValidationError, field_validator

from weighbridge.errors import GatewayFailed
from weighbridge.files import write_whole

DEFAULT = "default"


ClientName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
# What may stand in a header after "Bearer ".
Key = Annotated[str, StringConstraints(pattern=r"^[!-~]{8,512}$")]


class Keys(RootModel[dict[ClientName, Key]]):
    """Client's name to key; each key belongs to one client, so that the access log can name it."""

    @field_validator("root")
    @classmethod
    def _apart(cls, keys: dict[str, str]) -> dict[str, str]:
        if len(set(keys.values())) < len(keys):
            raise ValueError("two clients have the same key")
        return keys

    def add(self, name: str) -> Keys:
        """The same keys and a random one (256 bits) of this name, unless it is there."""
        return Keys({name: new_key(), **self.root})


def new_key() -> str:
    """A random key, recognizable to scanners for leaked secrets."""
    return f"wb-{secrets.token_urlsafe(32)}"


def load_keys(path: Path) -> Keys:
    """The keys; at the first use one is made, named `default`.

    Raises:
        GatewayFailed: the file is not an object of names and keys.
    """
    try:
        keys = Keys.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        keys = Keys({DEFAULT: new_key()})
        save_keys(path, keys)
    except ValidationError as error:
        raise GatewayFailed(
            f"The gateway's keys cannot be read: {error.errors()[0]['msg']}.",
            'Make the file an object of names and keys, such as {"default": "…"}, or delete it for a new key.',
            where=str(path),
        ) from None
    return keys


def save_keys(path: Path, keys: Keys) -> None:
    """Replace the file, readable by its owner only."""
    write_whole(path, keys.model_dump_json(indent=2))
