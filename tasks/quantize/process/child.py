"""The quantizing process: `python -m tasks.quantize.process.child JOB.json`.

It is a separate process because llm-compressor and its loaders patch modules and keep memory, and because a process
that the system kills does not take the flow with it. It reports progress in lines of JSON on standard output. All
output of libraries goes to standard error, which is the log. If the flow dies, the next line breaks the pipe and ends
this process.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys
from pathlib import Path

from filelock import FileLock

from tasks.quantize.process.folders import disk_full_errors
from tasks.quantize.process.job import ChildError, Job, Message, deciding_versions
from weighbridge.errors import WeighbridgeError

RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024
"""Unit of getrusage's `ru_maxrss`."""


def main(path: Path) -> int:
    """Do the job described in a file.

    Returns:
        The exit status: 0, or that of the named error in the last message.
    """
    job = Job.model_validate_json(path.read_bytes())
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    done = 0

    def layer_done() -> None:
        nonlocal done
        done += 1
        print(Message(layers_done=done).model_dump_json(), file=out, flush=True)

    method = importlib.import_module(f"tasks.quantize.methods.{job.recipe.method}")
    try:
        # The process of a killed flow may still be writing; it ends at its next progress line.
        with disk_full_errors(job.out), FileLock(job.out.parent / "writing.lock"):
            tokens = method.quantize(job, layer_done)
    except WeighbridgeError as error:
        print(Message(layers_done=done, failure=ChildError.of(error)).model_dump_json(), file=out, flush=True)
        return error.exit_status
    # A method may run another program, such as llama.cpp's converter.
    used, programs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    last = Message(
        layers_done=done,
        peak_rss_bytes=max(peak_rss_bytes(), programs.ru_maxrss * RSS_UNIT_BYTES),
        cpu_seconds=round(used.ru_utime + used.ru_stime + programs.ru_utime + programs.ru_stime, 3),
        calibration_tokens=tokens,
        versions=deciding_versions(job.recipe.method),
    )
    print(last.model_dump_json(), file=out, flush=True)
    return 0


def peak_rss_bytes() -> int:
    """Peak resident memory of this process.

    On Linux, getrusage's figure would include the parent's, which a new program inherits.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(fields["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
