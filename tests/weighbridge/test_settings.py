"""Settings: from the environment, the running stack, or the defaults; and a wrong one is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from weighbridge.errors import SettingsInvalid
from weighbridge.home import home_folder, project_root
from weighbridge.settings import load_settings


def test_nothing_binds_beyond_loopback_by_default() -> None:
    assert load_settings().host == "127.0.0.1"


def test_a_running_stacks_ports_are_found_by_another_shell(own_home: Path) -> None:
    (own_home / "stack.json").write_text(json.dumps({"mlflow_port": 5055, "home": "/elsewhere"}))
    settings = load_settings()
    assert settings.mlflow_url.endswith(":5055")
    assert settings.home == own_home


def test_the_environment_is_stronger_than_the_record(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_home / "stack.json").write_text(json.dumps({"mlflow_port": 5055, "hf_endpoint": "http://old"}))
    monkeypatch.setenv("WEIGHBRIDGE_MLFLOW_PORT", "5066")
    monkeypatch.setenv("HF_ENDPOINT", "http://new")
    settings = load_settings()
    assert settings.mlflow_port == 5066
    assert settings.hf_endpoint == "http://new"


@pytest.mark.parametrize("content", [b"{", b"[1]", b"1", b"\xff", b"[" * 100_000, b'{"a": 1, "a": 2}'])
def test_a_broken_record_is_as_good_as_none(own_home: Path, content: bytes) -> None:
    (own_home / "stack.json").write_bytes(content)
    assert load_settings().mlflow_port == 5000


@pytest.mark.parametrize("value", ["http", "0", "70000"])
def test_a_wrong_port_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_GATEWAY_PORT", value)
    with pytest.raises(SettingsInvalid) as caught:
        load_settings()
    assert caught.value.where == "WEIGHBRIDGE_GATEWAY_PORT"
    assert caught.value.exit_status == 2


def test_a_record_that_is_a_folder_is_as_good_as_none(own_home: Path) -> None:
    (own_home / "stack.json").mkdir()
    assert load_settings().mlflow_port == 5000


@pytest.mark.parametrize("value", ["abc", [], {"a": 1}, 70000, None])
def test_a_wrong_value_of_the_record_is_named_by_its_file(own_home: Path, value: object) -> None:
    (own_home / "stack.json").write_text(json.dumps({"mlflow_port": value}))
    with pytest.raises(SettingsInvalid) as caught:
        load_settings()
    assert caught.value.where == str(own_home / "stack.json") and "mlflow_port" in caught.value.what


@pytest.mark.parametrize("name", ["HOME", "ROOT"])
def test_links_in_a_circle_are_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.setenv(f"WEIGHBRIDGE_{name}", str(tmp_path / "circle" / "x"))
    with pytest.raises(SettingsInvalid, match="cannot be found") as caught:
        project_root() if name == "ROOT" else home_folder()
    assert caught.value.where == f"WEIGHBRIDGE_{name}"
