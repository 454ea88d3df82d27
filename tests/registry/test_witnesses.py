"""The audit log's head is noted outside: in MLflow, and in a folder or bucket."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from registry.audit import AuditLog, Head
from registry.models.registry import Registry
from registry.witnesses import EXPERIMENT, TAG, Folder, MlflowTag, parse, witnesses_of
from tests.support.waiting import wait_for
from weighbridge.errors import WitnessUnreachable
from weighbridge.settings import Settings, load_settings


def verify(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", "audit", "verify", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def cut_off_the_end(log: AuditLog, keep: int) -> None:
    """Do what whoever holds the machine does: cut off the log and the note beside it."""
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join(lines[:keep]))
    (log.folder / "head.json").unlink(missing_ok=True)


def test_a_folder_gets_an_object_for_each_head_and_none_is_replaced(tmp_path: Path) -> None:
    folder = Folder(f"{tmp_path}/witness/")
    assert folder.heads() == []
    heads = [Head(number=number, hash=f"{number:x}" * 64) for number in (1, 2)]
    for head in (heads[1], heads[0], heads[1]):
        folder.note(head)
    (tmp_path / "witness" / "README").write_text("not a head")
    assert folder.heads() == heads
    assert sorted(path.name for path in (tmp_path / "witness").iterdir())[0] == f"000000000001-{'1' * 64}"


def test_a_cut_log_is_found_by_a_folder_and_the_missing_entries_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_AUDIT_WITNESS_URL", str(tmp_path / "witness"))
    log = AuditLog()
    for number in range(1, 6):
        log.append("state", "toy", number, what="serving")
        head = log.head()
        assert head is not None
        Folder(str(tmp_path / "witness")).note(head)
    agrees = verify("--json")
    assert json.loads(agrees.stdout)["witnesses"][1]["entry"] == 5, agrees.stderr
    cut_off_the_end(log, 3)
    broken = verify("--json")
    assert broken.returncode == 10
    assert json.loads(broken.stdout)["what"].startswith("Entries 4 to 5 are missing")
    log.append("state", "toy", 9)
    log.append("state", "toy", 9)
    assert "Entry 4 is another than the one" in json.loads(verify("--json").stdout)["what"]


def test_a_witness_that_does_not_answer_is_said_and_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WEIGHBRIDGE_AUDIT_WITNESS_URL", "nonsense://bucket")
    AuditLog().append("state", "toy", 1)
    done = verify()
    assert done.returncode == 0 and "nonsense://bucket does not answer" in done.stdout
    with pytest.raises(WitnessUnreachable):
        Folder(f"{tmp_path}/file/below").note(Head(number=1, hash="a" * 64))


def test_the_tag_in_mlflow_is_read_without_mlflow(empty_database: Path, own_home: Path) -> None:
    settings = load_settings()
    assert MlflowTag(settings).heads() == []
    (own_home / "mlflow").mkdir()
    (own_home / "mlflow" / "mlflow.db").write_bytes(empty_database.read_bytes())
    assert MlflowTag(settings).heads() == []
    client = Registry(settings.mlflow_backend).client
    experiment = client.create_experiment(EXPERIMENT)
    client.set_experiment_tag(experiment, TAG, f"7 {'b' * 64}")
    assert MlflowTag(settings).heads() == [Head(number=7, hash="b" * 64)]
    (own_home / "mlflow" / "mlflow.db").write_bytes(b"no database")
    with pytest.raises(WitnessUnreachable):
        MlflowTag(settings).heads()


def test_other_names_are_no_heads() -> None:
    names = ["x", "0-" + "a" * 64, "1-" + "A" * 64, "1-" + "a" * 63, "٣-" + "a" * 64, "-1-" + "a" * 64, ""]
    assert parse(names) == []


def test_an_installation_has_the_witnesses_that_its_settings_name(tmp_path: Path) -> None:
    assert [witness.name for witness in witnesses_of(Settings())] == ["MLflow"]
    settings = Settings(audit_witness_url=f"{tmp_path}/")
    assert [witness.name for witness in witnesses_of(settings)] == ["MLflow", str(tmp_path)]


@pytest.mark.server
@pytest.mark.timeout(400)
def test_mlflow_s_server_notes_each_entry_within_seconds_and_a_cut_log_shows(accounts_server: Settings) -> None:
    log = AuditLog.of(accounts_server)
    last = log.append("state", "toy", 1, what="serving", who="a flow beside the server")

    def is_noted() -> bool:
        try:
            return [head.hash for head in MlflowTag(accounts_server).heads()] == [last.hash]
        except (WitnessUnreachable, sqlite3.Error):
            return False

    wait_for(is_noted, "the head is not noted", seconds=30)
    content = log.path.read_bytes()
    try:
        cut_off_the_end(log, last.number - 1)
        broken = verify("--json")
        assert broken.returncode == 10
        assert f"Entry {last.number} is missing: MLflow noted {last.number}" in json.loads(broken.stdout)["what"]
    finally:
        log.path.write_bytes(content)
