"""An installation's secrets, encrypted by a passphrase: in memory only, from their files to the backup and back.

scrypt (N = 2^17, r = 8, p = 1: 128 MiB and about half a second for each guess) makes the key, AES-256-GCM encrypts and
authenticates. Salt and nonce are random. Both are of `cryptography`. The parameters stand before the encrypted bytes
and are authenticated with them, so that later versions may choose others.
"""

from __future__ import annotations

import base64
import json
import secrets as random
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from registry.accounts import own_key_file, password_file
from registry.signing import KEYS_FOLDER, KeyPair
from registry.signing.keys import PUBLIC
from registry.signing.ring import RING
from weighbridge import prefect_api
from weighbridge.errors import PassphraseUnusable, PassphraseWrong
from weighbridge.files import READABLE, write_whole
from weighbridge.settings import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SHORTEST_PASSPHRASE = 12
"""Characters. A guess costs a thief half a second of a processor: eight letters fall within days, four words do not."""
LARGEST_BYTES = 32 << 20
"""Of all secrets together; the list of what was ever signed is the only one that grows."""
LOG2_N = 17
"""Of scrypt's N in new backups."""
KEY_BYTES, SALT_BYTES, NONCE_BYTES = 32, 16, 12
FOLDERS = (KEYS_FOLDER, "mlflow", "webhook", "gateway", "prefect")
"""Folders of the home that hold secrets."""
_FILES = TypeAdapter(dict[str, str])

Secrets = dict[str, bytes]
"""Content of each secret's file, by its path below the home."""


class Parameters(BaseModel):
    """How the key is made of the passphrase; bounded, because a forged backup may name others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kdf: str = Field("scrypt", pattern="^scrypt$")
    cipher: str = Field("AES-256-GCM", pattern="^AES-256-GCM$")
    log2_n: int = Field(ge=14, le=20)
    r: int = Field(8, ge=8, le=16)
    p: int = Field(1, ge=1, le=4)
    salt: str = Field(pattern=r"^[0-9a-f]{32}$")
    nonce: str = Field(pattern=r"^[0-9a-f]{24}$")

    def key(self, passphrase: str) -> AESGCM:
        """Make the key."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        salt = bytes.fromhex(self.salt)
        return AESGCM(
            Scrypt(salt=salt, length=KEY_BYTES, n=1 << self.log2_n, r=self.r, p=self.p).derive(passphrase.encode())
        )


def secret_files(settings: Settings) -> dict[str, Path]:
    """List the files of an installation's secrets, by their paths below the home.

    They are the signing keys with the ring, the clients' keys, the accounts' passwords, and the secrets that MLflow,
    its webhook and Prefect share with us. Keys of engines are made anew.
    """
    home = settings.home
    folders = (home / KEYS_FOLDER, password_file(settings, "any").parent, home / "webhook")
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    found += [home / "gateway" / "keys.json", home / "gateway" / "default.key", own_key_file(settings)]
    found += [home / "mlflow" / "flask.key", prefect_api.secret_file(settings)]
    not_secret = {".lock", "seen.json"}
    return {
        path.relative_to(home).as_posix(): path
        for path in found
        if path.is_file() and not path.is_symlink() and path.name not in not_secret
    }


def encrypt(files: dict[str, Path], passphrase: str) -> bytes:
    """Read secrets and encrypt them.

    Returns:
        One line of base64, without its end.

    Raises:
        PassphraseUnusable: It is too short.
    """
    require_strong(passphrase)
    parameters = Parameters(log2_n=LOG2_N, salt=random.token_hex(SALT_BYTES), nonce=random.token_hex(NONCE_BYTES))
    head = parameters.model_dump_json().encode()
    plain = json.dumps({name: base64.b64encode(path.read_bytes()).decode() for name, path in files.items()}).encode()
    cipher = parameters.key(passphrase).encrypt(bytes.fromhex(parameters.nonce), plain, head)
    return base64.b64encode(head + b"\n" + cipher)


def decrypt(encrypted: bytes, passphrase: str, source: Path) -> Secrets:
    """Decrypt secrets, into memory.

    Args:
        encrypted: What `encrypt` returned.
        passphrase: As it was given then.
        source: The backup's file, for messages.

    Raises:
        PassphraseWrong: It is not the passphrase that encrypted them, or somebody altered them.
    """
    from cryptography.exceptions import InvalidTag

    try:
        head, _, cipher = base64.b64decode(encrypted, validate=True).partition(b"\n")
        parameters = Parameters.model_validate_json(head)
        plain = parameters.key(passphrase).decrypt(bytes.fromhex(parameters.nonce), cipher, head)
        files = {name: base64.b64decode(text) for name, text in _FILES.validate_json(plain).items()}
    except (InvalidTag, ValueError, ValidationError, MemoryError):
        raise PassphraseWrong(
            "This passphrase does not open the secrets in this backup; nothing was changed.",
            "Type it again, or look for the one of the day when the backup was made. Without it, restore with "
            "--without-secrets where the `keys` folder is.",
            where=str(source),
        ) from None
    return {name: content for name, content in files.items() if _is_ours(name)}


def require_strong(passphrase: str) -> None:
    """Check a new passphrase.

    Raises:
        PassphraseUnusable: It is too short.
    """
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise PassphraseUnusable(
            f"The passphrase has {len(passphrase)} characters, and at least {SHORTEST_PASSPHRASE} are needed.",
            "Take four random words or more. Whoever has the file may guess for years.",
        )


def public_keys(secrets: Secrets, folder: Path) -> KeyPair:
    """Make keys for verifying of the public ones among secrets.

    Args:
        secrets: Of the backup.
        folder: A temporary folder for the public keys; no private one is written.
    """
    for name in (RING, PUBLIC):
        if (content := secrets.get(f"{KEYS_FOLDER}/{name}")) is not None:
            write_whole(folder / name, content, READABLE)
    return KeyPair(folder)


def _is_ours(name: str) -> bool:
    """Return whether a path stays below the home, in a folder that holds secrets."""
    parts = PurePosixPath(name).parts
    return ".." not in parts and parts[0] in FOLDERS
