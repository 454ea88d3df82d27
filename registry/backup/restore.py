"""Restore a backup. Everything is checked before anything is replaced, and replaced files are kept aside."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from registry.audit import NOTHING, RESTORED, AuditLog, Head
from registry.audit.chain import Chain
from registry.audit.entry import LONGEST_LINE
from registry.backup.archive import Contents, unpack
from registry.backup.container import Archive, damaged, opened
from registry.backup.create import AUDIT_FILE, AUTH_FILE, MLFLOW_FILES, sweep
from registry.backup.databases import database_of
from registry.signing import KeyPair
from registry.store import Artifact, Store
from registry.witnesses import answers_of
from weighbridge.errors import AuditBroken, BackupFailed, BackupOutdated
from weighbridge.files import naming_a_full_disk
from weighbridge.settings import Settings

PREFIX = ".weighbridge-restore-"
HEAD_FILE = "audit/head.json"


class Restored(BaseModel):
    """Result of a restore, or of a dry run."""

    model_config = ConfigDict(frozen=True)

    contents: Contents
    signed: bool
    """Whether a key of this installation signed the backup."""
    taken_back: str = ""
    """What this installation's audit log, or a witness of it, knew and the backup does not; empty for a newer one."""
    replaced: tuple[str, ...]
    """Names of what was replaced, and now lies in `aside`."""
    aside: str
    missing: tuple[Artifact, ...]
    """Artifacts of the backup whose weights this store does not hold."""


def restore(
    settings: Settings,
    source: Path,
    *,
    replace: bool = False,
    dry_run: bool = False,
    unsigned: bool = False,
    rewind: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Restored:
    """Put a backup's registry and audit log into an installation whose stack is down.

    Args:
        settings: Settings of the installation.
        source: The backup.
        replace: Whether existing records are moved aside. Otherwise they are a reason to refuse.
        dry_run: Check everything and write nothing, not even a temporary file.
        unsigned: Whether a backup counts that no key of this installation signed.
        rewind: Whether a backup counts that lacks entries which this installation's audit log has.
        report: Called with a sentence at each stage.

    Raises:
        BackupDamaged: A byte is altered or missing, or its audit log does not verify.
        BackupUnsigned: It is signed by no key of this installation.
        BackupOutdated: It would take back what the audit log of this installation has.
        BackupFailed: The installation has records and `replace` is not set, or it keeps them in another kind of
            database than the backup.
        DiskFull: The disk is full. Nothing was replaced.
    """
    aside = settings.home / f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    known, head_before = _known(settings, report)
    chain = Chain("its audit log", known)
    report("Checking the backup")
    with opened(source, KeyPair.of(settings), unsigned=unsigned) as archive:
        if dry_run:
            contents = _checked(archive, source, None, chain)
            taken_back = _taken_back(chain)
            existing = _existing(settings, contents, source, aside, refuse=False)
        else:
            settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            sweep(settings.home, PREFIX)
            with (
                naming_a_full_disk(settings.home),
                tempfile.TemporaryDirectory(prefix=PREFIX, dir=settings.home) as name,
            ):
                contents = _checked(archive, source, Path(name), chain)
                if (taken_back := _taken_back(chain)) and not rewind:
                    raise _outdated(source, taken_back)
                existing = _existing(settings, contents, source, aside, refuse=not replace)
                report("Putting the records back")
                _put_back(settings, contents, Path(name), aside)
            instead = f", instead of {head_before.number} {head_before.hash}" if taken_back and head_before else ""
            AuditLog.of(settings).append(RESTORED, "", None, what=f"backup of {contents.made_at}{instead}")
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
    )


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


def _existing(settings: Settings, contents: Contents, source: Path, aside: Path, *, refuse: bool) -> list[str]:
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
    for folder in ("mlflow", "audit"):
        # Links further down are moved aside like files.
        if (place := settings.home / folder).is_symlink():
            raise BackupFailed(
                f"{folder} is a link, and a restore writes into this home only.",
                "Put a folder in its place; to keep it on another disk, mount that disk there.",
                where=str(place),
            )
    existing = [name for name in _members_of(contents) if os.path.lexists(settings.home / name)]
    if database.has_records():
        existing.insert(0, database.member)
    if existing and refuse:
        raise BackupFailed(
            f"This installation has records of its own: {', '.join(existing)}.",
            "Give --replace to move them aside, or name an empty home in WEIGHBRIDGE_HOME.",
            where=str(settings.home),
        )
    return existing


def _members_of(contents: Contents) -> list[str]:
    """List what a backup puts back beside the database: files, or folders of them."""
    names = contents.sha256
    return [
        place
        for place in (MLFLOW_FILES, AUTH_FILE, AUDIT_FILE)
        if place in names or any(name.startswith(f"{place}/") for name in names)
    ]


def _put_back(settings: Settings, contents: Contents, folder: Path, aside: Path) -> None:
    database = database_of(settings)
    database.load(folder / database.member, aside / "mlflow")
    # The note of the old log's head would contradict the log that is put back.
    if os.path.lexists(settings.home / HEAD_FILE):
        _move(settings.home / HEAD_FILE, aside / HEAD_FILE)
    for name in _members_of(contents):
        _put(folder / name, settings.home / name, aside / name)


def _put(new: Path, place: Path, aside: Path) -> None:
    if os.path.lexists(place):
        _move(place, aside)
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new.rename(place)


def _move(place: Path, aside: Path) -> None:
    aside.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    place.rename(aside)


def _outdated(source: Path, why: str) -> BackupOutdated:
    return BackupOutdated(
        f"This backup would take back what happened since: {why}",
        "Restore a newer one. If no newer one exists, give --rewind: the audit log will say what was taken back.",
        where=str(source),
    )
