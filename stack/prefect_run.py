"""The process of one flow run: Prefect's engine, held to what the worker has checked.

    python -m stack.prefect_run        (started by `stack/worker.py`)

The engine reads the run from the API again. Meanwhile somebody may have changed it there, so the parameters that
`prefect.yaml` fixes come from the worker; so does the entrypoint, by a variable of Prefect's own.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from prefect import flow_engine
from prefect.client.schemas.objects import FlowRun

from stack.slot import SlotLost, start_again_when_frozen
from tasks.stored_results import only_own_results

FIXED = "WEIGHBRIDGE_RUN_PARAMETERS"
"""Variable with the fixed parameters, as JSON."""


def hold_parameters(fixed: Mapping[str, Any]) -> None:
    """Let the engine read a run with these parameters, whatever the API says about them."""
    read = flow_engine.load_flow_run

    def read_and_hold(flow_run_id: UUID) -> FlowRun:
        run = read(flow_run_id=flow_run_id)
        return run.model_copy(update={"parameters": {**run.parameters, **fixed}})

    flow_engine.load_flow_run = read_and_hold


def main() -> None:
    """Run the flow run that the worker names."""
    only_own_results()
    hold_parameters(json.loads(os.environ.pop(FIXED, "{}")))
    start_again_when_frozen()
    try:
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
    except SlotLost:
        # Prefect has its state; another exit status would have the worker mark it as crashed.
        sys.exit(0)


if __name__ == "__main__":
    main()
