"""MLflow's authorization errors: every operation states the role that it needs, and the message names it."""

from __future__ import annotations

import inspect

import pytest

from registry.access.grants import Granting
from registry.models.auth_errors import explain_denial
from registry.models.reader import Reader
from registry.models.recorder import Recorder
from registry.models.registry import Registry
from registry.watch.runs import WatchRuns

ROLES = {
    "builder": {"ensure_line", "identity", "record_release", "record", "is_intact"},
    "reviewer": {"approve", "override"},
    "operator": {"comment", "set_state", "set_production", "set_previous"},
    "admin": {"apply"},
}


class Denied(Exception):
    def __init__(self, code: str) -> None:
        self.error_code = code


@pytest.mark.parametrize("kind", [Reader, Recorder, Registry, WatchRuns, Granting])
def test_every_method_that_reaches_mlflow_states_its_role(kind: type) -> None:
    methods = {name: method for name, method in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_"}
    missing = {name for name, method in methods.items() if not getattr(method, "role_needed", "")}
    assert not missing, "without a role, a refusal of MLflow is not explained"
    stated = {name: getattr(method, "role_needed") for name, method in methods.items()}  # noqa: B009
    assert stated == {name: next((role for role, named in ROLES.items() if name in named), "any") for name in stated}


@pytest.fixture(autouse=True)
def _signed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")


def test_a_denial_names_account_role_and_line() -> None:
    error = Denied("PERMISSION_DENIED")
    denial = explain_denial("set_production", "operator", ("toy", 1), error, "http://mlflow")
    assert denial and "ada is signed in and does not hold the role operator of toy, which `set_production`" in str(
        denial
    )
    denial = explain_denial("versions", "any", ("toy",), error, "http://mlflow")
    assert denial and "holds no role of toy" in str(denial)
    denial = explain_denial("apply", "admin", (None,), error, "http://mlflow")
    assert denial and "is no admin of MLflow" in str(denial)


def test_a_wrong_password_is_explained_and_other_errors_are_not() -> None:
    denial = explain_denial("versions", "any", ("toy",), Denied("UNAUTHENTICATED"), "http://mlflow")
    assert denial and "does not know ada with this password" in str(denial)
    assert explain_denial("versions", "any", ("toy",), Denied("INTERNAL_ERROR"), "http://mlflow") is None


def test_a_denial_without_an_account_is_not_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert explain_denial("versions", "any", ("toy",), Denied("PERMISSION_DENIED"), "http://mlflow") is None
