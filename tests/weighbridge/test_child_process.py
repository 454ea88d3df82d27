"""Child processes that do not outlive what started them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

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
