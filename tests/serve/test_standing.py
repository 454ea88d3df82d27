"""What the audit log says of a version decides whether it may get traffic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.audit import AuditLog
from tasks.serve.standing import ADMIT, BARRED, Standing, require_standing, standings
from weighbridge.errors import ApprovalRefused, AuditBroken

GOOD, OTHER = "a" * 64, "b" * 64


def log_of(folder: Path, *entries: tuple[str, str]) -> AuditLog:
    """A log with entries of version 3."""
    log = AuditLog(folder)
    for action, what in entries:
        log.append(action, "toy", 3, what=what)
    return log


def may_have_traffic(log: AuditLog, digest: str = GOOD) -> bool:
    try:
        require_standing(standings(log, "toy"), "toy", "3", digest)
    except ApprovalRefused:
        return False
    return True


@pytest.mark.parametrize(
    ("entries", "allowed"),
    [
        ([], False),
        ([("approve", GOOD)], False),
        ([("state", "rolling")], True),
        ([("state", "refused")], False),
        ([("state", "rolling"), ("state", "failed")], False),
        ([("state", "serving"), ("state", "rolled_back")], True),
        ([("state", "serving"), ("state", "previous"), ("state", "retired")], True),
        # What a person set in MLflow is written down as found, and proves no check.
        ([("found", "state serving"), ("found", "production")], False),
        ([("mlflow.set_model_version_tag", "weighbridge.state=serving")], False),
        # An older rollback gave a refused version traffic.
        ([("state", "refused"), ("state", "serving")], False),
        ([(ADMIT, GOOD)], True),
        ([(ADMIT, OTHER)], False),
        ([(ADMIT, GOOD), ("state", "rolling"), ("state", "failed")], False),
        ([("state", "failed"), (ADMIT, GOOD)], True),
    ],
)
def test_only_what_passed_its_check_and_was_not_refused_gets_traffic(
    tmp_path: Path, entries: list[tuple[str, str]], allowed: bool
) -> None:
    assert may_have_traffic(log_of(tmp_path, *entries)) is allowed


def test_another_artifact_under_a_checked_version_gets_no_traffic(tmp_path: Path) -> None:
    log = log_of(tmp_path, (ADMIT, GOOD), ("state", "serving"))
    assert may_have_traffic(log, GOOD) and not may_have_traffic(log, OTHER)
    assert standings(log, "toy")[3].admits(GOOD)
    assert not standings(log, "toy")[3].admits("")


def test_an_edited_log_proves_nothing(tmp_path: Path) -> None:
    log = log_of(tmp_path, ("state", "refused"), ("state", "previous"))
    entries = [json.loads(line) for line in log.path.read_text().splitlines()]
    entries[0]["what"] = "serving"
    log.path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    with pytest.raises(AuditBroken):
        standings(log, "toy")


@given(st.lists(st.sampled_from([(ADMIT, GOOD), *(("state", state) for state in ("rolling", "serving", *BARRED))])))
def test_a_refusal_stands_until_another_check_passes(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, str]]
) -> None:
    log = log_of(tmp_path_factory.mktemp("log"), *entries)
    refused = max((at for at, (_, what) in enumerate(entries) if what in BARRED), default=-1)
    standing = standings(log, "toy").get(3, Standing())
    if refused >= 0:
        assert standing.admitted is any(action == ADMIT for action, _ in entries[refused:])
    else:
        assert standing.admitted is bool(entries)
