"""The process of one flow run: Prefect's engine, held to results that this installation stored.

python -m stack.prefect_run        (started by `stack/worker.py`)
"""

from __future__ import annotations

import runpy

from tasks.stored_results import only_own_results

if __name__ == "__main__":
    only_own_results()
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
