from __future__ import annotations

import os
import signal
import socket

import httpx
import psutil
import pytest

from registry.store import Store
from tests.serve.serve_support import make_artifact, make_line
from tests.support.waiting import wait_for
from weighbridge.errors import ArtifactDamaged, EngineFailed


def test_an_engine_is_started_once_and_proven(fleet, settings):
    artifact, told = make_artifact(settings), []
    first = fleet.ensure(make_line(), artifact, told.append)
    assert fleet.ensure(make_line(), artifact) == first
    assert httpx.get(f"{first.url}/health").status_code == 200
    assert any("is warm" in sentence for sentence in told)
    assert fleet.find(make_line(), artifact) == first
    fleet.stop(first)
    assert fleet.engines() == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{first.url}/health")


def test_other_flags_are_another_engine_on_another_port(fleet, settings):
    artifact = make_artifact(settings)
    first = fleet.ensure(make_line(), artifact)
    second = fleet.ensure(make_line(delay=0.01), artifact)
    assert first.name != second.name
    assert first.endpoints != second.endpoints


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
def test_a_healthy_engine_that_talks_garbage_is_refused_and_gone(fleet, settings, flags, reason):
    with pytest.raises(EngineFailed, match=reason):
        fleet.ensure(make_line(**flags), make_artifact(settings))
    assert fleet.engines() == []


def test_an_engine_that_does_not_start_shows_its_last_words(fleet, settings):
    with pytest.raises(EngineFailed, match="unrecognized arguments: --nonsense"):
        fleet.ensure(make_line(nonsense=1), make_artifact(settings))
    assert fleet.engines() == []


def test_an_engine_that_ends_again_and_again_is_given_up_before_its_time_is_over(fleet, settings):
    with pytest.raises(EngineFailed, match=r"ended 2 times before it answered, within .* Its last words: .*libcudart"):
        fleet.ensure(make_line(**{"die-starting": 1.2}), make_artifact(settings))
    assert fleet.engines() == []


def test_damaged_weights_are_never_started(fleet, settings):
    artifact = make_artifact(settings)
    (Store.of(settings).path(artifact) / "config.json").write_text("{}")
    with pytest.raises(ArtifactDamaged, match=r"config\.json"):
        fleet.ensure(make_line(), artifact)


def test_a_port_that_somebody_else_holds_is_passed_over(fleet, settings):
    with socket.create_server((settings.host, settings.engine_port_first)):
        one = fleet.ensure(make_line(), make_artifact(settings))
    assert one.endpoints[0].port == settings.engine_port_first + 1


def test_a_killed_engine_comes_back_by_itself(fleet, settings):
    one = fleet.ensure(make_line(), make_artifact(settings))
    os.kill(fleet.state(one).pid, signal.SIGKILL)
    wait_for(lambda: fleet.is_warm(one), seconds=20)


def test_a_trial_ends_with_its_block_but_not_what_served_before(fleet, settings):
    line, artifact = make_line(), make_artifact(settings)
    with fleet.trial(line, artifact) as one:
        assert fleet.on_trial(one)
    assert fleet.engines() == []
    served = fleet.ensure(line, artifact)
    with fleet.trial(line, artifact) as again:
        assert again == served
    assert fleet.is_warm(served)


def test_a_promotion_takes_over_an_engine_that_is_on_trial(fleet, settings):
    line, artifact = make_line(), make_artifact(settings)
    with fleet.trial(line, artifact):
        promoted = fleet.ensure(line, artifact)
    assert fleet.is_warm(promoted)
    assert not fleet.on_trial(promoted)


def test_nothing_of_the_fleet_is_left_after_shutdown(fleet, settings):
    one = fleet.ensure(make_line(), make_artifact(settings))
    pid = fleet.state(one).pid
    fleet._supervisor.shut_down()
    assert not psutil.pid_exists(pid)
