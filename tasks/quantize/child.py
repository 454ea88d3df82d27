"""The quantizing process: `python -m tasks.quantize.child JOB.json`.

A process of its own, because llm-compressor and the loaders behind it patch what they import and keep what
memory they took. It says how far it is in lines of JSON on its standard output; all else that libraries
print goes to standard error, which is the log. When the flow that started it dies, its next line breaks
the pipe and it ends too.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys
from pathlib import Path

from tasks.quantize.job import Job, Message, deciding_versions


def main(path: Path) -> None:
    """Do the job that a file describes."""
    job = Job.model_validate_json(path.read_bytes())
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    done = 0

    def layer_done() -> None:
        nonlocal done
        done += 1
        print(Message(layers_done=done).model_dump_json(), file=out, flush=True)

    method = importlib.import_module(f"tasks.quantize.methods.{job.recipe.method}")
    method.quantize(job, layer_done)
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    used = resource.getrusage(resource.RUSAGE_SELF)
    last = Message(
        layers_done=done,
        peak_rss_bytes=used.ru_maxrss * unit,
        cpu_seconds=round(used.ru_utime + used.ru_stime, 3),
        versions=deciding_versions(),
    )
    print(last.model_dump_json(), file=out, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
