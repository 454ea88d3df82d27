"""`weighbridge backup` and `restore` as a user meets them: real processes, their output and exit statuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.passphrase import VARIABLE, known_passphrase, new_passphrase
from cli.transfer_progress import Lines
from registry.audit import AuditLog
from registry.signing import KeyPair
from tasks.serve.fleet.supervisor import Supervisor
from weighbridge.errors import PassphraseUnusable
from weighbridge.settings import load_settings


@pytest.fixture
def installation(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(home))
    (home / "mlflow").mkdir(parents=True)
    shutil.copy(empty_database, home / "mlflow" / "mlflow.db")
    KeyPair.of(load_settings()).prepare()
    AuditLog().append("approve", "toy", 1, who="anna")
    return home


def weighbridge(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "cli.main", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, env=os.environ, check=False)


def test_the_way_out_and_back(installation: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar.gz"
    backup = weighbridge("backup", file)
    assert backup.returncode == 0, backup.stderr
    assert "1 audit entries, head" in backup.stdout
    refused = weighbridge("restore", file)
    assert refused.returncode == 10 and "--replace" in refused.stderr
    tried = weighbridge("restore", file, "--dry-run", "--json")
    assert json.loads(tried.stdout)["replaced"] == ["mlflow/mlflow.db", "audit/log.jsonl"]
    done = weighbridge("restore", file, "--replace")
    assert done.returncode == 0 and "weighbridge up" in done.stdout, done.stderr
    assert "2 entries" in weighbridge("audit", "verify").stdout


@pytest.mark.server
def test_nothing_is_replaced_under_a_stack_that_runs(installation: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar.gz"
    assert weighbridge("backup", file).returncode == 0
    supervisor = Supervisor(load_settings())
    supervisor.start({})
    try:
        refused = weighbridge("restore", file, "--replace")
        assert refused.returncode == 3 and "weighbridge down" in refused.stderr
        assert weighbridge("restore", file, "--dry-run").returncode == 0
    finally:
        supervisor.shut_down()


def test_what_is_no_backup_is_named(installation: Path, tmp_path: Path) -> None:
    file = tmp_path / "holiday.jpg"
    file.write_bytes(b"\xff\xd8 picture")
    refused = weighbridge("restore", file, "--json")
    assert refused.returncode == 10
    assert json.loads(refused.stdout)["error"] == "BackupDamaged"


def test_a_passphrase_comes_from_a_private_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "passphrase").write_text("four words of mine \n")
    file.chmod(0o640)
    with pytest.raises(PassphraseUnusable, match="read by others"):
        known_passphrase(file)
    file.chmod(0o600)
    assert known_passphrase(file) == "four words of mine ", "only the end of the line is not part of it"
    monkeypatch.setenv(VARIABLE, "from the environment")
    assert known_passphrase(None) == "from the environment"
    monkeypatch.setenv(VARIABLE, "too short")
    with pytest.raises(PassphraseUnusable, match="9 characters"):
        new_passphrase(None)
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(PassphraseUnusable, match="no terminal"):
        known_passphrase(None)


def test_the_time_left_is_that_of_the_last_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, written = [0.0], list[str]()
    lines = Lines(written.append, lambda: seconds[0])
    for second in range(101):
        seconds[0] = float(second)
        # A megabyte a second for a minute, then a hundred.
        lines((second if second < 60 else 60 + 100 * (second - 60)) << 20, 10_060 << 20)
    assert len(written) == 10 and "10 s" not in written[0]
    assert written[4] == "0.0 of 9.8 GiB (0%), 1 MB/s, about 10010 s left"
    assert written[-1] == "4.0 of 9.8 GiB (40%), 105 MB/s, about 60 s left"
