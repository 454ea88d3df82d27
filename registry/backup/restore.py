"""Restore a backup. Everything is checked before anything is replaced, and replaced files are kept aside."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel, ConfigDict

from registry.audit import NOTHING, RESTORED, AuditLog, Head
from registry.audit.chain import Chain
from registry.audit.entry import LONGEST_LINE
from registry.backup.archive import Contents, unpack
from registry.backup.container import Archive, damaged, opened
from registry.backup.create import AUDIT_FILE, temporary_folder
from registry.backup.databases import database_of
from registry.backup.placing import MEMBERS, begin, end, existing_places, is_unfinished, put_back
from registry.backup.production import ServedVersion
from registry.backup.secrets import Secrets, decrypt, public_keys
from registry.backup.weights import Count, Progress, check_weights, no_progress, require_length, restore_weights
from registry.signing import KeyPair
from registry.store import Artifact, Store
from registry.store.local import SPARE_BYTES
from registry.witnesses import answers_of
from weighbridge.errors import AuditBroken, BackupFailed, BackupOutdated
from weighbridge.files import naming_a_full_disk
from weighbridge.settings import Settings

PREFIX = ".weighbridge-restore-"
FOLDERS = ("mlflow", "audit", "gateway", "keys", "prefect", "watch", "webhook")
"""Folders of the home that a restore writes into; the first two in any case."""


class Restored(BaseModel):
    """Result of a restore, or of a dry run."""

    model_config = ConfigDict(frozen=True)

    contents: Contents
    signed: bool
    """Whether a key of this installation, or one that the passphrase opened, signed the backup."""
    taken_back: str = ""
    """What this installation's audit log, or a witness of it, knew and the backup does not; empty for a newer one."""
    replaced: tuple[str, ...]
    """Names of what was replaced, and now lies in `aside`."""
    aside: str
    missing: tuple[Artifact, ...]
    """Artifacts of the backup's index whose weights this store does not hold."""
    serves: tuple[ServedVersion, ...] = ()
    """Versions that `up` starts."""
    secrets: bool = False
    """Whether secrets were, or would be, restored."""


def restore(
    settings: Settings,
    source: Path,
    *,
    replace: bool = False,
    dry_run: bool = False,
    unsigned: bool = False,
    rewind: bool = False,
    passphrase: Callable[[], str] | None = None,
    report: Callable[[str], None] = lambda _: None,
    progress: Progress = no_progress,
) -> Restored:
    """Put a backup's registry and audit log, and production if it is in it, into an installation whose stack is down.

    Args:
        settings: Settings of the installation.
        source: The backup.
        replace: Whether existing records are moved aside. Otherwise they are a reason to refuse.
        dry_run: Check everything and write nothing, not even a temporary file.
        unsigned: Whether a backup counts that no key of this installation signed.
        rewind: Whether a backup counts that lacks entries which this installation's audit log has.
        passphrase: Returns the passphrase of the secrets, if there are any; None: they are left out.
        report: Called with a sentence at each stage.
        progress: Called with (bytes read, bytes in all) while weights are read.

    Raises:
        BackupDamaged: A byte is altered or missing, or its audit log does not verify.
        BackupUnsigned: It is signed by no key of this installation.
        BackupOutdated: It would take back what the audit log of this installation has.
        BackupFailed: The installation has records and `replace` is not set, or it keeps them in another kind of
            database than the backup.
        PassphraseWrong: The passphrase does not open the secrets.
        DiskFull: The disk is full. Nothing was replaced.
    """
    aside = settings.home / f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    known, head_before = _known(settings, report)
    chain = Chain("its audit log", known)
    opening = _Opening(source, passphrase)
    report("Checking the backup")
    with (
        opening,
        opened(source, KeyPair.of(settings), unsigned=unsigned, keys_inside=opening.keys) as archive,
    ):
        secrets = opening.secrets_of(archive.secrets)
        # A restore of this very file was checked, and killed: what it left is no record of this installation.
        unfinished = is_unfinished(settings, archive.sha256)
        own_keys = not opening.used and not unfinished
        # Without the remote store: what is not on this disk cannot be served from it.
        store = Store(settings.store_folder, None, archive.keys)
        if dry_run:
            contents = _checked(archive, source, None, chain)
            taken_back = _taken_back(chain)
            existing = _existing(settings, contents, secrets, source, own_keys=own_keys, refuse=False)
            check_weights(archive, contents.weights, source, _count(contents, progress))
        else:
            settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            with naming_a_full_disk(settings.home), temporary_folder(settings.home, PREFIX) as folder:
                (members := folder / MEMBERS).mkdir()
                contents = _checked(archive, source, members, chain)
                if (taken_back := _taken_back(chain)) and not (rewind or unfinished):
                    raise _outdated(source, taken_back)
                refuse = not (replace or unfinished)
                existing = _existing(settings, contents, secrets, source, own_keys=own_keys, refuse=refuse)
                if contents.weights:
                    report("Putting the weights into the store")
                    _require_room(store, contents)
                    restore_weights(archive, contents.weights, store, members, source, _count(contents, progress))
                report("Putting the records back")
                begin(settings, archive.sha256)
                put_back(settings, contents, secrets, members, aside, own_keys=own_keys)
            instead = f", instead of {head_before.number} {head_before.hash}" if taken_back and head_before else ""
            AuditLog.of(settings).append(RESTORED, "", None, what=f"backup of {contents.made_at}{instead}")
            end(settings)
        signed = archive.signed
    store = Store.of(settings)
    missing = tuple(artifact for artifact in contents.artifacts if not store.holds(artifact.line, artifact.digest))
    return Restored(
        contents=contents,
        signed=signed,
        taken_back=taken_back,
        replaced=tuple(existing),
        aside=str(aside) if existing else "",
        missing=missing,
        serves=contents.versions,
        secrets=secrets is not None,
    )


