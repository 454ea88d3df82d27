"""The watch's ledger: one commit starts one release, despite concurrent watches and kills."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from registry.models.records import SOURCE
from registry.models.registry import Registry
from registry.watch import ledger
from registry.watch.ledger import Decision, Ledger, Reason
from registry.watch.runs import REASONS, WatchRuns
from weighbridge.errors import LedgerDamaged, ReleaseNotStarted, StackDown, WatchBusy
from weighbridge.files import PRIVATE

COMMIT, NEWER = "0" * 39 + "1", "0" * 39 + "2"


def decision(outcome: str = "release", **changes: Any) -> Decision:
    fields = {
        "line": "toy",
        "kind": "commit",
        "repo": "org/toy",
        "commit": COMMIT,
        "outcome": outcome,
        "reasons": [Reason(code="policy", text="watch.on_new is release", weight="notes")],
        "rules": "r1",
    }
    return Decision.model_validate({**fields, **changes})


POINTS = [f"{when} write {number}" for number in (1, 2, 3) for when in ("before", "after")] + [
    "before start",
    "after start",
]


def make_start(runs: Path) -> Callable[[Decision], str]:
    """Make a stand-in for Prefect that keeps runs in a folder: one key is one run, as on its server."""
    runs.mkdir(exist_ok=True)

    def start(decided: Decision) -> str:
        run = runs / decided.key.replace("/", "_")
        with run.open("a") as file:
            file.write("asked\n")
        return run.name

    return start


def settle_in_process(folder: Path, kill_at: str = "", pause_seconds: float = 0.0) -> BaseProcess:
    """Settle in another process, killed at a point such as `before write 2` or `after start`."""

    def run() -> None:
        writes, plain, start = 0, ledger.write_whole, make_start(folder / "runs")

        def die(point: str) -> None:
            if point == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        def write_whole(path: Path, content: str | bytes, mode: int = PRIVATE) -> None:
            nonlocal writes
            writes += 1
            die(f"before write {writes}")
            plain(path, content, mode)
            die(f"after write {writes}")

        def start_or_die(decided: Decision) -> str:
            die("before start")
            time.sleep(pause_seconds)
            run_name = start(decided)
            die("after start")
            return run_name

        ledger.write_whole = write_whole
        Ledger("toy", folder / "watch").settle(decision(), start_or_die)
        # Skip exit handlers: Prefect joins its threads at exit, and a fork has none of them.
        os._exit(0)

    (folder / "runs").mkdir(exist_ok=True)
    process = get_context("fork").Process(target=run)
    process.start()
    return process


@pytest.mark.parametrize("point", POINTS)
def test_a_watch_killed_at_any_point_starts_one_release_on_retry(tmp_path: Path, point: str) -> None:
    killed = settle_in_process(tmp_path, point)
    killed.join(30)
    assert killed.exitcode == -signal.SIGKILL
    ledger = Ledger("toy", tmp_path / "watch")
    for _ in range(2):
        assert ledger.settle(decision(), make_start(tmp_path / "runs")).state == "started"
    (run,) = (tmp_path / "runs").iterdir()
    # Requested twice only if the first request may have been lost.
    assert run.read_text().count("asked") == (2 if point in ("after start", "before write 3") else 1)


def test_concurrent_watches_start_one_release(tmp_path: Path) -> None:
    watches = [settle_in_process(tmp_path, pause_seconds=0.3) for _ in range(2)]
    for watch in watches:
        watch.join(30)
    assert [watch.exitcode for watch in watches] == [0, 0]
    assert [path.read_text() for path in (tmp_path / "runs").iterdir()] == ["asked\n"]


def test_a_failed_start_is_retried(tmp_path: Path) -> None:
    ledger, started_keys = Ledger("toy", tmp_path), []

    def down(_: Decision) -> str:
        raise StackDown("Prefect does not answer.", "Start it.")

    with pytest.raises(StackDown):
        ledger.settle(decision(), down)
    assert [entry.state for entry in ledger.entries()] == ["seen"]
    entry = ledger.settle(decision(), lambda decided: started_keys.append(decided.key) or "run-1")  # type: ignore[func-returns-value]
    assert (entry.state, entry.flow_run, started_keys) == ("started", "run-1", [f"watch/toy/org/toy@{COMMIT}"])


def test_a_commit_that_never_started_is_superseded(tmp_path: Path) -> None:
    ledger = Ledger("toy", tmp_path)

    def refuse(_: Decision) -> str:
        raise ReleaseNotStarted("No such deployment.", "Deploy it.")

    with pytest.raises(ReleaseNotStarted):
        ledger.settle(decision(), refuse)
    ledger.settle(decision(commit=NEWER), lambda _: "run-2")
    assert {entry.decision.commit: entry.state for entry in ledger.entries()} == {
        COMMIT: "superseded",
        NEWER: "started",
    }


def test_an_unconfirmed_start_is_retried_under_changed_rules(tmp_path: Path) -> None:
    settle_in_process(tmp_path, "after start").join(30)
    ledger = Ledger("toy", tmp_path / "watch")
    assert ledger.settle(decision("ignore", rules="r2"), make_start(tmp_path / "runs")).state == "started"
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_changed_rule_starts_a_release_that_was_only_notified(tmp_path: Path) -> None:
    ledger = Ledger("toy", tmp_path)
    assert ledger.settle(decision("notify"), lambda _: "never").state == "told"
    assert ledger.settle(decision(rules="r2"), lambda _: "run-1").state == "started"
    assert ledger.settle(decision("ignore", rules="r3"), lambda _: "never").flow_run == "run-1"


def test_an_unreadable_ledger_is_reported(tmp_path: Path) -> None:
    ledger = Ledger("toy", tmp_path)
    ledger.path.write_text("{")
    with pytest.raises(LedgerDamaged) as caught:
        ledger.settle(decision(), lambda _: "never")
    assert caught.value.where == str(ledger.path)


def test_a_line_locked_for_too_long_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.watch.ledger.LOCK_SECONDS", 0.1)
    holder = settle_in_process(tmp_path, pause_seconds=3)
    while not (tmp_path / "watch/toy.json").exists():
        time.sleep(0.01)
    with pytest.raises(WatchBusy, match="toy"):
        Ledger("toy", tmp_path / "watch").settle(decision(), lambda _: "never")
    holder.join(30)
    assert Ledger("toy", tmp_path / "watch").entries()[0].state == "started"


def test_decisions_are_recorded_once_and_after_an_outage(registry: Registry, tmp_path: Path) -> None:
    ledger, runs = Ledger("toy", tmp_path / "watch"), WatchRuns(registry)
    ledger.settle(decision("notify", numbers={"download_gib": 1.5}), lambda _: "never")

    def down(_: object) -> None:
        raise StackDown("MLflow does not answer.", "Start it.")

    with pytest.raises(StackDown):
        ledger.record(down)
    assert [ledger.record(runs.record) for _ in range(2)] == [1, 0]
    ledger.settle(decision(rules="r2"), lambda _: "run-1")
    # A kill after the run was written and before the ledger was: the same run is found.
    entry = ledger.entries()[0]
    runs.record(entry)
    assert ledger.record(runs.record) == 1
    experiment = registry.client.get_experiment_by_name("toy")
    found = registry.client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    assert [(run.data.tags["weighbridge.outcome"], run.data.tags["weighbridge.state"]) for run in found] == [
        ("notify", "told"),
        ("release", "started"),
    ]
    assert found[0].data.metrics == {"download_gib": 1.5}
    assert found[1].data.tags[SOURCE] == f"hf://org/toy@{COMMIT}"
    assert found[1].data.tags[REASONS] == "- policy: watch.on_new is release"
    assert {run.info.status for run in found} == {"FINISHED"}


def test_known_sources_are_production_and_proposals(registry: Registry, release: Any) -> None:
    runs = WatchRuns(registry)
    assert (runs.known_sources("toy").serving, runs.known_sources("toy").proposed) == (None, ())
    record = release()
    registry.record_release(record)
    uri = f"hf://{record.repo}@{record.commit}"
    assert (runs.known_sources("toy").serving, runs.known_sources("toy").proposed) == (None, (uri,))
    approved = registry.approve("toy", registry.candidates("toy")[0].version, "good", "me")
    registry.set_production("toy", approved.version)
    assert runs.known_sources("toy").serving == uri
