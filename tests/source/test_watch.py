"""The watch of a line: its decisions, what it does not report twice, and what it starts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples import tiny
from registry.installation import Installation
from registry.watch.ledger import Decision, Ledger, Starter
from registry.watch.runs import KnownSources
from tasks.engines import known_architectures
from tasks.fit.report import fit_release
from tasks.source.watch import start_releases, triage_line
from tasks.source.watch_rows import Row, sentences
from weighbridge.errors import StackDown

LINE: dict[str, Any] = {
    "source": "hf://acme/tiny",
    "admission": {"licences": ["apache-2.0"]},
    "schemes": ["int8"],
    "target": {"gpus": ["host"], "context": 512, "concurrency": 1},
    "suites": [{"name": "general/agreement"}],
}


@pytest.fixture
def write(tmp_path: Path, hub: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes the line `tiny`; keyword arguments change it. MLflow is down unless a test says otherwise."""
    monkeypatch.setenv("WEIGHBRIDGE_ROOT", str(tmp_path))
    monkeypatch.setenv("WEIGHBRIDGE_MLFLOW_PORT", "9")
    (tmp_path / "lines").mkdir()

    def put(name: str = "tiny", **changes: Any) -> None:
        (tmp_path / f"lines/{name}.yaml").write_text(yaml.safe_dump({**LINE, **changes}))

    put()
    return put


@pytest.fixture
def release(tmp_path: Path, hub: Any) -> Callable[..., str]:
    """Publishes a release of another seed, or with another config."""

    def put(repo: str = "acme/tiny", **config: Any) -> str:
        shutil.rmtree(tmp_path / "release", ignore_errors=True)
        return str(hub.publish(tiny.build(tmp_path / "release", **config), repo))

    return put


class Prefect:
    """Starts releases; the same key gives the same run."""

    def __init__(self) -> None:
        self.runs: dict[str, str] = {}
        self.down = False

    def start(self, decision: Decision) -> str:
        if self.down:
            raise StackDown("Prefect does not answer.", "Start it.")
        return self.runs.setdefault(decision.key, f"run-{len(self.runs) + 1}")


@pytest.fixture
def prefect() -> Prefect:
    return Prefect()


def triaged(name: str = "tiny") -> list[Row]:
    return triage_line(Installation.load(), name, fit_release, known_architectures)


def started(rows: list[Row], start: Starter) -> list[Row]:
    return start_releases(Installation.load(), rows, start)


def outcomes(rows: list[Row]) -> list[str]:
    return [row.decision.outcome if row.decision else "error" for row in rows]


def codes(row: Row) -> dict[str, str]:
    assert row.decision
    return {reason.code: reason.text for reason in row.decision.reasons}


def test_a_new_commit_is_released_once_and_the_next_one_too(
    write: Any, release: Callable[..., str], prefect: Prefect
) -> None:
    first = release()
    (row,) = started(triaged(), prefect.start)
    assert (outcomes([row]), row.state, row.flow_run) == (["release"], "started", "run-1")
    (row,) = started(triaged(), prefect.start)
    assert (outcomes([row]), "run-1" in codes(row)["started"]) == (["ignore"], True)
    second = release(seed=1)
    (row,) = triaged()
    assert f"the previous head was {first}" in row.notes
    started([row], prefect.start)
    assert list(prefect.runs) == [f"watch/tiny/acme/tiny@{commit}" for commit in (first, second)]


