"""Services that start are waited for as long as they get on, and a dead one is reported at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stack import starting
from stack.services import Service
from tasks.serve.fleet.program import Program
from tasks.serve.fleet.supervisor import Supervisor
from weighbridge.errors import StackFailed
from weighbridge.settings import load_settings

pytestmark = [pytest.mark.server, pytest.mark.timeout(200)]

BUSY = "import time\nwhile True: sum(range(10000)); time.sleep(0.01)"
ASLEEP = "import time; time.sleep(600)"
DIES = "import time; print('the port is taken', flush=True); time.sleep(2); raise SystemExit(3)"

Start = Callable[..., Service]


@pytest.fixture
def start(own_home: Path) -> Iterator[tuple[Supervisor, Start]]:
    supervisor = Supervisor(load_settings())
    supervisor.start({})

    def run(name: str, code: str, ready_seconds: float = 60) -> Service:
        script = own_home / f"{name}.py"
        script.write_text(code)
        log = own_home / "logs" / f"{name}.log"
        program = Program(name=name, command=(sys.executable, str(script)), folder=own_home, log=log)
        supervisor.run(program)
        return Service(name=name, program=program, ready_seconds=ready_seconds)

    yield supervisor, run
    supervisor.shut_down()


def never(service: Service) -> bool:
    return False


def test_a_service_that_is_busy_is_waited_for_past_any_fixed_time(
    start: tuple[Supervisor, Start], monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor, run = start
    monkeypatch.setattr(starting, "QUIET_SECONDS", 2.0)
    began, reports = time.monotonic(), list[str]()
    starting.wait_for(
        supervisor,
        [run("busy", BUSY)],
        lambda name, what: reports.append(f"{name} {what}"),
        lambda service: time.monotonic() - began > 7,
    )
    assert len(reports) == 1 and reports[0].startswith("busy ready after")


def test_a_service_that_dies_is_reported_at_once_with_the_end_of_its_log(start: tuple[Supervisor, Start]) -> None:
    supervisor, run = start
    began = time.monotonic()
    with pytest.raises(StackFailed, match=r"(?s)dies died after.*the port is taken.*weighbridge logs dies"):
        starting.wait_for(supervisor, [run("dies", DIES), run("busy", BUSY)], lambda name, what: None, never)
    assert time.monotonic() - began < 20


def test_a_service_that_does_nothing_is_given_up(
    start: tuple[Supervisor, Start], monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor, run = start
    monkeypatch.setattr(starting, "QUIET_SECONDS", 2.0)
    with pytest.raises(StackFailed, match=r"asleep is not ready after .* and does nothing"):
        starting.wait_for(supervisor, [run("asleep", ASLEEP)], lambda name, what: None, never)


def test_a_service_that_has_used_up_its_processor_time_is_given_up(start: tuple[Supervisor, Start]) -> None:
    supervisor, run = start
    with pytest.raises(StackFailed, match=r"busy has used .* s of processor time"):
        starting.wait_for(supervisor, [run("busy", BUSY, ready_seconds=1)], lambda name, what: None, never)
