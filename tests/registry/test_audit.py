"""The audit log: every later change is detected, and a kill leaves no partial entry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.audit import COPIED, NOBODY, NOTHING, AuditLog, Head, Request
from registry.models.records import STATE, ReleaseRecord
from registry.models.registry import Registry
from tests.support.mutation import blobs, examples, json_files
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


def _valid() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        return write_log(Path(name), 3).path.read_bytes()


VALID = _valid()


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


def test_an_entry_cut_by_a_kill_does_not_verify_until_the_next_one_puts_it_aside(tmp_path: Path) -> None:
    log = write_log(tmp_path, 2)
    with log.path.open("ab") as file:
        file.write(b'{"number": 3, "at": "2026')
    with pytest.raises(AuditBroken, match="Entry 3 is unfinished"):
        log.verify()
    assert [entry.number for entry in log.entries()] == [1, 2]
    assert log.append("state", "toy", 3).number == 3
    last = log.verify()
    assert last is not None and last.number == 3
    [rest] = tmp_path.glob("unfinished-*")
    assert rest.read_bytes() == b'{"number": 3, "at": "2026', "nothing is thrown away"


def test_a_cut_off_newline_does_not_take_the_last_entry_away(tmp_path: Path) -> None:
    log = write_log(tmp_path, 2)
    log.path.write_bytes(log.path.read_bytes()[:-1])
    with pytest.raises(AuditBroken, match="Entry 2 is unfinished"):
        log.verify()
    assert log.append("state", "toy", 3).number == 3
    assert log.verify() is not None


def test_concurrent_writers_make_one_chain(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, "20", who]) for who in ("ann", "bob")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    last = AuditLog(tmp_path).verify()
    assert last is not None and last.number == 40
    assert {entry.who for entry in AuditLog(tmp_path).entries()} == {"ann", "bob"}


DAMAGE: dict[str, Callable[[list[bytes]], bytes]] = {
    "garbage in the middle": lambda lines: b"".join([*lines[:2], b"garbage\n", *lines[3:]]),
    "garbage at the end": lambda lines: b"".join([*lines[:-1], b"garbage\n"]),
    "a name twice, the last one counts": lambda lines: b"".join(lines).replace(b'"}', b'","reason":"reason 1"}', 1),
    "a name twice, the first one counts": lambda lines: b"".join(lines).replace(b"{", b'{"who":"eve",', 1),
    "an empty line": lambda lines: b"".join([*lines[:2], b"\n", *lines[2:]]),
    "no UTF-8": lambda lines: b"".join(lines).replace(b"reason 3", b"\xff\xfe"),
    "a NUL": lambda lines: b"".join(lines).replace(b"reason 3", b"\0"),
    "nested": lambda lines: b"[" * 100_000 + b"\n",
    "the last newline gone": lambda lines: b"".join(lines)[:-1],
    "the end cut off": lambda lines: b"".join(lines[:-1]),
    "emptied": lambda lines: b"",
}


@pytest.mark.parametrize("how", [*DAMAGE, "gone", "a link"])
def test_a_damaged_cut_emptied_or_missing_log_does_not_verify(tmp_path: Path, how: str) -> None:
    log = write_log(tmp_path, 5)
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.unlink()
    if how in DAMAGE:
        log.path.write_bytes(DAMAGE[how](lines))
    elif how == "a link":
        (tmp_path / "elsewhere").write_bytes(b"".join(lines))
        log.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditBroken) as caught:
        log.verify()
    assert caught.value.next_step and str(tmp_path) in caught.value.where
    if how == "the last newline gone":
        return
    with pytest.raises(AuditBroken):
        log.append("production", "toy", 9)
    with pytest.raises(AuditBroken), log.recording("production", "toy", 9):
        pytest.fail("a change that cannot be recorded is not made")


def test_a_missing_end_is_named_entry_by_entry(tmp_path: Path) -> None:
    log = write_log(tmp_path, 5)
    log.path.write_bytes(b"".join(log.path.read_bytes().splitlines(keepends=True)[:2]))
    with pytest.raises(AuditBroken, match=r"Entries 3 to 5 are missing: head\.json noted 5, and the log ends at 2"):
        log.verify()
    (tmp_path / "head.json").unlink()
    with pytest.raises(AuditBroken, match="Entries 3 to 4 are missing: the bucket noted 4"):
        log.verify(noted=[("the bucket", Head(number=4, hash="a" * 64))])
    with pytest.raises(AuditBroken, match="Entry 2 is another than the one that the bucket noted"):
        log.verify(noted=[("the bucket", Head(number=2, hash="a" * 64))])


def test_a_log_from_before_heads_were_noted_is_continued(tmp_path: Path) -> None:
    log = write_log(tmp_path, 2)
    (tmp_path / "head.json").unlink()
    assert log.append("state", "toy", 3).number == 3
    assert (head := log.head()) is not None and head.number == 3


def test_a_damaged_note_of_the_head_is_named(tmp_path: Path) -> None:
    log = write_log(tmp_path, 2)
    (tmp_path / "head.json").write_text("{}")
    for call in (log.verify, log.head, lambda: log.append("state", "toy", 3)):
        with pytest.raises(AuditBroken, match=r"head\.json cannot be read"):
            call()


def test_a_user_without_a_name_is_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "WEIGHBRIDGE_USER"):
        monkeypatch.delenv(name, raising=False)
    code = (
        "import os, sys; from pathlib import Path; from registry.audit import AuditLog\n"
        "os.setgid(54321) or os.setuid(54321)\n"
        "print(AuditLog(Path(sys.argv[1])).append('state', 'toy', 1).who)"
    )
    if os.getuid():
        pytest.skip("only root becomes another user")
    (folder := tmp_path / "audit").mkdir()
    os.chown(folder, 54321, 54321)
    for parent in list(folder.parents)[:-2]:
        parent.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "uid 54321", done.stderr


@pytest.mark.parametrize("point", ["before the change", "after the change"])
def test_a_killed_change_is_in_the_log_before_the_next_one(tmp_path: Path, point: str) -> None:
    code = (
        "import os, sys; from pathlib import Path; from registry.audit import AuditLog\n"
        "with AuditLog(Path(sys.argv[1])).recording('state', 'toy', 7, what='serving', who='ada'): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == 9
    log = AuditLog(tmp_path)
    assert list(log.entries()) == []
    log.append("production", "toy", 8)
    late, next_one = log.entries()
    assert (late.action, late.what, late.version, late.who) == ("found", "state serving", 7, "ada")
    assert "may have been made or not" in late.reason and next_one.version == 8
    assert not list((tmp_path / "intended").iterdir())


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from registry.audit import AuditLog\n"
        "from weighbridge.errors import DiskFull\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log = AuditLog(Path(sys.argv[1])); log.append('state', 'toy', 1, who='x')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "try: log.append('state', 'toy', 2, who='x' * 3000)\n"
        "except DiskFull as error: print(error.where)\n"
        "print(log.append('state', 'toy', 3, who='x').number, log.verify().number)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [str(tmp_path / "log.jsonl"), "2 2"], done.stderr


@examples()
@given(st.data())
def test_no_log_makes_the_reader_raise_anything_but_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("audit")
    log = AuditLog(folder)
    log.path.write_bytes(data.draw(blobs(VALID)))
    for call in (lambda: list(log.entries()), log.verify, lambda: log.append("state", "toy", 9, who="x")):
        try:
            call()
        except AuditBroken as error:
            assert error.what
    shutil.rmtree(folder)


@examples()
@given(json_files({"number": 2, "hash": "a" * 64, "size": 1, "inode": 2, "modified_ns": 3, "changed_ns": 4}))
def test_no_note_makes_the_reader_raise_anything_but_a_named_error(note: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        log = AuditLog(Path(name))
        (log.folder / "intended").mkdir()
        (log.folder / "intended" / "1-a.json").write_bytes(note)
        log.append("state", "toy", 1, who="x")
        (log.folder / "head.json").write_bytes(note)
        for call in (log.verify, log.head, lambda: log.append("state", "toy", 9, who="x")):
            try:
                call()
            except AuditBroken as error:
                assert error.what


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
