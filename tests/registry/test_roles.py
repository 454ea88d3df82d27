"""Files of roles and files of passwords."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from registry import accounts
from registry.access.roles import read_roles, rights, role_name
from weighbridge.errors import PasswordUnusable, RolesInvalid
from weighbridge.settings import Settings, load_settings

LINES = ["llama", "toy"]


def write_roles(folder: Path, text: str) -> Path:
    path = folder / "roles.yaml"
    path.write_text(text)
    return path


def test_a_file_gives_roles_of_lines_and_all_means_all(tmp_path: Path) -> None:
    text = "users:\n  ada: {reviewer: [toy], password_file: ada.txt}\n  bo: {builder: all, operator: [llama]}\n"
    roles = read_roles(write_roles(tmp_path, text), LINES)
    assert roles.held(LINES) == {
        "ada": {("reviewer", "toy")},
        "bo": {("builder", "llama"), ("builder", "toy"), ("operator", "llama")},
    }
    assert roles.users["ada"].password_file == tmp_path / "ada.txt"
    assert role_name("reviewer", "toy") == "reviewer:toy"


def test_no_role_writes_both_candidates_and_approvals() -> None:
    assert rights("builder", "toy", "1")[("registered_model", "toy")] == "READ"
    for role in ("reviewer", "operator"):
        assert rights(role, "toy", "1")[("registered_model", "toy-candidates")] == "READ"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("users: {ada: {reviewer: [lama]}}", "users.ada names lama; the lines are llama, toy"),
        ("users: {ada: {reviewer: all, builder: [toy]}}", "users.ada is builder and reviewer of toy"),
        ("users: {ada: {approver: [toy]}}", "users.ada.approver: extra inputs"),
        ("users: {admin: {reviewer: [toy]}}", "the installation's own"),
        ("users: {'../ada': {reviewer: [toy]}}", "a name has letters"),
        ("users: [ada]", "users: input should be"),
        ("users: {ada: {password: hunter2hunter2}}", "users.ada.password: extra inputs"),
        ("users: {", "not YAML"),
    ],
)
def test_an_invalid_file_is_explained(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(RolesInvalid, match=re.escape(complaint)) as raised:
        read_roles(write_roles(tmp_path, text), LINES)
    assert raised.value.where.startswith(str(tmp_path / "roles.yaml"))


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RolesInvalid, match="cannot be read: No such file"):
        read_roles(tmp_path / "roles.yaml", LINES)


def test_a_password_is_generated_once_and_private() -> None:
    settings = load_settings()
    password = accounts.keep_password(settings, "ada")
    path = accounts.password_file(settings, "ada")
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert len(password) >= accounts.SHORTEST_PASSWORD
    assert accounts.keep_password(settings, "ada") == password == accounts.read_password(path)
    path.chmod(0o640)
    with pytest.raises(PasswordUnusable, match="can be read by others"):
        accounts.keep_password(settings, "ada")


def test_a_password_comes_from_a_variable_or_a_given_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, own = load_settings(), tmp_path / "own"
    own.write_text("correct horse battery\n")
    own.chmod(0o600)
    assert accounts.given_password(settings, "on-call", own) == ("correct horse battery", str(own))
    monkeypatch.setenv("WEIGHBRIDGE_PASSWORD_ON_CALL", "staple staple staple")
    assert accounts.given_password(settings, "on-call", own)[0] == "staple staple staple"
    monkeypatch.setenv("WEIGHBRIDGE_PASSWORD_ON_CALL", "short")
    with pytest.raises(PasswordUnusable, match="has 5 characters"):
        accounts.given_password(settings, "on-call", own)
    with pytest.raises(PasswordUnusable, match="No such file"):
        accounts.given_password(settings, "ada", tmp_path / "nothing")


def test_a_process_signs_in_as_the_pipeline_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    with_accounts = load_settings().model_copy(update={"mlflow_auth": True})
    pipelines = accounts.keep_password(with_accounts, accounts.PIPELINE)
    monkeypatch.setenv("HOME", str(with_accounts.home))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    accounts.sign_in(load_settings())
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "", "MLflow has no accounts"
    accounts.sign_in(with_accounts)
    assert (accounts.signed_in_as(), os.environ["MLFLOW_TRACKING_PASSWORD"]) == (accounts.PIPELINE, pipelines)

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "her own password")
    accounts.sign_in(with_accounts)
    assert (accounts.signed_in_as(), os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("ada", "her own password")


def test_mlflows_credentials_file_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings().model_copy(update={"mlflow_auth": True})
    accounts.keep_password(settings, accounts.PIPELINE)
    monkeypatch.setenv("HOME", str(settings.home))
    (settings.home / ".mlflow").mkdir()
    (settings.home / ".mlflow" / "credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = ada\nmlflow_tracking_password = her own password\n"
    )
    accounts.sign_in(settings)
    assert accounts.signed_in_as() == "ada" and not os.environ.get("MLFLOW_TRACKING_PASSWORD")


def test_accounts_stay_enabled_at_the_next_start() -> None:
    settings = load_settings()
    assert not settings.mlflow_auth
    (settings.home / "mlflow").mkdir()
    (settings.home / "mlflow" / "auth.db").touch()
    assert load_settings().mlflow_auth
    assert not Settings(mlflow_auth=False).mlflow_auth
