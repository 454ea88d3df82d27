"""Concurrent steps on Prefect's own engine with a temporary server."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from tasks.steps import side_by_side, step
from weighbridge.errors import SettingsInvalid, VerdictInvalid
from weighbridge.settings import load_settings


@pytest.fixture(scope="module")
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


meeting = threading.Barrier(2, timeout=60)


@step("inner-{number}")
def inner(number: int) -> int:
    """Part of `outer`."""
    return number * 10


@step("outer-{number}")
def outer(number: int) -> list[int]:
    """Finish only if a second `outer` runs at the same time; run two steps concurrently."""
    meeting.wait()
    return side_by_side(load_settings(), inner, [{"number": number}, {"number": number + 1}])


@step("fails-{number}")
def fails(number: int) -> int:
    """Fail for odd numbers."""
    if number % 2:
        raise VerdictInvalid(f"no {number}", "Take another.")
    return number


def test_steps_run_concurrently_and_may_nest(prefect: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_WEIGH_AT_ONCE", "2")

    @flow
    def story() -> list[list[int]]:
        return side_by_side(load_settings(), outer, [{"number": 1}, {"number": 5}])

    assert story() == [[10, 20], [50, 60]]


def test_the_first_failure_is_raised(prefect: None) -> None:
    @flow
    def story() -> list[int]:
        return side_by_side(load_settings(), fails, [{"number": 2}, {"number": 3}, {"number": 5}])

    with pytest.raises(VerdictInvalid, match="no 3"):
        story()


def test_an_uninstalled_task_runner_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_TASK_RUNNER", "ray")
    with pytest.raises(SettingsInvalid, match="prefect_ray is not installed"):
        side_by_side(load_settings(), inner, [{"number": 1}, {"number": 2}])


def test_dask_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_TASK_RUNNER", "dask")
    with pytest.raises(SettingsInvalid, match=r"'dask'.*use threads or ray"):
        load_settings()


def test_a_cache_key_does_not_depend_on_the_module_name() -> None:
    def work(number: int) -> int:
        """Prefect's worker loads a flow's file under a new module name in every run."""
        return number

    def kept_under(module: str, number: int) -> str | None:
        work.__module__ = module
        wrapped = step("work-{number}", key=lambda number: [number])(work)
        return wrapped.cache_key_fn(None, {"number": number})  # type: ignore[attr-defined]

    assert kept_under("flows.release", 1) == kept_under("__prefect_loader_140__", 1)
    assert kept_under("flows.release", 1) != kept_under("flows.release", 2)
