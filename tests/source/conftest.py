"""A Hub served on this machine for each test, and an installation that uses it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples import tiny
from examples.faults import Faults
from examples.hub import publish, serving
from registry.installation import Installation
from registry.store import Store
from tasks.source.client import Hub
from tasks.source.provider import Provider, provider_of
from weighbridge.line import Line

REPO = "acme/tiny"


@dataclass
class ServedHub:
    """The served Hub: its folder, its faults and its address."""

    root: Path
    faults: Faults
    endpoint: str

    @property
    def client(self) -> Hub:
        return Hub(self.endpoint)

    @property
    def provider(self) -> Provider:
        return provider_of(self.installation.settings, REPO)

    @property
    def installation(self) -> Installation:
        """An installation that uses it, as the environment names it now."""
        return Installation.load()

    def publish(self, folder: Path, repo: str = REPO) -> str:
        return publish(self.root, repo, folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedHub]:
    root, faults = tmp_path / "hub", Faults()
    root.mkdir()
    with serving(root, faults) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / "home"))
        monkeypatch.delenv("WEIGHBRIDGE_HF_ENDPOINT", raising=False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr("tasks.source.client.FIRST_WAIT_SECONDS", 0.01)
        yield ServedHub(root, faults, endpoint)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A tiny release's folder, with things in it that must never be fetched."""
    folder = tiny.build(tmp_path / "release", shards=2)
    for name in ("pytorch_model.bin", "modeling_tiny.py", "tiny-q4.gguf", "consolidated.safetensors"):
        (folder / name).write_bytes(b"not wanted")
    (folder / "original").mkdir()
    (folder / "original" / "model.safetensors").write_bytes(b"not wanted")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def make_line() -> Any:
    """A line for the tiny release; keyword arguments change its admission."""

    def make(**admission: Any) -> Line:
        return Line.model_validate(
            {
                "name": "tiny",
                "source": f"hf://{REPO}",
                "admission": {"licences": ["apache-2.0"], "architectures": ["LlamaForCausalLM"], **admission},
                "schemes": ["int8"],
                "target": {"gpus": ["host"]},
                "suites": [{"name": "general/agreement"}],
            }
        )

    return make


@pytest.fixture
def line(make_line: Any) -> Line:
    return make_line()
