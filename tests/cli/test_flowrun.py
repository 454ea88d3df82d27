"""Commands with `--worker`: a run that is under way is followed, and the worker's retries are not shown."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from cli import flowrun
from weighbridge.errors import Interrupted, RolloutAborted, StackDown
from weighbridge.settings import Settings, load_settings

PARAMETERS = {"line": "toy"}
RESULT = {"line": "toy", "version": 2, "changed": True}
STEP = uuid4()


def flow_run(name: str, kind: StateType, state_name: str, minute: int = 0, **parameters: Any) -> FlowRun:
    return FlowRun(
        id=uuid4(),
        flow_id=uuid4(),
        name=name,
        parameters={**PARAMETERS, **parameters},
        state=State(type=kind, name=state_name),
        state_type=kind,
        state_name=state_name,
        expected_start_time=datetime(2026, 11, 30, 12, minute, tzinfo=UTC),
    )


class RecordedClient:
    """A Prefect client that knows some runs, and plays what becomes of the run that is followed."""

    def __init__(self, active: list[FlowRun], states: list[State], log: list[str]) -> None:
        self.active, self._states, self._log = active, states, log
        self.created: list[FlowRun] = []

    def __enter__(self) -> RecordedClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_flow_runs(self, **_: Any) -> list[FlowRun]:
        return self.active

    def read_flow_run(self, run_id: UUID) -> FlowRun:
        run = next(run for run in (*self.active, *self.created) if run.id == run_id)
        if len(self._states) > 1:
            state = self._states.pop(0)
        else:
            [state] = self._states
        return run.model_copy(update={"state": state, "state_type": state.type, "state_name": state.name})

    def read_logs(self, _: Any, offset: int) -> list[SimpleNamespace]:
        at = datetime(2026, 11, 30, 12, tzinfo=UTC)
        return [
            SimpleNamespace(message=message, timestamp=at, task_run_id=STEP if "version" in message else None)
            for message in self._log[offset : offset + 2]
        ]

    def read_task_run(self, task_run_id: UUID) -> SimpleNamespace:
        assert task_run_id == STEP
        return SimpleNamespace(name="shift-traffic-to-2")

    def read_task_runs(self, **_: Any) -> list[Any]:
        return []


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def use(active: list[FlowRun], states: list[State], log: list[str]) -> RecordedClient:
        client = RecordedClient(active, states, log)

        def start(settings: Settings, deployment: str, parameters: dict[str, object], key: str) -> str:
            assert deployment == "promote/toy"
            created = flow_run("promote-toy-own", StateType.SCHEDULED, "Scheduled", **parameters)  # type: ignore[arg-type]
            client.created.append(created)
            return str(created.id)

        monkeypatch.setattr(flowrun, "get_client", lambda sync_client: client)
        monkeypatch.setattr(flowrun, "start", start)
        monkeypatch.setattr(flowrun, "POLL_SECONDS", 0.0)
        return client

    yield use


def completed() -> State:
    state: State = State(type=StateType.COMPLETED, name="Completed")
    state.data = RESULT
    return state


def promote(reports: list[str], **parameters: Any) -> flowrun.WorkerRun:
    given = {**PARAMETERS, **parameters}
    return flowrun.run_through_worker(load_settings(), "promote", "toy", given, reports.append)


def test_a_run_under_way_is_followed_with_its_canary_steps_and_without_the_workers_retries(
    play: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    running = State(type=StateType.RUNNING, name="Running")
    log = [
        "Aborted submission of flow run '1'. Server sent an abort signal: Concurrency limit reached.",
        "toy: version 2 gets 10 %",
        "Aborted submission of flow run '1'. Server sent an abort signal: Concurrency limit reached.",
        "toy: version 2 gets 100 %",
    ]
    under_way = flow_run("promote-toy-webhook", StateType.RUNNING, "Running")
    client = play([under_way], [running, running, completed()], log)
    reports: list[str] = []
    done = promote(reports)
    assert (done.result, done.began_before, client.created) == (RESULT, True, [])
    assert reports == ["promote/toy: promote-toy-webhook is under way (running); following it."]
    shown = capsys.readouterr().err
    assert "Aborted" not in shown
    assert [line.split(" | ", 1)[1] for line in shown.splitlines()] == [
        "shift-traffic-to-2 | toy: version 2 gets 10 %",
        "shift-traffic-to-2 | toy: version 2 gets 100 %",
    ]


def test_without_a_run_under_way_one_is_started_and_its_wait_for_the_slot_is_said_once(play: Any) -> None:
    waits = State(type=StateType.SCHEDULED, name="AwaitingConcurrencySlot")
    client = play([], [waits, waits, waits, completed()], [])
    reports: list[str] = []
    assert not promote(reports).began_before
    assert [run.name for run in client.created] == ["promote-toy-own"]
    assert [report for report in reports if "waits" in report] == [
        "promote-toy-own waits: another run of promote for this line is under way, and one runs at a time."
    ]


def test_the_running_one_is_followed_before_those_that_are_due_and_one_of_other_parameters_never(play: Any) -> None:
    due = flow_run("due", StateType.SCHEDULED, "Late", minute=1)
    later = flow_run("later", StateType.SCHEDULED, "Scheduled", minute=2)
    other = flow_run("other", StateType.RUNNING, "Running", version=7)
    unset = flow_run("running", StateType.RUNNING, "Running", version=None)
    client: Any = play([], [completed()], [])
    for active, expected in (([later, due, other], "due"), ([due, unset], "running"), ([other], None)):
        client.active = active
        found = flowrun.find_active_run(client, "promote", "toy", PARAMETERS)
        assert (found and found.name) == expected


def test_a_run_that_a_person_cancelled_in_prefect_is_no_failure_of_the_stack(play: Any) -> None:
    play(
        [flow_run("promote-toy", StateType.RUNNING, "Running")],
        [State(type=StateType.CANCELLED, name="Cancelled", message="Flow run was cancelled successfully.")],
        [],
    )
    with pytest.raises(Interrupted, match="was cancelled in Prefect; its finished steps are kept"):
        promote([])


def test_the_error_of_the_run_that_is_followed_is_the_commands(play: Any) -> None:
    state: State = State(
        type=StateType.FAILED,
        name="Failed",
        message="Flow run encountered an exception: RolloutAborted: Errors rose. Next: Read the report.",
    )
    play([flow_run("promote-toy", StateType.PENDING, "Pending")], [state], [])
    with pytest.raises(RolloutAborted, match="Errors rose") as aborted:
        promote([])
    assert aborted.value.next_step == "Read the report."


def test_a_prefect_that_answers_late_is_asked_again_with_the_same_key(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = play([], [completed()], [])
    start, keys = flowrun.start, []

    def slow(settings: Settings, deployment: str, parameters: dict[str, object], key: str) -> str:
        keys.append(key)
        if len(keys) < 3:
            raise StackDown("Prefect does not answer.", "Wait.")
        return start(settings, deployment, parameters, key)

    monkeypatch.setattr(flowrun, "start", slow)
    assert promote([]).result == RESULT
    assert len(keys) == 3 and len(set(keys)) == 1
    assert len(client.created) == 1
