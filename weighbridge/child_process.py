"""Child processes, for work that may run out of memory or that leaves patches behind in its process.

As a program, `python -m weighbridge.child_process MODULE JOB_FILE`, it runs such a module, and ends it with its parent.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from weighbridge.environment import allowed_environment
from weighbridge.private_files import UMASK


def run_child(
    module: str, job_file: Path, log: Path, environment: Mapping[str, str], on_line: Callable[[str], None]
) -> int:
    """Run a module on a job file until it ends.

    Args:
        module: Run with `python -m`, with the job file as its argument.
        job_file: Description of the job.
        log: Receives its standard error.
        environment: Its whole environment.
        on_line: Called with each line of its standard output.

    Returns:
        Its exit status; negative for the signal that killed it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as log_file:
        child = subprocess.Popen(
            child_command(module, str(job_file)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_file,
            env=dict(environment),
            umask=UMASK,
            text=True,
        )
        try:
            assert child.stdout
            for line in child.stdout:
                on_line(line)
            return child.wait()
        finally:
            # Whatever stops this process from reading must stop the child too.
            child.kill()
            child.wait()
            if child.stdout:
                child.stdout.close()


def child_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in a process of its own, which ends soon after the one that starts it."""
    return [sys.executable, "-m", "weighbridge.child_process", module, *arguments]


def end_with_parent() -> None:
    """Let this process, and those that it started, end soon after its parent, also where that was killed with SIGKILL.

    A server that lives on would keep its port, and the one that is started in its place could not listen. A
    quantization that lives on would take the memory and the cores of the run that is started in its place.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        import psutil

        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def log_tail(log: Path, lines: int) -> str:
    """Return the last lines of a log, for the message about a process that ended too early."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def model_environment() -> dict[str, str]:
    """Return the environment for a process that runs a model: offline, and with threads that sleep while they wait.

    It gets no token and no password of this process. Spinning threads of several processes on the same cores
    slow each other down several times.
    """
    source = Path(__file__).resolve().parents[1]
    paths = [str(source), *filter(None, [os.environ.get("PYTHONPATH")])]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "OMP_NUM_THREADS": str(cores),
        "OMP_WAIT_POLICY": "PASSIVE",
        **allowed_environment("model"),
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def main() -> None:
    """Run the module that the command line names, with the rest of it as the module's own."""
    end_with_parent()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
