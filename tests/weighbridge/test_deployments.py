"""Starting a deployment: once for a key, and what Prefect answers instead is named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.recorded_prefect import RecordedPrefect
from weighbridge.deployments import start
from weighbridge.errors import ReleaseNotStarted, StackDown, StackFailed
from weighbridge.settings import Settings

RELEASE, PROMOTE = "release/toy", "promote/toy"


@pytest.fixture
def prefect() -> Iterator[RecordedPrefect]:
    server = RecordedPrefect({RELEASE: False, PROMOTE: True})
    yield server
    server.close()


@pytest.fixture
def settings(prefect: RecordedPrefect) -> Settings:
    return Settings(prefect_port=prefect.port)


def test_the_same_key_starts_one_run_and_no_key_starts_one_a_call(prefect: RecordedPrefect, settings: Settings) -> None:
    first = start(settings, RELEASE, {"line": "toy"}, "a key")
    assert start(settings, RELEASE, {"line": "toy"}, "a key") == first
    assert start(settings, RELEASE, {"line": "toy"}) != start(settings, RELEASE, {"line": "toy"})
    assert [run["parameters"] for run in prefect.asked(RELEASE)] == [{"line": "toy"}] * 3


def test_a_deployment_starts_whether_or_not_its_schedule_is_active(
    prefect: RecordedPrefect, settings: Settings
) -> None:
    assert start(settings, RELEASE, {}, "key") and start(settings, PROMOTE, {}, "key 2")
    assert len(prefect.asked(RELEASE)) == len(prefect.asked(PROMOTE)) == 1


def test_a_server_that_is_down_has_started_nothing(prefect: RecordedPrefect, settings: Settings) -> None:
    prefect.close()
    with pytest.raises(StackDown, match=r"release/toy was not started.*weighbridge up"):
        start(settings, RELEASE, {}, "key")


def test_a_server_that_fails_before_it_is_asked_for_a_run_has_started_nothing(
    prefect: RecordedPrefect, settings: Settings
) -> None:
    prefect.broken = True
    with pytest.raises(StackDown):
        start(settings, RELEASE, {}, "key")


@pytest.mark.parametrize("status", [409, 422])
def test_a_refusal_is_named(prefect: RecordedPrefect, settings: Settings, status: int) -> None:
    prefect.refusal = status
    with pytest.raises(ReleaseNotStarted, match=f"refuses release/toy: HTTP {status}"):
        start(settings, RELEASE, {}, "key")


def test_an_unknown_deployment_is_named(settings: Settings) -> None:
    with pytest.raises(ReleaseNotStarted, match="no deployment release/other"):
        start(settings, "release/other", {}, "key")


def test_a_lost_answer_is_no_refusal_and_the_same_key_finds_the_run(
    prefect: RecordedPrefect, settings: Settings
) -> None:
    prefect.hangs_up = True
    with pytest.raises(StackFailed, match=r"lost.*nothing is started twice"):
        start(settings, RELEASE, {}, "key")
    prefect.hangs_up = False
    assert start(settings, RELEASE, {}, "key") == prefect.asked(RELEASE)[0]["id"]
    assert len(prefect.asked(RELEASE)) == 1


def test_an_error_of_prefect_s_own_and_no_key_leave_it_open_whether_a_run_exists(
    prefect: RecordedPrefect, settings: Settings
) -> None:
    prefect.refusal = 503
    with pytest.raises(StackFailed, match=r"lost \(HTTP 503\).*may have been started"):
        start(settings, RELEASE, {})
