"""`weighbridge keys` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.signing_keys import keys as command
from registry.audit import AuditLog
from registry.installation import Installation
from registry.signing import sign_statement
from weighbridge.errors import OptionInvalid, SigningKeyMissing


def weighbridge(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def sign() -> None:
    keys = Installation.load().keys
    sign_statement(keys, predicate_type="urn:weighbridge:test:v1", subject={"x": "a" * 64}, predicate={})


def test_keys_are_listed_with_ids_dates_and_what_counts() -> None:
    assert "No key yet" in weighbridge("list").stdout
    sign()
    assert weighbridge("rotate", "--reason", "a year has passed").exit_code == 0
    listed = json.loads(weighbridge("list", "--json").stdout)
    old, new = listed["keys"]
    assert (old["state"], old["counting"], old["reason"]) == ("replaced", 1, "a year has passed")
    assert (new["state"], new["until"], listed["can_sign"]) == ("in use", None, True)
    assert "PRIVATE" not in weighbridge("list", "--json").stdout
    table = weighbridge("list").stdout
    assert old["id"][:12] in table and "replaced" in table and new["id"][:12] in table


def test_each_change_is_in_the_audit_log_and_a_dry_run_is_none() -> None:
    sign()
    said = json.loads(weighbridge("rotate", "--dry-run", "--json").stdout)
    assert (said["kept"], said["dropped"], said["new"], said["dry_run"]) == (1, 0, None, True)
    assert list(AuditLog().entries()) == []
    weighbridge("rotate", "--reason", "planned")
    (old, new) = Installation.load().keys.listed()
    revoked = weighbridge("revoke", old.id[:8], "--reason", "it leaked")
    assert "store sign DIGEST" in revoked.stdout
    rotated, gone = AuditLog().entries()
    assert (rotated.action, rotated.reason) == ("signing key rotated", "planned")
    assert old.id[:12] in rotated.what and new.id[:12] in rotated.what
    assert (gone.action, gone.reason) == ("signing key revoked", "it leaked")
    AuditLog().verify()


def test_rotating_with_revoke_says_what_no_longer_counts() -> None:
    sign()
    said = json.loads(weighbridge("rotate", "--revoke", "--json").stdout)
    assert (said["revoked"], said["kept"], said["dropped"]) == (True, 0, 1)
    with pytest.raises(OptionInvalid, match="belongs to --revoke"):
        weighbridge("rotate", "--since", "2026-01-01")


def test_a_lost_key_is_replaced_by_the_command_only() -> None:
    sign()
    folder = Installation.load().keys.folder
    Path(folder, "weighbridge.key").unlink()
    with pytest.raises(SigningKeyMissing):
        sign()
    assert "cannot read" in weighbridge("list").stderr
    weighbridge("rotate", "--reason", "the disk is gone")
    sign()
