"""Each start of an engine verifies its artifact first: by a flow, after a crash, after a restart of the machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from registry.store import Artifact
from tasks.serve.fleet.launch import launch_command
from tasks.serve.fleet.local import LocalFleet
from tasks.serve.fleet.older_commands import launch_older_engines
from tasks.serve.fleet.protocol import RunningEngine
from tasks.serve.fleet.refusal import refusal
from tasks.serve.fleet.supervisor import Supervisor
from tests.serve.serve_support import FAKE, alter_byte, make_artifact, make_line, pid_of
from tests.support.waiting import wait_for
from weighbridge.errors import ArtifactDamaged
from weighbridge.settings import Settings


def is_refused(fleet: LocalFleet, engine: RunningEngine) -> bool:
    state = fleet.state(engine)
    return state is not None and state.status == "failed"


def kill(fleet: LocalFleet, engine: RunningEngine) -> None:
    os.kill(pid_of(fleet, engine), signal.SIGKILL)


def test_altered_bytes_are_refused_when_a_killed_engine_restarts(fleet: LocalFleet, settings: Settings) -> None:
    artifact = make_artifact(settings)
    engine = fleet.ensure(make_line(), artifact)
    alter_byte(settings, artifact)
    kill(fleet, engine)
    wait_for(lambda: is_refused(fleet, engine), seconds=20)
    assert not fleet.is_warm(engine)
    why = refusal(settings, engine.name)
    assert isinstance(why, ArtifactDamaged) and "config.json" in why.what and why.next_step
    assert "ArtifactDamaged" in "\n".join(fleet.log_tail(engine))
    # A flow that waits for it gets the same error, and leaves nothing of the engine.
    with pytest.raises(ArtifactDamaged, match=r"config\.json"):
        fleet.ensure(make_line(), artifact)


def test_altered_bytes_are_refused_after_a_restart_of_the_machine(fleet: LocalFleet, settings: Settings) -> None:
    artifact, supervisor = make_artifact(settings), Supervisor(settings)
    engine = fleet.ensure(make_line(), artifact)
    supervisor.shut_down()
    alter_byte(settings, artifact)
    supervisor.start({})
    with pytest.raises(ArtifactDamaged, match=r"config\.json"):
        fleet.warm_up(engine)
    assert is_refused(fleet, engine)


def test_a_mended_artifact_is_started_again(fleet: LocalFleet, settings: Settings) -> None:
    artifact = make_artifact(settings)
    engine = fleet.ensure(make_line(), artifact)
    mend = alter_byte(settings, artifact)
    kill(fleet, engine)
    wait_for(lambda: is_refused(fleet, engine), seconds=20)
    mend()
    assert fleet.ensure(make_line(), artifact) == engine
    assert refusal(settings, engine.name) is None


def test_a_link_to_other_weights_is_refused(fleet: LocalFleet, settings: Settings, tmp_path: Path) -> None:
    engine = fleet.ensure(make_line(), make_artifact(settings))
    link = settings.home / "engines" / engine.name / engine.plan.model_name
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.json").write_bytes((link / "config.json").read_bytes())
    link.unlink()
    link.symlink_to(elsewhere)
    kill(fleet, engine)
    wait_for(lambda: is_refused(fleet, engine), seconds=20)
    why = refusal(settings, engine.name)
    assert why is not None and "link leads to" in why.what


def test_a_publishers_modules_are_not_imported(fleet: LocalFleet, settings: Settings) -> None:
    """The folder that an engine runs in leads to the artifact's files."""
    artifact: Artifact = make_artifact(settings)
    engine = fleet.ensure(make_line(), artifact)
    for name in ("argparse", "registry"):
        (settings.home / "engines" / engine.name / f"{name}.py").write_text("raise SystemExit('imported')")
    kill(fleet, engine)
    wait_for(lambda: fleet.is_warm(engine), seconds=20)


def test_engines_of_an_older_version_verify_from_the_next_restart_on(fleet: LocalFleet, settings: Settings) -> None:
    artifact, supervisor = make_artifact(settings), Supervisor(settings)
    engine = fleet.ensure(make_line(), artifact)
    file = supervisor.programs / f"{engine.name}.conf"
    own = f"python {FAKE} {engine.endpoints[0].port} --answer 'It is 100%% Paris.'"
    launched = file.read_text()
    older = [f"command={own}" if line.startswith("command=") else line for line in launched.split("\n")]
    file.write_text("\n".join(older).replace("autorestart=unexpected\nexitcodes=86", "autorestart=true"))
    pid = pid_of(fleet, engine)
    assert launch_older_engines(settings, fleet.engines()) == [engine.name]
    assert launch_older_engines(settings, fleet.engines()) == []
    assert pid_of(fleet, engine) == pid
    command = next(line for line in file.read_text().split("\n") if line.startswith("command="))
    assert command.endswith(f" -- {own}") and "--digest" in command
    assert "autorestart=unexpected\nexitcodes=86" in file.read_text()
    alter_byte(settings, artifact)
    supervisor.shut_down()
    supervisor.start({})
    with pytest.raises(ArtifactDamaged):
        fleet.warm_up(engine)


def test_the_launcher_hands_its_command_on_unchanged(settings: Settings) -> None:
    command = ("engine", "--flag", "a b", "--", "--home", "x")
    launched = launch_command(settings.home, make_artifact(settings), settings.home / "link", 8200, command)
    assert launched[launched.index("--") + 1 :] == command
