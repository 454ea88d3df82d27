"""Pinning: the commit, the files that serving needs, and every failure of the Hub."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from examples.faults import FOR_EVER, Fault
from registry.installation import Installation
from tasks.source.provider import pin
from weighbridge.errors import SourceDamaged, SourceUnknown, SourceUnreachable
from weighbridge.line import Line


def test_a_release_is_pinned_with_what_serving_needs(hub: Any, release: Path, line: Line) -> None:
    commit = hub.publish(release)
    source = pin(hub.installation, line)
    assert (source.commit, source.licence, source.gated) == (commit, "apache-2.0", False)
    assert source.config["num_hidden_layers"] == 2
    assert {file.path for file in source.files} == {
        "README.md",
        "config.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    assert {"pytorch_model.bin", "modeling_tiny.py", "tiny-q4.gguf", "consolidated.safetensors"} < set(source.ignored)
    assert "original/model.safetensors" in source.ignored


def test_an_older_commit_stays_reachable(hub: Any, release: Path, line: Line) -> None:
    first = hub.publish(release)
    (release / "README.md").write_text("---\nlicense: other\nlicense_name: acme-1.0\n---\n")
    second = hub.publish(release)
    assert (pin(hub.installation, line).commit, pin(hub.installation, line).licence) == (second, "acme-1.0")
    assert (pin(hub.installation, line, first).commit, pin(hub.installation, line, first).licence) == (
        first,
        "apache-2.0",
    )


def test_unknown_repository_and_revision_are_named(hub: Any, release: Path, line: Line) -> None:
    with pytest.raises(SourceUnknown, match="acme/tiny"):
        pin(hub.installation, line)
    hub.publish(release)
    with pytest.raises(SourceUnknown, match="no revision 'v9'"):
        pin(hub.installation, line, "v9")


def test_a_gated_repository_is_reported_with_its_address(hub: Any, release: Path, line: Line, monkeypatch: Any) -> None:
    hub.publish(release)
    (hub.root / "acme/tiny/gated.txt").write_text("hf_granted\n")
    with pytest.raises(SourceUnknown, match=r"gated.*accept its terms there, and set HF_TOKEN"):
        pin(hub.installation, line)
    monkeypatch.setenv("HF_TOKEN", "hf_granted")
    assert pin(hub.installation, line).gated


def test_a_busy_hub_is_retried_after_its_retry_after(hub: Any, release: Path, line: Line) -> None:
    hub.publish(release)
    hub.faults.add(Fault("/api/models/*", status=429, headers={"Retry-After": "1"}))
    hub.faults.add(Fault("*/config.json", status=503, times=2))
    start = time.monotonic()
    assert pin(hub.installation, line).config
    assert time.monotonic() - start >= 1


def test_a_hub_that_stays_broken_is_unreachable(hub: Any, release: Path, line: Line) -> None:
    hub.publish(release)
    hub.faults.add(Fault("/api/models/*", status=500, times=FOR_EVER))
    with pytest.raises(SourceUnreachable, match="answered 500"):
        pin(hub.installation, line)


def test_a_hub_that_asks_for_an_hour_is_not_waited_for(hub: Any, release: Path, line: Line) -> None:
    hub.publish(release)
    hub.faults.add(Fault("/api/models/*", status=429, headers={"Retry-After": "3600"}, times=FOR_EVER))
    start = time.monotonic()
    with pytest.raises(SourceUnreachable, match="answered 429"):
        pin(hub.installation, line)
    assert time.monotonic() - start < 2


def test_no_hub_at_all(line: Line, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("tasks.source.client.FIRST_WAIT_SECONDS", 0.01)
    with pytest.raises(SourceUnreachable, match="did not answer"):
        pin(Installation.load(), line)


def test_a_config_altered_on_the_way_is_noticed(hub: Any, release: Path, line: Line) -> None:
    hub.publish(release)
    hub.faults.add(Fault("*/config.json", damaged=True))
    with pytest.raises(SourceDamaged, match=r"config\.json"):
        pin(hub.installation, line)