class _Opening(ExitStack):
    """Opens a backup's secrets, once, and keeps the public keys among them in a temporary folder."""

    def __init__(self, source: Path, passphrase: Callable[[], str] | None) -> None:
        super().__init__()
        self._source, self._passphrase = source, passphrase
        self._secrets: Secrets | None = None
        self.used = False
        """Whether the backup was believed by the keys in it."""

    def secrets_of(self, encrypted: bytes) -> Secrets | None:
        """Return the secrets; None if there are none, or they are left out."""
        if self._secrets is None and encrypted and self._passphrase is not None:
            self._secrets = decrypt(encrypted, self._passphrase(), self._source)
        return self._secrets

    def keys(self, encrypted: bytes) -> KeyPair | None:
        """Return the public keys among the secrets."""
        secrets = self.secrets_of(encrypted)
        self.used = secrets is not None
        if secrets is None:
            return None
        return public_keys(secrets, Path(self.enter_context(TemporaryDirectory(prefix=PREFIX))))


def _count(contents: Contents, progress: Progress) -> Count:
    return Count(sum(entry.size_bytes for part in contents.weights for entry in part.files), progress)


def _require_room(store: Store, contents: Contents) -> None:
    needed = [
        part.artifact for part in contents.weights if not store.holds_locally(part.artifact.line, part.artifact.digest)
    ]
    if needed:
        store.require_free(sum(artifact.size_bytes for artifact in needed) + SPARE_BYTES, "What the backup serves")


def _known(settings: Settings, report: Callable[[str], None]) -> tuple[list[tuple[str, Head]], Head | None]:
    """List the heads of the audit log that are known here, by who knows them; and the newest of them."""
    log = AuditLog.of(settings)
    known: list[tuple[str, Head]] = []
    if log.folder.is_dir():
        # A log that does not verify is a reason to restore; its note may still tell how far it was.
        with suppress(AuditBroken):
            if (head := log.head()) is not None:
                known.append(("this installation", head))
        try:
            if not known and (last := log.verify()) is not None:
                known.append(("this installation", Head(number=last.number, hash=last.hash)))
        except AuditBroken as error:
            report(f"This installation's audit log does not verify: {error.what}")
    for answer in answers_of(settings):
        known += [(answer.witness, head) for head in answer.heads]
        if answer.problem:
            report(f"Not compared with {answer.witness}, which {answer.problem}")
    return known, max((head for _, head in known), key=lambda head: head.number, default=None)


def _checked(archive: Archive, source: Path, folder: Path | None, chain: Chain) -> Contents:
    """Check an archive with its audit log, and write its members into a folder, if there is one."""
    lines = _Lines(chain)
    try:
        contents = unpack(archive, source, folder, {AUDIT_FILE: lines.add})
        lines.end()
    except AuditBroken as error:
        raise damaged(source, f"in its audit log, {error.what[:1].lower()}{error.what[1:].rstrip('.')}") from None
    end = (chain.last.number, chain.last.hash) if chain.last else (0, NOTHING)
    if end != (contents.audit_entries, contents.audit_head):
        raise damaged(source, "its audit log is not the one that was written")
    if archive.secrets and hashlib.sha256(archive.secrets).hexdigest() != contents.secrets_sha256:
        raise damaged(source, "its secrets are another backup's")
    require_length(archive, contents.weights, source)
    return contents


class _Lines:
    """Cuts a member's content into lines for the chain."""

    def __init__(self, chain: Chain) -> None:
        self._chain, self._rest = chain, b""

    def add(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._chain.add(line + b"\n")
        if len(self._rest) > LONGEST_LINE:
            self.end()

    def end(self) -> None:
        if self._rest:
            self._chain.add(self._rest)


def _taken_back(chain: Chain) -> str:
    """Say what is known and the backup lacks; empty if it has everything."""
    try:
        chain.finish()
    except AuditBroken as error:
        return error.what
    return ""


def _existing(
    settings: Settings,
    contents: Contents,
    secrets: Secrets | None,
    source: Path,
    *,
    own_keys: bool,
    refuse: bool,
) -> list[str]:
    """List what a restore would replace, after a look at whether it can."""
    database = database_of(settings)
    if database.kind != contents.database:
        raise BackupFailed(
            f"The backup's records are of {contents.database}, and this installation keeps its in {database.kind}.",
            "Set WEIGHBRIDGE_MLFLOW_BACKEND_URI to a database of that kind, or unset it for SQLite.",
            where=str(source),
        )
    if database.member not in contents.sha256:
        raise damaged(source, f"it lacks {database.member}")
    for folder in (
        "mlflow",
        "audit",
        *(("gateway", "keys", "webhook", "prefect", "watch") if contents.weights else ()),
    ):
        # Links further down are moved aside like files.
        if (place := settings.home / folder).is_symlink():
            raise BackupFailed(
                f"{folder} is a link, and a restore writes into this home only.",
                "Put a folder in its place; to keep it on another disk, mount that disk there.",
                where=str(place),
            )
    existing = existing_places(settings, contents, secrets, own_keys=own_keys)
    if database.has_records():
        existing.insert(0, database.member)
    if existing and refuse:
        raise BackupFailed(
            f"This installation has records of its own: {', '.join(existing)}.",
            "Give --replace to move them aside, or name an empty home in WEIGHBRIDGE_HOME.",
            where=str(settings.home),
        )
    return existing


def _outdated(source: Path, why: str) -> BackupOutdated:
    return BackupOutdated(
        f"This backup would take back what happened since: {why}",
        "Restore a newer one. If no newer one exists, give --rewind: the audit log will say what was taken back.",
        where=str(source),
    )
