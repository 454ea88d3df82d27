"""How a restore puts things into their places. Each is replaced by a rename, and what was there is moved aside.

A note in the home says that this has begun. It outlives a kill: until the same restore is run to its end, `up` refuses
to start from a home that is half of one installation and half of another.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from registry.backup.archive import Contents
from registry.backup.create import AUDIT_FILE, AUTH_FILE, MLFLOW_FILES
from registry.backup.databases import database_of
from registry.backup.production import RESTORED_ROUTES, ROOT, ROUTES_FILE, WATCH
from registry.backup.secrets import Secrets
from registry.signing import KEYS_FOLDER
from weighbridge.errors import RestoreUnfinished
from weighbridge.files import READABLE, write_whole
from weighbridge.settings import Settings

MEMBERS = "members"
HEAD_FILE = "audit/head.json"
NOTE = "restoring"


def begin(settings: Settings, backup_sha256: str) -> None:
    """Note that a restore has begun to replace things."""
    write_whole(settings.home / NOTE, backup_sha256)


def end(settings: Settings) -> None:
    """Note that it is complete."""
    (settings.home / NOTE).unlink(missing_ok=True)


def is_unfinished(settings: Settings, backup_sha256: str) -> bool:
    """Return whether a restore of this backup has begun here and not ended."""
    note = settings.home / NOTE
    return note.is_file() and note.read_text() == backup_sha256


def require_whole(settings: Settings) -> None:
    """Check that no restore was killed in the middle.

    Raises:
        RestoreUnfinished: One was.
    """
    if (settings.home / NOTE).exists():
        raise RestoreUnfinished(
            "A restore into this home was killed before its end.",
            "Run the same `weighbridge restore FILE` again; it goes on where it was.",
            where=str(settings.home),
        )


def existing_places(settings: Settings, contents: Contents, secrets: Secrets | None, *, own_keys: bool) -> list[str]:
    """List what a restore would replace beside the database: other content in the same place."""
    places = [name for name in _members_of(contents) if os.path.lexists(settings.home / name)]
    if contents.weights and os.path.lexists(settings.home / ROUTES_FILE):
        places.append(ROUTES_FILE)
    placed = _placed(secrets, own_keys=own_keys)
    places += [name for name, content in placed.items() if _differs(settings.home / name, _sha256(content))]
    places += [
        str(_place(settings, name))
        for name, sha256 in contents.sha256.items()
        if name.startswith(f"{ROOT}/") and _differs(_place(settings, name), sha256)
    ]
    return places


def put_back(
    settings: Settings, contents: Contents, secrets: Secrets | None, folder: Path, aside: Path, *, own_keys: bool
) -> None:
    """Put everything into its place.

    Args:
        settings: Settings of the installation.
        contents: Of the backup.
        secrets: Decrypted, if they are to be restored.
        folder: With the backup's members.
        aside: Folder for what was there.
        own_keys: Whether this installation has the keys that signed the backup. They may be newer than those in it,
            and stay.
    """
    database = database_of(settings)
    database.load(folder / database.member, aside / "mlflow")
    # The note of the old log's head would contradict the log that is put back.
    if os.path.lexists(settings.home / HEAD_FILE):
        _move(settings.home / HEAD_FILE, aside / HEAD_FILE)
    for name in _members_of(contents):
        _put(folder / name, settings.home / name, aside / name)
    for name, content in _placed(secrets, own_keys=own_keys).items():
        place = settings.home / name
        if not _differs(place, _sha256(content), missing=True):
            continue
        if os.path.lexists(place):
            _move(place, aside / name)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(place, content)
    for name, sha256 in contents.sha256.items():
        if name.startswith(f"{ROOT}/") and _differs(place := _place(settings, name), sha256, missing=True):
            if os.path.lexists(place):
                _move(place, aside / name)
            write_whole(place, (folder / name).read_bytes(), READABLE)
    if ROUTES_FILE in contents.sha256:
        if os.path.lexists(settings.home / ROUTES_FILE):
            _move(settings.home / ROUTES_FILE, aside / ROUTES_FILE)
        write_whole(settings.home / RESTORED_ROUTES, (folder / ROUTES_FILE).read_bytes())


def _placed(secrets: Secrets | None, *, own_keys: bool) -> Secrets:
    """Return the secrets that are put back: of the installation's own keys none, which may be newer."""
    keys = f"{KEYS_FOLDER}/"
    return {name: content for name, content in (secrets or {}).items() if not (own_keys and name.startswith(keys))}


def _members_of(contents: Contents) -> list[str]:
    """List what a backup puts back beside the database: files, or folders of them."""
    names = contents.sha256
    return [
        place
        for place in (MLFLOW_FILES, AUTH_FILE, AUDIT_FILE, WATCH)
        if place in names or any(name.startswith(f"{place}/") for name in names)
    ]


def _place(settings: Settings, name: str) -> Path:
    return settings.root / name.removeprefix(f"{ROOT}/")


def _differs(place: Path, sha256: str, *, missing: bool = False) -> bool:
    """Return whether something else is in a place.

    Args:
        place: The place.
        sha256: Hash of the right content.
        missing: What to return where there is nothing.
    """
    if not os.path.lexists(place):
        return missing
    return not place.is_file() or _sha256(place.read_bytes()) != sha256


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _put(new: Path, place: Path, aside: Path) -> None:
    if os.path.lexists(place):
        _move(place, aside)
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.move(new, place)


def _move(place: Path, aside: Path) -> None:
    aside.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # The project's root may be on another disk than the home.
    shutil.move(place, aside)
