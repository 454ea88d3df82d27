"""The choice of the home: another user's, unusable, relative or misspelt ones, and ports that a home remembers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from weighbridge.errors import HomeNotYours, HomeUnusable, SettingsInvalid
from weighbridge.home import home_hint
from weighbridge.private_files import require_own_home
from weighbridge.settings import load_settings

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")
NOBODY = 65534
COMMANDS = [
    *[("status",), ("up",), ("up", "--dry-run"), ("down",), ("restart", "worker"), ("logs",), ("audit",)],
    *[("store", "ls"), ("key", "list"), ("promote", "smollm2"), ("rollback", "smollm2"), ("approve", "smollm2", "1")],
    *[("candidates", "smollm2"), ("backup", "b"), ("keys", "list"), ("release", "smollm2")],
]


@contextmanager
def nobody() -> Iterator[None]:
    """Be another user for a while."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def weighbridge(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


@AS_ROOT
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_refuses_the_home_of_another_user(
    own_home: Path, command: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    from cli.main import run

    os.chown(own_home, NOBODY, NOBODY)
    with pytest.raises(SystemExit) as ended:
        run(command)
    said = capfd.readouterr()
    assert ended.value.code == 3, said.err
    assert "HomeNotYours: " in said.err and f"user {NOBODY} (nobody)" in said.err and "WEIGHBRIDGE_HOME" in said.err
    assert list(own_home.iterdir()) == [] and said.out == ""


@AS_ROOT
def test_another_users_home_is_one_document_with_json(own_home: Path) -> None:
    os.chown(own_home, NOBODY, NOBODY)
    done = weighbridge("status", "--json")
    assert done.returncode == 3 and json.loads(done.stdout)["error"] == "HomeNotYours"


@AS_ROOT
def test_a_home_behind_a_closed_folder_names_its_owner(tmp_path: Path) -> None:
    (tmp_path / "closed" / "home").mkdir(parents=True)
    tmp_path.chmod(0o755)
    (tmp_path / "closed").chmod(0o700)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    with nobody(), pytest.raises(HomeNotYours, match=r"closed, which belongs to user 0 \(root\)"):
        require_own_home(tmp_path / "closed" / "home")


@AS_ROOT
@pytest.mark.parametrize("mode", [0o000, 0o500, 0o300])
def test_an_own_home_whose_mode_keeps_one_out_says_how_to_open_it(tmp_path: Path, mode: int) -> None:
    (home := tmp_path / "home").mkdir()
    os.chown(home, NOBODY, NOBODY)
    home.chmod(mode)
    for parent in [tmp_path, *tmp_path.parents[:3]]:
        parent.chmod(parent.stat().st_mode | 0o055)
    with nobody(), pytest.raises(HomeUnusable, match=f"mode {mode:03o}") as caught:
        require_own_home(home)
    assert f"chmod u+rwx {home}" in caught.value.next_step


@pytest.mark.parametrize("below", ["", "deeper/home"])
@pytest.mark.parametrize("command", [("up",), ("status",), ("audit",)], ids=" ".join)
def test_a_home_that_is_a_file_or_below_one_is_named(tmp_path: Path, below: str, command: tuple[str, ...]) -> None:
    (file := tmp_path / "file").write_text("")
    done = weighbridge(*command, WEIGHBRIDGE_HOME=str(file / below))
    assert done.returncode == 3 and "HomeUnusable: " in done.stderr and "Traceback" not in done.stderr


@AS_ROOT
def test_a_stack_that_another_user_runs_is_refused_with_its_process(own_home: Path) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (pid_file := own_home / "supervisor" / "supervisord.pid").parent.mkdir()
        pid_file.write_text(f"{sleeper.pid}\n")
        os.chown(pid_file, NOBODY, NOBODY)
        with pytest.raises(HomeNotYours, match=f"run by user {NOBODY} .nobody., process {sleeper.pid}") as caught:
            load_settings()
        assert f"sudo kill {sleeper.pid}" in caught.value.next_step
        assert "chown -R root" in caught.value.next_step
    finally:
        sleeper.kill()
        sleeper.wait()
    assert load_settings().home == own_home, "what a stack of the past has left keeps nobody out"


@AS_ROOT
def test_what_a_sudo_left_closed_in_an_own_home_is_named(tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    (home / "stack.json").write_text("{}")
    (home / "stack.json").chmod(0o600)
    os.chown(home, NOBODY, NOBODY)
    for parent in [tmp_path, *tmp_path.parents[:3]]:
        parent.chmod(parent.stat().st_mode | 0o055)
    with nobody(), pytest.raises(HomeNotYours, match=r"belongs to user 0 \(root\)") as caught:
        require_own_home(home)
    assert f"sudo chown -R nobody {home}" in caught.value.next_step


def test_a_relative_home_is_one_folder_for_all_services_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEIGHBRIDGE_HOME", "mine")
    assert load_settings().home == tmp_path / "mine"
    assert f"export WEIGHBRIDGE_HOME={tmp_path / 'mine'}" in home_hint()


def test_a_misspelt_home_is_compared_with_its_neighbours_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weighbridge" / "supervisor").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    misspelt = tmp_path / "wieghbridge"
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(misspelt))
    assert "did you mean weighbridge?" in home_hint()
    done = weighbridge("status")
    assert done.returncode == 0 and str(misspelt) in done.stdout and "did you mean weighbridge?" in done.stdout
    assert not misspelt.exists()


def test_ports_move_by_the_offset_that_the_home_remembers(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_home / "settings.json").write_text('{"port_offset": 300}')
    monkeypatch.setenv("WEIGHBRIDGE_MLFLOW_PORT", "5055")
    settings = load_settings()
    assert (settings.gateway_port, settings.prefect_port, settings.engine_port_first) == (8380, 4500, 8500)
    assert settings.mlflow_port == 5055, "a port with a variable of its own is not moved"
    monkeypatch.setenv("WEIGHBRIDGE_PORT_OFFSET", "0")
    assert load_settings().gateway_port == 8080


def test_the_offset_of_a_command_is_stronger_than_that_of_the_home(own_home: Path) -> None:
    (own_home / "settings.json").write_text('{"port_offset": 300}')
    assert load_settings(port_offset=400).gateway_port == 8480
    assert load_settings(port_offset=0).gateway_port == 8080


def test_a_new_offset_moves_the_ports_of_a_running_stack_and_no_others(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"port_offset": 100, "gateway_port": 8180, "mlflow_port": 5055, "prefect_port": 4300}
    (own_home / "stack.json").write_text(json.dumps(record))
    assert load_settings().gateway_port == 8180
    monkeypatch.setenv("WEIGHBRIDGE_PORT_OFFSET", "200")
    settings = load_settings()
    assert (settings.gateway_port, settings.prefect_port, settings.mlflow_port) == (8280, 4400, 5055)


@pytest.mark.parametrize("value", ["-1", "70000", "many"])
def test_a_wrong_offset_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_PORT_OFFSET", value)
    with pytest.raises(SettingsInvalid) as caught:
        load_settings()
    assert caught.value.where == "WEIGHBRIDGE_PORT_OFFSET"


@pytest.mark.parametrize("content", ["{", "[]", '{"port_offset": "many"}', '{"port_offset": -5}', "{}"])
def test_a_damaged_memory_of_the_home_is_as_good_as_none(own_home: Path, content: str) -> None:
    (own_home / "settings.json").write_text(content)
    assert load_settings().gateway_port == 8080
