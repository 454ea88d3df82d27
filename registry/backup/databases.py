"""The database that MLflow keeps its records in, copied while it is in use: SQLite or PostgreSQL."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from weighbridge.errors import BackupFailed
from weighbridge.settings import Settings

SQLITE_FILE = "mlflow.db"
DUMP_SECONDS = 3600


class Database(Protocol):
    """One kind of database."""

    kind: str
    member: str
    """Name of its copy in a backup."""

    def dump(self, target: Path) -> None:
        """Copy it as it is at one moment, whoever writes to it meanwhile."""

    def load(self, source: Path, aside: Path) -> None:
        """Put a copy in its place, whole or not at all; what was there is kept in the folder `aside`."""

    def has_records(self) -> bool:
        """Whether there is anything that a restore would replace."""


def database_of(settings: Settings) -> Database:
    """The installation's."""
    if settings.mlflow_backend_uri:
        return PostgreSql(settings.mlflow_backend_uri)
    return Sqlite(settings.home / "mlflow" / SQLITE_FILE)


class Sqlite:
    """A file."""

    kind, member = "sqlite", f"mlflow/{SQLITE_FILE}"

    def __init__(self, path: Path) -> None:
        self._path = path

    def dump(self, target: Path) -> None:
        """See the protocol; SQLite's own online backup.

        Raises:
            BackupFailed: there is none, or it cannot be read.
        """
        if not self.has_records():
            raise BackupFailed("MLflow has no records yet.", "Start the stack once.", where=str(self._path))
        target.parent.mkdir(parents=True, exist_ok=True)
        source, copy = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True), sqlite3.connect(target)
        try:
            source.backup(copy)
        except sqlite3.Error as error:
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
    """A database on a server, by PostgreSQL's own pg_dump and pg_restore, which must be on PATH.

    Args:
        uri: `postgresql://user@host:port/database`; the password is in PGPASSFILE, where libpq looks.
    """

    kind, member = "postgresql", "mlflow/postgresql.dump"

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        # Not the URI itself as an argument: everybody on the machine sees those.
        named = {
            "PGHOST": (parse_qs(parts.query).get("host") or [parts.hostname or ""])[0],
            "PGPORT": str(parts.port or ""),
            "PGUSER": unquote(parts.username or ""),
            "PGDATABASE": parts.path.lstrip("/"),
        }
        self._environment = {**os.environ, **{name: value for name, value in named.items() if value}}
        self._name = named["PGDATABASE"]

    def dump(self, target: Path) -> None:
        """See the protocol; one transaction's view.

        Raises:
            BackupFailed: pg_dump is missing or fails; its own words are quoted.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        self._run("pg_dump", "--format=custom", "--no-owner", "--file", str(target))

    def load(self, source: Path, aside: Path) -> None:
        """See the protocol; in one transaction, so that a failure leaves what was there.

        Raises:
            BackupFailed: pg_restore is missing or fails.
        """
        aside.mkdir(parents=True, exist_ok=True)
        self.dump(aside / Path(self.member).name)
        how = ("--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error")
        self._run("pg_restore", *how, "--dbname", self._name, str(source))

    def has_records(self) -> bool:
        """See the protocol."""
        asked = "select count(*) from information_schema.tables where table_schema = 'public'"
        return self._run("psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", asked).strip() != "0"

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