def test_one_request_when_nothing_is_new(
    write: Any, release: Callable[..., str], prefect: Prefect, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    release()
    started(triaged(), prefect.start)
    asked: list[str] = []
    take = hub.faults.take

    def record_and_take(method: str, path: str) -> Any:
        asked.append(path)
        return take(method, path)

    monkeypatch.setattr(hub.faults, "take", record_and_take)
    assert outcomes(triaged()) == ["ignore"]
    assert asked == ["/api/models/acme/tiny/revision/main"]


def test_commits_in_production_or_released_before_are_not_new(
    write: Any, release: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"hf://acme/tiny@{release()}"
    for known, code in ((KnownSources(serving=uri), "serves"), (KnownSources(proposed=(uri,)), "proposed")):
        monkeypatch.setattr("tasks.source.watch.known_sources", lambda *_, known=known: known)
        (row,) = triaged()
        assert (outcomes([row]), list(codes(row))) == (["ignore"], [code])
    monkeypatch.setattr("tasks.source.watch.known_sources", lambda *_: KnownSources(serving=uri))
    release(seed=1)
    (row,) = triaged()
    assert (outcomes([row]), row.notes) == (["release"], (f"production is {uri}",))


def test_a_start_is_retried_when_prefect_was_down(write: Any, release: Callable[..., str], prefect: Prefect) -> None:
    commit = release()
    prefect.down = True
    (row,) = started(triaged(), prefect.start)
    assert row.error and (row.error.code, row.state) == ("StackDown", "seen")
    prefect.down = False
    (row,) = started(triaged(), prefect.start)
    assert (row.state, list(prefect.runs)) == ("started", [f"watch/tiny/acme/tiny@{commit}"])


def test_a_start_that_was_killed_is_finished_although_the_head_has_moved_on(
    write: Any, release: Callable[..., str], prefect: Prefect
) -> None:
    first = release()

    def killed(_: Decision) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        started(triaged(), killed)
    second = release(seed=1)
    assert [row.state for row in started(triaged(), prefect.start)] == ["started", "started"]
    assert {key[-40:] for key in prefect.runs} == {first, second}


def test_a_decision_is_reported_again_only_after_the_rules_change(
    write: Any, release: Callable[..., str], prefect: Prefect
) -> None:
    release(licence="cc-by-nc-4.0")
    (row,) = started(triaged(), prefect.start)
    assert (outcomes([row]), row.state) == (["ignore"], "told")
    (row,) = started(triaged(), prefect.start)
    assert "cc-by-nc-4.0 is not allowed" in codes(row)["decided"]
    assert row.decision and not row.decision.new
    write(admission={"licences": ["apache-2.0", "CC-BY-NC-4.0"]}, watch={"on_new": "notify"})
    (row,) = started(triaged(), prefect.start)
    assert (outcomes([row]), "weighbridge release tiny --revision" in codes(row)["policy"]) == (["notify"], True)
    write(admission={"licences": ["apache-2.0", "CC-BY-NC-4.0"]})
    assert started(triaged(), prefect.start)[0].state == "started"


def test_every_reason_is_reported(write: Any, release: Callable[..., str]) -> None:
    write(target={"gpus": ["L4"], "context": 131072, "concurrency": 1000}, engine={"name": "vllm"})
    release(licence="cc-by-nc-4.0", auto_map={"AutoModelForCausalLM": "modeling.X"})
    (row,) = triaged()
    told_of = " ".join(sentences(row))
    assert row.decision and [reason.code for reason in row.decision.reasons] == ["admission", "admission", "fit"]
    assert all(text in told_of for text in ("cc-by-nc-4.0", "auto_map", "No scheme of tiny fits", "GiB missing"))


def test_no_safetensors_is_a_reason(write: Any, release: Callable[..., str], tmp_path: Path, hub: Any) -> None:
    folder = tiny.build(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    hub.publish(folder)
    (row,) = triaged()
    assert (outcomes([row]), "no safetensors" in codes(row)["admission"]) == (["ignore"], True)


def test_a_full_disk_is_checked_again_by_the_next_watch(
    write: Any, release: Callable[..., str], prefect: Prefect, monkeypatch: pytest.MonkeyPatch
) -> None:
    release()
    with monkeypatch.context() as full:
        full.setattr("tasks.source.triage._free_gib", lambda folder: 0.0)
        (row,) = started(triaged(), prefect.start)
        assert (outcomes([row]), "0.00 GiB are free" in codes(row)["disk"]) == (["notify"], True)
        assert outcomes(started(triaged(), prefect.start)) == ["ignore"]
    assert started(triaged(), prefect.start)[0].state == "started"


def test_an_architecture_that_the_engine_does_not_name_asks_a_person(write: Any, release: Callable[..., str]) -> None:
    write(engine={"name": "vllm"}, target={"gpus": ["L4"], "context": 512, "concurrency": 1})
    release(architectures=["HeliumForCausalLM"], model_type="llama")
    (row,) = triaged()
    assert (outcomes([row]), "vLLM 0.32 does not list HeliumForCausalLM" in codes(row)["engine"]) == (["notify"], True)


def test_a_gated_repository_is_reported_and_checked_again_by_the_next_watch(
    write: Any, release: Callable[..., str], prefect: Prefect, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    release()
    (hub.root / "acme/tiny/gated.txt").write_text("hf_granted\n")
    (row,) = started(triaged(), prefect.start)
    assert outcomes([row]) == ["notify"]
    assert "accept its terms there, and set HF_TOKEN" in codes(row)["gated"]
    assert outcomes(started(triaged(), prefect.start)) == ["ignore"]
    monkeypatch.setenv("HF_TOKEN", "hf_granted")
    assert started(triaged(), prefect.start)[0].state == "started"


def test_a_gated_repository_under_a_forbidden_licence_is_ignored(
    write: Any, release: Callable[..., str], hub: Any
) -> None:
    release(licence="llama3.1")
    (hub.root / "acme/tiny/gated.txt").write_text("hf_granted\n")
    (row,) = triaged()
    assert (outcomes([row]), "licence llama3.1 is not allowed" in codes(row)["admission"]) == (["ignore"], True)


def test_a_successor_needs_a_person_and_is_reported_once(
    write: Any, release: Callable[..., str], prefect: Prefect
) -> None:
    write(watch={"successors": ["tiny-*"], "architectures": ["LlamaForCausalLM"]})
    release()
    release("acme/tiny-2", seed=2)
    release("acme/tiny-vision", seed=3, architectures=["GemmaForCausalLM"])
    rows = started(triaged(), prefect.start)
    by_repo = {row.decision.repo: row for row in rows if row.decision}
    assert outcomes([by_repo["acme/tiny-2"], by_repo["acme/tiny-vision"]]) == ["notify", "ignore"]
    assert "hf://acme/tiny-2" in codes(by_repo["acme/tiny-2"])["policy"]
    assert "GemmaForCausalLM" in codes(by_repo["acme/tiny-vision"])["family"]
    release("acme/tiny-2", seed=4)
    assert outcomes(started(triaged(), prefect.start)) == ["ignore", "ignore", "ignore"]
    assert len(prefect.runs) == 1


def test_a_successor_is_released_if_the_line_allows_it(
    write: Any, release: Callable[..., str], prefect: Prefect
) -> None:
    write(watch={"successors": ["tiny-*"], "on_successor": "release"})
    release()
    commit = release("acme/tiny-2", seed=2)
    started(triaged(), prefect.start)
    assert f"watch/tiny/acme/tiny-2@{commit}" in prefect.runs


def test_the_failure_of_a_line_is_a_row(write: Any, release: Callable[..., str], prefect: Prefect) -> None:
    write("gone", source="hf://acme/gone")
    (row,) = started(triaged("gone"), prefect.start)
    assert row.error and (row.error.code, row.error.exit_status) == ("SourceUnknown", 4)
    write("odd", target={"gpus": ["Abacus"]})
    release()
    (row,) = triaged("odd")
    assert row.error and row.error.code == "GpuUnknown"


def test_a_dry_run_writes_nothing(write: Any, release: Callable[..., str]) -> None:
    release()
    triaged()
    assert Ledger("tiny").entries() == ()
    assert not (Path(os.environ["WEIGHBRIDGE_HOME"]) / "watch").exists()


def test_a_hostile_release_is_ignored_with_its_reason_and_starts_nothing(
    write: Any, hub: Any, tmp_path: Path, prefect: Prefect
) -> None:
    folder = tiny.build(tmp_path / "hostile")
    (folder / "chat_template.jinja").write_text("{{ 10 ** 10 ** 8 }}")
    (folder / "config.json").write_text('{"num_hidden_layers": 1000000000}')
    hub.publish(folder)
    (row,) = started(triaged(), prefect.start)
    assert outcomes([row]) == ["ignore"] and not prefect.runs
    said = " ".join(sentences(row))
    assert "`num_hidden_layers` is 1000000000" in said and "chat template raises a number to a power" in said


def test_whatever_one_release_raises_is_a_row_and_not_the_end_of_the_watch(
    write: Any, release: Callable[..., str]
) -> None:
    def fits(*_: object) -> Any:
        raise ZeroDivisionError("a planner's fault")

    release()
    (row,) = triage_line(Installation.load(), "tiny", fits, known_architectures)
    assert row.error and row.error.code == "Unexpected"
