from __future__ import annotations

import json
import pickle

import pytest

from weighbridge import errors
from weighbridge.errors import SettingsInvalid, VerdictRegression, WeighbridgeError
from weighbridge.settings import load_settings


def test_nothing_binds_beyond_loopback_by_default():
    settings = load_settings()
    assert settings.host == "127.0.0.1"
    assert settings.gateway_admin_url.startswith("http://127.0.0.1:")


def test_a_running_stacks_ports_are_found_by_another_shell(own_home):
    (own_home / "stack.json").write_text(json.dumps({"mlflow_port": 5055, "home": "/elsewhere"}))
    settings = load_settings()
    assert settings.mlflow_url.endswith(":5055")
    assert settings.home == own_home


def test_the_environment_is_stronger_than_the_record(own_home, monkeypatch):
    (own_home / "stack.json").write_text(json.dumps({"mlflow_port": 5055, "hf_endpoint": "http://old"}))
    monkeypatch.setenv("WEIGHBRIDGE_MLFLOW_PORT", "5066")
    monkeypatch.setenv("HF_ENDPOINT", "http://new")
    settings = load_settings()
    assert settings.mlflow_port == 5066
    assert settings.hf_endpoint == "http://new"


def test_a_broken_record_is_as_good_as_none(own_home):
    (own_home / "stack.json").write_text("{")
    assert load_settings().mlflow_port == 5000


@pytest.mark.parametrize("value", ["http", "0", "70000"])
def test_a_wrong_port_is_named_by_its_variable(monkeypatch, value):
    monkeypatch.setenv("WEIGHBRIDGE_GATEWAY_PORT", value)
    with pytest.raises(SettingsInvalid) as caught:
        load_settings()
    assert caught.value.where == "WEIGHBRIDGE_GATEWAY_PORT"
    assert caught.value.exit_status == 2


def kinds():
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, WeighbridgeError)]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_errors_survive_the_way_between_processes(kind):
    error = pickle.loads(pickle.dumps(kind("What is wrong.", "Do this.", where="here")))
    assert str(error) == f"{kind.__name__}: What is wrong. [here] Next: Do this."
    assert error.exit_status != 0


def test_the_three_verdict_failures_are_told_apart_by_exit_status():
    statuses = {kind.exit_status for kind in (VerdictRegression, errors.VerdictInconclusive, errors.VerdictInvalid)}
    assert len(statuses) == 3
