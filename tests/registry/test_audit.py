"""The audit log: every later change is detected, and a kill leaves no partial entry."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.audit import COPIED, NOBODY, NOTHING, AuditLog, Request
from registry.models.records import STATE, ReleaseRecord
from registry.models.registry import Registry
from weighbridge.errors import AuditBroken

Make = Callable[..., ReleaseRecord]
WRITER = """
import sys
from collections.abc import Callable
from pathlib import Path
from registry.audit import AuditLog
for number in range(int(sys.argv[2])):
    AuditLog(Path(sys.argv[1])).append("state", "toy", number, what="serving", who=sys.argv[3])
"""


def write_log(folder: Path, count: int) -> AuditLog:
    log = AuditLog(folder)
    for number in range(1, count + 1):
        log.append("state", "toy" if number % 2 else "other", number, what="serving", reason=f"reason {number}")
    return log


def test_entries_are_read_in_order_and_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_USER", "ann")
    log = write_log(tmp_path, 4)
    assert [(entry.number, entry.version, entry.who) for entry in log.entries()] == [(n, n, "ann") for n in range(1, 5)]
    assert [entry.version for entry in log.entries("toy")] == [1, 3]
    last = log.verify()
    assert last is not None and last.number == 4
    assert log.append("approve", "toy", 5, who="bob").who == "bob"


def test_an_empty_log_is_valid(tmp_path: Path) -> None:
    assert AuditLog(tmp_path).verify() is None
    assert AuditLog(tmp_path).verify(NOTHING) is None
    assert list(AuditLog(tmp_path).entries()) == []


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_change_to_an_entry_is_detected(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    log = write_log(tmp_path_factory.mktemp("audit"), 5)
    head = log.verify()
    assert head is not None
    lines = log.path.read_text().splitlines()
    how = data.draw(st.sampled_from(["edit", "edit and hash", "remove", "swap", "repeat", "cut", "nonsense"]))
    at = data.draw(st.integers(0, 3))
    if how.startswith("edit"):
        entry = json.loads(lines[at])
        field = data.draw(st.sampled_from(["who", "reason", "what", "line", "at", "version", "number"]))
        entry[field] = 99 if field in ("version", "number") else entry[field] + "x"
        lines[at] = json.dumps(entry)
        if how == "edit and hash":
            # A forger can recompute this entry's hash, but the next entry still has the old one.
            from registry.audit import Entry

            forged = Entry.model_validate(entry)
            lines[at] = forged.model_copy(update={"hash": forged.expected_hash}).model_dump_json()
    elif how == "remove":
        del lines[at]
    elif how == "swap":
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    elif how == "repeat":
        lines.insert(at, lines[at])
    elif how == "cut":
        lines = lines[: at + 1]
    else:
        lines[at] = "{}"
    log.path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(AuditBroken):
        # Only a truncated log needs the recorded head to be detected.
        log.verify(head.hash if how == "cut" else "")


def test_an_entry_cut_by_a_kill_is_dropped(tmp_path: Path) -> None:
    log = write_log(tmp_path, 2)
    with log.path.open("ab") as file:
        file.write(b'{"number": 3, "at": "2026')
    last = log.verify()
    assert last is not None and last.number == 2
    assert log.append("state", "toy", 3).number == 3
    last = log.verify()
    assert last is not None and last.number == 3


def test_concurrent_writers_make_one_chain(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, "20", who]) for who in ("ann", "bob")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    last = AuditLog(tmp_path).verify()
    assert last is not None and last.number == 40
    assert {entry.who for entry in AuditLog(tmp_path).entries()} == {"ann", "bob"}


def test_nothing_is_appended_to_a_log_whose_end_is_broken(tmp_path: Path) -> None:
    log = write_log(tmp_path, 1)
    log.path.write_text("nonsense\n")
    with pytest.raises(AuditBroken, match="Entry 1 cannot be read"):
        log.append("state", "toy", 2)


def test_changes_missing_from_the_log_are_recorded_as_found(registry: Registry, release: Make) -> None:
    registry.record_release(release())
    registry.approve("toy", 1, "better", "anna")
    registry.set_state("toy", 1, "serving")
    registry.set_production("toy", 1)
    registry.reconcile("toy")
    log = AuditLog()
    assert [entry.action for entry in log.entries("toy")] == ["approve", "state", "production"], "nothing was missing"
    # Changes made by hand in MLflow's page.
    registry.client.set_model_version_tag("toy", "1", STATE, "retired")
    registry.client.delete_registered_model_alias("toy", "production")
    for _ in range(2):
        registry.reconcile("toy")
    found = [entry for entry in log.entries("toy") if entry.action == "found"]
    assert [(entry.what, entry.version, entry.who) for entry in found] == [
        ("production", None, "unknown"),
        ("state retired", 1, "unknown"),
    ]
    assert log.verify() is not None


def test_the_approver_is_the_signed_in_account_or_else_the_name_given(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)

    def copied(model: str, who: str) -> None:
        log.append(COPIED, "toy", 7, who=who, request=Request(model=model, address="10.1.2.3", id="r"))

    log.append("state", "toy", 7, what="serving", who="sam")
    assert log.approver("toy", 7) == "", "a state change is no approval"
    log.append("approve", "toy", 7, who="tom")
    log.append("approve", "toy", 8, who="eve")
    assert [log.approver("toy", number) for number in (7, 8, 9)] == ["tom", "eve", ""]
    copied("toy", NOBODY)
    copied("toy-candidates", "bo")
    assert log.approver("toy", 7) == "tom", "neither an anonymous copy nor a candidate is an approval"
    copied("toy", "ada")
    assert [log.approver("toy", number) for number in (7, 8)] == ["ada", "eve"]
    assert log.approver("other", 7) == ""
