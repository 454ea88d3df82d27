"""The loading process: jobs as lines of JSON on standard input, answers as lines on standard output.

It stays for a while after a job, because importing torch and transformers takes longer than a proof.
"""

from __future__ import annotations

import os
import select
import sys

from tasks.quantize.loading.proof import LoadJob, prove

IDLE_SECONDS = 60.0


def main() -> None:
    """Answer jobs until none came for a while, or the other process ended."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while select.select([sys.stdin], [], [], IDLE_SECONDS)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        print(prove(LoadJob.model_validate_json(line)).model_dump_json(), file=out, flush=True)


if __name__ == "__main__":
    main()
