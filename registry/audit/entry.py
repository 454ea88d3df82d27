"""An entry of the audit log: its fields, its hash, and the one reader of a line."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict, ValidationError

from weighbridge.documents import RepeatedName, object_of

NOTHING = "0" * 64
"""The previous hash of the first entry."""
NOBODY = "(not signed in)"
"""Account in an entry of a server without accounts; no account may have this name."""
COPIED = "mlflow.create_model_version"
"""Action of the request that *Promote model* and `approve` send."""
ADMIT = "admit"
"""Action of the entry that an approval check leaves; `what` is the digest of the artifact that passed."""
REASON = "reason"
"""Action of the entry about a reason that was given after the approval; `what` is the digest of the artifact."""
RESTORED = "restored"
"""Action of the entry that a restore writes; `what` names the head that the log had before."""
FOUND = "found"
"""Action of an entry about a change that Weighbridge did not see itself make."""
CLOCKS_DIFFER = timedelta(minutes=5)
"""Between MLflow's server, which dates a version, and this machine, which dates the log."""
LONGEST_TEXT = 4000
"""Characters of a field that are kept; a reason has a few hundred."""
LONGEST_LINE = 1_000_000
"""Bytes of a line that is read as an entry."""


class Entry(BaseModel):
    """One change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    """Counts from 1, without a gap."""
    at: str
    """ISO 8601, UTC."""
    who: str
    """Account that MLflow's server signed in (`NOBODY` if it has no accounts). In Weighbridge's own entries: the person
    who approved, else $WEIGHBRIDGE_USER, else the operating system's user."""
    action: str
    """approve, reason, override, admit, found, state, production, previous, restored, line retired, key added,
    key removed, key limit, signing key rotated, signing key revoked;
    `mlflow.<request>` in the server's entries."""
    line: str
    """Empty for a key, which is valid for all lines."""
    version: int | None
    """Version of the registered model `<line>`, or of `model` if that is set; None if no version is concerned, or none
    exists yet, as with an override."""
    what: str
    """The state, the digest, a key's name, end and limits, or the fields of the request."""
    reason: str
    model: str = ""
    """Registered model that the request named. Empty in Weighbridge's own entries, as are the next two."""
    address: str = ""
    """Network address of the client."""
    request: str = ""
    """The request's id, also in the header `X-Request-Id` of the answer."""
    previous: str
    """Hash of the previous entry."""
    hash: str
    """SHA-256 of all other fields as JSON with sorted names, without fields that have their default."""

    @property
    def expected_hash(self) -> str:
        """The hash that the entry must have."""
        # Fields that were added later are left out if empty, so that the hashes of older entries stay valid.
        content = json.dumps(self.model_dump(exclude={"hash"}, exclude_defaults=True), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def as_line(self) -> bytes:
        """The entry as it is written."""
        return self.model_dump_json(exclude_defaults=True).encode() + b"\n"


class Request(BaseModel):
    """Origin of a request to MLflow's server."""

    model_config = ConfigDict(frozen=True)

    model: str
    address: str
    id: str


class Unreadable(ValueError):
    """A line is no entry; the text says why."""


def read_entry(line: bytes) -> Entry:
    """Read one line, without its newline.

    Raises:
        Unreadable: It is no entry, or says something twice.
    """
    if not line.strip():
        raise Unreadable("is an empty line")
    if len(line) > LONGEST_LINE:
        raise Unreadable("is longer than any entry")
    try:
        entry = Entry.model_validate_json(line)
        # The hash covers one of two equal names only.
        json.loads(line, object_pairs_hook=object_of)
    except RepeatedName:
        raise Unreadable("has a field twice") from None
    except (ValidationError, ValueError, RecursionError):
        raise Unreadable("cannot be read") from None
    return entry


def clean(text: str) -> str:
    """Make a text fit for an entry: valid Unicode, and no longer than a person reads."""
    whole = text.encode("utf-8", "backslashreplace").decode()
    return whole if len(whole) <= LONGEST_TEXT else whole[: LONGEST_TEXT - 1] + "…"


def this_user() -> str:
    """Name who runs this process: $WEIGHBRIDGE_USER, else the system's user; `uid N` if the user has no name."""
    if named := os.environ.get("WEIGHBRIDGE_USER"):
        return named
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        # A container may run as any number.
        return f"uid {os.getuid()}"


def about_version(entries: Iterable[Entry], version: int, created_at_ms: int) -> Iterator[Entry]:
    """Pick a line's entries about a version of `<line>`, without those about an earlier one of its number.

    An emptied MLflow numbers its versions from 1 again.

    Args:
        entries: The line's.
        version: Number of the version.
        created_at_ms: When MLflow created it, milliseconds since 1970.
    """
    since = datetime.fromtimestamp(created_at_ms / 1000, UTC) - CLOCKS_DIFFER
    own = (entry for entry in entries if entry.version == version)
    return (entry for entry in own if datetime.fromisoformat(entry.at) >= since)
