"""A disk that becomes full during a quantization: a small file system that only the test sees."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.quantize.quantize_support import SHARDS, write_sharded
from weighbridge.errors import DiskFull
from weighbridge.home import project_root

IN_ITS_OWN_MOUNTS = ("unshare", "--user", "--map-root-user", "--mount")


def _mounts_work() -> bool:
    """Whether this machine lets a user mount something that only its own processes see."""
    if not shutil.which("unshare"):
        return False
    command = (*IN_ITS_OWN_MOUNTS, "mount", "-t", "tmpfs", "none", "/mnt")
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _mounts_work(), reason="no mounts in a user namespace here")
@pytest.mark.parametrize("spare_kib", [0, 80])
def test_a_disk_that_becomes_full_is_named_and_the_same_command_resumes(tmp_path: Path, spare_kib: int) -> None:
    release, disk = write_sharded(tmp_path / "release"), tmp_path / "disk"
    disk.mkdir()
    program = [sys.executable, str(Path(__file__).with_name("full_disk.py")), str(release), str(disk), str(spare_kib)]
    environment = {**os.environ, "WEIGHBRIDGE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(project_root())}
    done = subprocess.run(
        [*IN_ITS_OWN_MOUNTS, *program], capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert "full" in said["what"]
    assert said["status"] == DiskFull.exit_status
    assert said["finished_files"] < SHARDS
    assert bool(said["finished_files"]) == bool(spare_kib)
    assert said["looks_like_a_model"] == []
    assert said["share"] == 1, "with room again the same command finishes"
    assert said["left"] == ["out"], "and nothing else is left"
