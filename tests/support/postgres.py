"""A real PostgreSQL for a test, from Debian's package, in a folder that is removed with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.ports import free_port

USER = "weighbridge"


def postgres_programs() -> Path | None:
    """Find the folder of initdb and pg_ctl; None without PostgreSQL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if not shutil.which("pg_dump"):
        return None
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


@contextmanager
def postgres(programs: Path) -> Iterator[str]:
    """Run a server on loopback that needs no password, and yield its address without a database's name."""
    folder = Path(tempfile.mkdtemp(prefix="weighbridge-postgres-"))
    port = free_port()
    as_user: list[str] = []
    if os.getuid() == 0:
        # PostgreSQL refuses to run as root.
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(folder, "postgres", "postgres")
    data, log = folder / "data", folder / "log"
    control = [*as_user, str(programs / "pg_ctl"), "--pgdata", str(data), "--wait"]
    try:
        initialise = [*as_user, str(programs / "initdb"), "--pgdata", str(data), "--username", USER, "--auth", "trust"]
        subprocess.run([*initialise, "--no-sync"], check=True, capture_output=True, cwd=folder)
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
        subprocess.run([*control, "--log", str(log), "-o", options, "start"], check=True, cwd=folder, timeout=60)
        yield f"postgresql://{USER}@127.0.0.1:{port}"
    finally:
        subprocess.run([*control, "--mode", "immediate", "stop"], check=False, capture_output=True, cwd=folder)
        shutil.rmtree(folder, ignore_errors=True)
