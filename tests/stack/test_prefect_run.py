"""The process of a flow run keeps to what the worker has checked."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from prefect import flow_engine
from prefect.client.schemas.objects import FlowRun

from stack.prefect_run import hold_parameters


def test_a_fixed_parameter_that_was_changed_after_the_check_is_the_file_s_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = FlowRun(id=uuid4(), flow_id=uuid4(), name="evil", parameters={"line": "other", "version": 2})

    def read(flow_run_id: UUID) -> FlowRun:
        return changed

    monkeypatch.setattr(flow_engine, "load_flow_run", read)
    hold_parameters({"line": "toy"})
    assert flow_engine.load_flow_run(flow_run_id=changed.id).parameters == {"line": "toy", "version": 2}
