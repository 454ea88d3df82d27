from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import Any

import psutil
import pytest

from registry.store import Store
from stack.restarting import require_known, restart
from tasks.engines import LaunchSpec
from tasks.serve.fleet.local import LocalFleet
from tests.registry.store_support import rewrite
from tests.serve.serve_support import FakeEngine, make_artifact, make_line, pid_of
from tests.support.waiting import wait_for
from weighbridge.errors import ArtifactDamaged, EngineFailed, ServiceUnknown
from weighbridge.settings import Settings


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"answer": ""}, "empty answer"),
        ({"answer": "go " * 20}, "same word"),
        ({"answer": "Paris<|im_end|>"}, "special token"),
        ({"status": 500}, "first real request"),
        ({"die-on-first": True}, "first real request"),
    ],
)
def test_a_healthy_engine_with_garbage_answers_is_refused_and_stopped(
    fleet: LocalFleet, settings: Settings, flags: dict[str, Any], reason: str
) -> None:
    with pytest.raises(EngineFailed, match=reason):
        fleet.ensure(make_line(**flags), make_artifact(settings))
    assert fleet.engines() == []


def test_a_failed_start_shows_the_last_log_lines(fleet: LocalFleet, settings: Settings) -> None:
    with pytest.raises(EngineFailed, match="unrecognized arguments: --nonsense"):
        fleet.ensure(make_line(nonsense=1), make_artifact(settings))
    assert fleet.engines() == []


def test_a_crash_looping_engine_fails_before_the_timeout(fleet: LocalFleet, settings: Settings) -> None:
    with pytest.raises(EngineFailed, match=r"ended 2 times before it answered, within .* Its last words: .*libcudart"):
        fleet.ensure(make_line(**{"die-starting": 1.2}), make_artifact(settings))
    assert fleet.engines() == []


def test_damaged_weights_are_never_started(fleet: LocalFleet, settings: Settings) -> None:
    artifact = make_artifact(settings)
    rewrite(Store.of(settings).unverified_folder(artifact) / "model/config.json", "{}")
    with pytest.raises(ArtifactDamaged, match=r"config\.json"):
        fleet.ensure(make_line(), artifact)


def test_a_port_in_use_is_skipped(fleet: LocalFleet, settings: Settings) -> None:
    with socket.create_server((settings.host, settings.engine_port_first)):
        engine = fleet.ensure(make_line(), make_artifact(settings))
    assert engine.endpoints[0].port == settings.engine_port_first + 1


def test_a_killed_engine_is_restarted(fleet: LocalFleet, settings: Settings) -> None:
    engine = fleet.ensure(make_line(), make_artifact(settings))
    os.kill(pid_of(fleet, engine), signal.SIGKILL)
    wait_for(lambda: fleet.is_warm(engine), seconds=20)


def test_an_engine_is_restarted_by_its_name_and_warm_afterwards(fleet: LocalFleet, settings: Settings) -> None:
    engine = fleet.ensure(make_line(), make_artifact(settings))
    before, messages = pid_of(fleet, engine), list[str]()
    [restarted] = restart(settings, [engine.name], lambda name, text: messages.append(f"{name} {text}"))
    assert restarted.name == engine.name and restarted.pid == pid_of(fleet, engine) != before
    assert fleet.is_warm(engine) and messages[0] == f"{engine.name} restarts"
    with pytest.raises(ServiceUnknown, match=f"did you mean {engine.name}"):
        require_known(settings, [engine.name[:-1]])


def test_a_running_engine_is_not_restarted_for_another_command(
    fleet: LocalFleet, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, artifact = make_line(), make_artifact(settings)
    engine = fleet.ensure(line, artifact)
    pid, launch = pid_of(fleet, engine), FakeEngine.launch

    def launch_otherwise(self: FakeEngine, *arguments: Any) -> LaunchSpec:
        return launch(self, *arguments).model_copy(update={"environment": {"NEWER": "1"}})

    monkeypatch.setattr(FakeEngine, "launch", launch_otherwise)
    with fleet.trial(line, artifact) as on_trial:
        assert on_trial == engine
    assert fleet.ensure(line, artifact) == engine
    assert pid_of(fleet, engine) == pid


def test_what_a_killed_or_cancelled_scoring_run_left_is_on_trial_no_more(fleet: LocalFleet, settings: Settings) -> None:
    line, artifact = make_line(), make_artifact(settings)
    engine = fleet.ensure(line, artifact)
    mark = settings.home / "engines" / engine.name / "trial"
    program = (
        "import pathlib, sys, time; from tasks.serve.fleet.trial_mark import held\n"
        "with held(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    scoring = subprocess.Popen([sys.executable, "-c", program, str(mark)], stdout=subprocess.PIPE)
    assert scoring.stdout and scoring.stdout.readline() == b"held\n" and fleet.on_trial(engine)
    scoring.kill()
    scoring.communicate()
    assert not fleet.on_trial(engine) and fleet.is_warm(engine), "the line's next promotion stops it"
    with fleet.trial(line, artifact) as again:
        assert again == engine and fleet.on_trial(engine)
    assert fleet.engines() == [], "and so does the release that goes on"


def test_nothing_of_the_fleet_is_left_after_shutdown(fleet: LocalFleet, settings: Settings) -> None:
    engine = fleet.ensure(make_line(), make_artifact(settings))
    pid = pid_of(fleet, engine)
    fleet._supervisor.shut_down()
    assert not psutil.pid_exists(pid)
