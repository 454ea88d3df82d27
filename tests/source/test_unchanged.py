"""A commit that changes nothing but documents: the watch says so, and releases nothing unless the line asks for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples import tiny
from registry.installation import Installation
from registry.watch.ledger import Decision, Entry, Ledger
from tasks.engines import known_architectures
from tasks.fit.report import fit_release
from tasks.source.download import download
from tasks.source.provider import pin, provider_of
from tasks.source.released import last_release, source_of
from tasks.source.step import as_released
from tasks.source.watch import rules_of, start_releases, triage_line
from tasks.source.watch_rows import Row
from weighbridge.line import Line, Watch

LINE: dict[str, Any] = {
    "admission": {"licences": ["apache-2.0"]},
    "schemes": ["int8"],
    "target": {"gpus": ["host"], "context": 512, "concurrency": 1},
    "suites": [{"name": "general/agreement"}],
}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEIGHBRIDGE_ROOT", str(tmp_path))
    monkeypatch.setenv("WEIGHBRIDGE_MLFLOW_PORT", "9")
    (tmp_path / "lines").mkdir()
    return tiny.build(tmp_path / "model")


@pytest.fixture(params=["hf", "file"])
def publish(model: Path, hub: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Publishes what the folder holds, on the Hub or by lying there, and writes the line."""

    def put(**watch: Any) -> None:
        source = "hf://acme/tiny" if request.param == "hf" else model.as_uri()
        (tmp_path / "lines/tiny.yaml").write_text(yaml.safe_dump({**LINE, "source": source, "watch": watch}))
        hub.publish(model)

    return put


def watch() -> Row:
    installation = Installation.load()
    rows = triage_line(installation, "tiny", fit_release, known_architectures)
    (row,) = start_releases(installation, rows, lambda decision: f"run of {decision.commit}")
    assert row.decision, row.error
    return row


def change_documents(model: Path) -> None:
    (model / "README.md").write_text((model / "README.md").read_text() + "\nBetter words.\n")
    (model / "LICENSE").write_text("Terms.")
    (model / "loss.png").write_bytes(b"a picture")
    (model / ".gitattributes").write_text("* text")


def outcome(row: Row) -> tuple[str, list[str]]:
    assert row.decision
    return row.decision.outcome, [reason.code for reason in row.decision.reasons]


def test_a_commit_of_documents_only_releases_nothing_and_the_next_is_compared_with_the_last_release(
    model: Path, publish: Callable[..., None]
) -> None:
    publish()
    first = watch()
    assert first.state == "started" and first.decision
    for _ in range(2):
        change_documents(model)
        publish()
        row = watch()
        assert outcome(row) == ("ignore", ["unchanged"]) and row.decision
        assert "weights unchanged" in row.decision.reasons[0].text
        assert first.decision.commit[:12] in row.decision.reasons[0].text
    assert outcome(watch())[1] == ["decided"]
    tiny.build(model, seed=7)
    publish()
    assert watch().state == "started"


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"],
)
def test_whatever_changes_the_answers_is_released(model: Path, publish: Callable[..., None], name: str) -> None:
    publish()
    assert watch().state == "started"
    if name == "model.safetensors":
        tiny.build(model, seed=3)
    elif name.endswith(".json"):
        before = json.loads((model / name).read_text()) if (model / name).exists() else {}
        (model / name).write_text(json.dumps({**before, "_note": "new"}))
    else:
        (model / name).write_text("{{ messages[0]['content'] }}")
    publish()
    assert watch().state == "started"


def test_a_line_can_ask_for_a_release_all_the_same(model: Path, publish: Callable[..., None]) -> None:
    publish(on_unchanged="release")
    watch()
    change_documents(model)
    publish(on_unchanged="release")
    assert watch().state == "started"


def test_a_commit_that_goes_back_to_an_earlier_content_is_released(model: Path, publish: Callable[..., None]) -> None:
    publish()
    watch()
    tiny.build(model, seed=1)
    publish()
    assert watch().state == "started"
    tiny.build(model, seed=0)
    change_documents(model)
    publish()
    assert watch().state == "started"


def test_a_release_by_hand_counts_and_is_taken_again(model: Path, publish: Callable[..., None]) -> None:
    publish()
    installation, line = Installation.load(), Line.load("tiny")
    first = pin(installation, line)
    provider = provider_of(installation.settings, line.repo)
    artifact = download(provider, first, "tiny", installation.store)
    change_documents(model)
    publish()
    assert outcome(watch()) == ("ignore", ["unchanged"])
    second = pin(installation, line)
    last = last_release(installation, "tiny", line.repo)
    assert last and last.commit == first.commit and last.is_same(second)
    assert as_released(installation, line, second).commit == first.commit
    anyway = line.model_copy(update={"watch": Watch(on_unchanged="release")})
    assert as_released(installation, anyway, second) == second
    taken = source_of(installation, "tiny", second, last)
    assert taken and taken.commit == first.commit
    assert download(provider, taken, "tiny", installation.store) == artifact, "nothing is fetched"


def test_a_release_of_before_contents_were_recorded_is_compared_by_the_hubs_listing(
    model: Path, hub: Any, tmp_path: Path
) -> None:
    (tmp_path / "lines/tiny.yaml").write_text(yaml.safe_dump({**LINE, "source": "hf://acme/tiny"}))
    hub.publish(model)
    first = watch()
    path = Ledger("tiny").path
    kept = json.loads(path.read_text())
    for entry in kept["entries"]:
        del entry["decision"]["content"]
    path.write_text(json.dumps(kept))
    change_documents(model)
    hub.publish(model)
    assert first.state == "started" and outcome(watch()) == ("ignore", ["unchanged"])


def test_records_of_an_earlier_version_stay_as_they_are() -> None:
    """What a ledger and MLflow have is neither decided nor recorded again because of the new fields."""
    line = Line.model_validate({**LINE, "name": "tiny", "source": "hf://acme/tiny"})
    assert rules_of(line) != rules_of(line.model_copy(update={"watch": Watch(on_unchanged="release")}))
    decision = Decision(
        line="tiny", kind="commit", repo="a/b", commit="c" * 40, outcome="ignore", reasons=(), rules="r"
    )
    with_content = decision.model_copy(update={"content": "d" * 64})
    digests = {Entry(decision=each, state="told", decided_at="").digest for each in (decision, with_content)}
    assert len(digests) == 1
