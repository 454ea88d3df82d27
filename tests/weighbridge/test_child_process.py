"""Child processes that do not outlive what started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.support.waiting import wait_for

CHILD = """
import time
from weighbridge.child_process import end_with_parent
end_with_parent()
print("watches", flush=True)
time.sleep(60)
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_a_child_ends_soon_after_its_parent_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "watches\n"
        parent.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        # The child holds the other end of the pipe.
        assert parent.stdout.read() == ""
    assert time.monotonic() - killed < 30


WORK = """
import subprocess, sys, time
from pathlib import Path
converter = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path(sys.argv[1]).write_text(f"{__import__('os').getpid()} {converter.pid}")
time.sleep(600)
"""
FLOW = """
import os, sys
from pathlib import Path
from weighbridge.child_process import run_child
run_child("work_of_a_test", Path(sys.argv[1]), Path(sys.argv[1] + ".log"), dict(os.environ), print)
"""


def test_the_work_of_a_killed_run_ends_with_all_that_it_started(tmp_path: Path) -> None:
    (tmp_path / "work_of_a_test.py").write_text(WORK)
    job = tmp_path / "job"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    with subprocess.Popen([sys.executable, "-c", FLOW, str(job)], env=environment) as flow:
        wait_for(lambda: job.is_file() and len(job.read_text().split()) == 2, "the work", seconds=60)
        started = [psutil.Process(int(pid)) for pid in job.read_text().split()]
        flow.kill()
    wait_for(lambda: all(not _runs(process) for process in started), f"the end of {started}", seconds=30)


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
