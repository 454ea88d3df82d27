"""Copy and restore the database of MLflow's records, SQLite or PostgreSQL, while it is in use."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from weighbridge.errors import BackupFailed
from weighbridge.files import disk_full
from weighbridge.settings import Settings

SQLITE_FILE = "mlflow.db"
DUMP_SECONDS = 3600


class Database(Protocol):
    """A kind of database."""

    kind: str
    member: str
    """Name of its copy in a backup."""

    def dump(self, target: Path) -> None:
        """Copy its state at one moment, even while others write to it."""

    def load(self, source: Path, aside: Path) -> None:
        """Replace it by a copy, whole or not at all; the old state is kept in the folder `aside`."""

    def has_records(self) -> bool:
        """Return whether it has records that a restore would replace."""


def database_of(settings: Settings) -> Database:
    """Return the database of an installation."""
    if settings.mlflow_backend_uri:
        return PostgreSql(settings.mlflow_backend_uri)
    return Sqlite(settings.home / "mlflow" / SQLITE_FILE)


class Sqlite:
    """SQLite: a file."""

    kind, member = "sqlite", f"mlflow/{SQLITE_FILE}"

    def __init__(self, path: Path) -> None:
        self._path = path

    def dump(self, target: Path) -> None:
        """See the protocol; uses SQLite's online backup.

        Raises:
            BackupFailed: There is no database, or it cannot be read.
            DiskFull: The disk is full.
        """
        if not self.has_records():
            raise BackupFailed("MLflow has no records yet.", "Start the stack once.", where=str(self._path))
        target.parent.mkdir(parents=True, exist_ok=True)
        source, copy = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True), sqlite3.connect(target)
        try:
            source.backup(copy)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
                raise disk_full(target) from error
            raise BackupFailed(
                f"MLflow's records cannot be copied: {error}.", "Look at the file, then try again.", str(self._path)
            ) from error
        finally:
            source.close()
            copy.close()

    def load(self, source: Path, aside: Path) -> None:
        """See the protocol."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in self._path.parent.glob(f"{self._path.name}*"):
            aside.mkdir(parents=True, exist_ok=True)
            leftover.rename(aside / leftover.name)
        shutil.move(source, self._path)

    def has_records(self) -> bool:
        """See the protocol."""
        return self._path.is_file()


class PostgreSql:
    """PostgreSQL, by its own pg_dump and pg_restore, which must be on PATH.

    Args:
        uri: `postgresql://user@host:port/database`; the password is in PGPASSFILE, where libpq looks.
    """

    kind, member = "postgresql", "mlflow/postgresql.dump"

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        # The URI itself is no argument, because everybody on the machine sees arguments.
        named = {
            "PGHOST": (parse_qs(parts.query).get("host") or [parts.hostname or ""])[0],
            "PGPORT": str(parts.port or ""),
            "PGUSER": unquote(parts.username or ""),
            "PGDATABASE": parts.path.lstrip("/"),
        }
        self._environment = {**os.environ, **{name: value for name, value in named.items() if value}}
        self._name = named["PGDATABASE"]

    def dump(self, target: Path) -> None:
        """See the protocol; reads in one transaction.

        Raises:
            BackupFailed: pg_dump is missing or fails; its message is quoted.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        self._run("pg_dump", "--format=custom", "--no-owner", "--file", str(target))

    def load(self, source: Path, aside: Path) -> None:
        """See the protocol; writes in one transaction, so a failure leaves the old state.

        Raises:
            BackupFailed: pg_restore is missing or fails.
        """
        aside.mkdir(parents=True, exist_ok=True)
        self.dump(aside / Path(self.member).name)
        options = ("--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error")
        self._run("pg_restore", *options, "--dbname", self._name, str(source))

    def has_records(self) -> bool:
        """See the protocol."""
        query = "select count(*) from information_schema.tables where table_schema = 'public'"
        return self._run("psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", query).strip() != "0"

    def _run(self, *command: str) -> str:
        try:
            done = subprocess.run(
                command, env=self._environment, capture_output=True, text=True, check=False, timeout=DUMP_SECONDS
            )
        except FileNotFoundError:
            raise BackupFailed(
                f"{command[0]} is not on PATH.", "Install PostgreSQL's client programs of the server's version."
            ) from None
        except subprocess.TimeoutExpired:
            raise BackupFailed(f"{command[0]} took more than {DUMP_SECONDS} s.", "Look at the server.") from None
        if done.returncode:
            words = done.stderr.strip().splitlines() or ["nothing"]
            raise BackupFailed(
                f"{command[0]} ended with status {done.returncode}: {words[-1][:300]}",
                "Check the address in WEIGHBRIDGE_MLFLOW_BACKEND_URI, and PGPASSFILE.",
                where=self._name,
            )
        return done.stdout
