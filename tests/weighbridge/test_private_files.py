"""The home is its user's alone: new files, those of an older installation, and folders that others control."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from weighbridge.errors import HomeUnsafe
from weighbridge.home import home_folder, project_root
from weighbridge.private_files import LONGEST_SOCKET_PATH, private_home, socket_path, user_name

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")
NOBODY = 65534
MAKES_STATE = """
import os; os.umask(0)
from registry.installation import Installation
installation = Installation.load()
installation.audit_log.append("approve", "toy", 1, who="ada")
(installation.settings.home / "plain").write_text("x")
"""


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def old_home(tmp_path: Path) -> Path:
    """A home as an older Weighbridge made it at umask 0."""
    home = tmp_path / "home"
    for name in ("supervisor/programs/worker.conf", "mlflow/auth.db", "store/toy/weights.safetensors"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("x")
    for path in [home, *home.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)
    return home


def test_a_new_home_is_private(tmp_path: Path) -> None:
    assert private_home(tmp_path / "a" / "home") == [] and mode(tmp_path / "a" / "home") == 0o700


def test_an_existing_home_is_made_private_once_and_says_so(tmp_path: Path) -> None:
    home = old_home(tmp_path)
    [sentence] = private_home(home)
    assert "made private" in sentence and str(home) in sentence
    assert mode(home) == 0o700 and mode(home / "supervisor" / "programs") == 0o700
    assert mode(home / "mlflow" / "auth.db") == 0o600 and mode(home / "supervisor/programs/worker.conf") == 0o600
    assert mode(home / "store/toy/weights.safetensors") == 0o644, "weights are no secret, but only we write them"
    assert private_home(home) == []


def test_a_link_in_the_home_does_not_change_what_it_leads_to(tmp_path: Path) -> None:
    home, outside = old_home(tmp_path), tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o644)
    (home / "link").symlink_to(outside)
    private_home(home)
    assert mode(outside) == 0o644


def test_a_home_may_be_a_link_to_a_folder_on_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "large disk").mkdir()
    (tmp_path / "root/.weighbridge").symlink_to(tmp_path / "large disk")
    monkeypatch.setenv("WEIGHBRIDGE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("WEIGHBRIDGE_HOME")
    home = home_folder()
    private_home(home)
    assert home == tmp_path / "large disk" and mode(home) == 0o700


def test_a_home_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("x")
    with pytest.raises(HomeUnsafe) as caught:
        private_home(tmp_path / "home")
    assert caught.value.where == str(tmp_path / "home") and "WEIGHBRIDGE_HOME" in caught.value.next_step


@pytest.mark.parametrize("what", ["home", "home/supervisor/programs/worker.conf"])
@AS_ROOT
def test_what_belongs_to_another_user_is_refused(tmp_path: Path, what: str) -> None:
    home = old_home(tmp_path)
    os.chown(tmp_path / what, NOBODY, NOBODY)
    with pytest.raises(HomeUnsafe, match=f"belongs to user {NOBODY}") as caught:
        private_home(home)
    assert caught.value.where == str(tmp_path / what)


def test_a_folder_above_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(HomeUnsafe, match="replace the home"):
        private_home(tmp_path / "home")
    tmp_path.chmod(0o1777)
    assert private_home(tmp_path / "home") == []


@AS_ROOT
def test_a_folder_above_of_another_user_is_reported(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", NOBODY, NOBODY)
    assert private_home(tmp_path / "theirs" / "home") == [
        f"note: {tmp_path / 'theirs'} belongs to user {user_name(NOBODY)}, who can replace the home"
    ]


def test_whatever_the_shells_umask_a_process_writes_for_its_user_only(own_home: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(project_root())}
    subprocess.run([sys.executable, "-c", MAKES_STATE], env=environment, check=True, cwd=own_home)
    written = [path for path in own_home.rglob("*") if not path.is_symlink()]
    assert own_home / "plain" in written
    assert [path for path in written if path.stat().st_mode & 0o077] == []


def test_the_socket_of_a_long_path_lies_in_a_private_folder(tmp_path: Path) -> None:
    assert socket_path(tmp_path, "a.sock") == tmp_path / "a.sock"
    short = socket_path(tmp_path / ("long" * 40), "admin.sock")
    assert len(str(short)) <= LONGEST_SOCKET_PATH and short.suffix == ".sock" and mode(short.parent) == 0o700
    assert short != socket_path(tmp_path / ("Long" * 40), "admin.sock")
