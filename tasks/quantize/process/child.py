"""The quantizing process: `python -m tasks.quantize.process.child JOB.json`.

A process of its own, because llm-compressor and the loaders behind it patch what they import and keep what
memory they took, and because a process that the system kills takes no flow with it. It says how far it is
in lines of JSON on its standard output; all else that libraries print goes to standard error, which is the
log. When the flow that started it dies, its next line breaks the pipe and it ends too.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys
from pathlib import Path

from filelock import FileLock

from tasks.quantize.process.folders import disk_full_errors
from tasks.quantize.process.job import Failure, Job, Message, deciding_versions
from weighbridge.errors import WeighbridgeError

RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024
"""Of getrusage's `ru_maxrss`."""


def main(path: Path) -> int:
    """Do the job that a file describes.

    Returns:
        The exit status: that of a named error, which is the last message then, or 0.
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
        # The process of a flow that was killed may be at it still: it ends when it next says how far it is.
        with disk_full_errors(job.out), FileLock(job.out.parent / "writing.lock"):
            tokens = method.quantize(job, layer_done)
    except WeighbridgeError as error:
        print(Message(layers_done=done, failure=Failure.of(error)).model_dump_json(), file=out, flush=True)
        return error.exit_status
    # A method may run a program of its own: llama.cpp's converter.
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
    """The most memory that this process held at once.

    getrusage's figure would include the parent's, which a new program inherits on Linux.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(fields["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
