"""A tiny real server in place of an engine, with a line and artifacts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from registry.store import Artifact, Store
from tasks.engines import EnginePlan, LaunchSpec
from tasks.serve.fleet import local, protocol
from tasks.serve.fleet.protocol import Fleet, RunningEngine
from weighbridge.line import Line
from weighbridge.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

FAKE = Path(__file__).parent.parent / "support" / "fake_engine.py"


class FakeEngine:
    """Launches the fake server; the line's flags choose how it behaves."""

    ready_seconds = 15.0
    reads = "safetensors"
    prompt_log_probabilities = False
    top_log_probabilities = 0
    takes_key = True

    def health_path(self, plan: EnginePlan) -> str:
        return "/health"

    def version(self) -> str:
        return "fake 1"

    def launch(self, plan: EnginePlan, model_folder: Path, host: str, port: int) -> LaunchSpec:
        assert (model_folder / "config.json").is_file()
        return LaunchSpec(command=(sys.executable, str(FAKE), str(port), *plan.flag_arguments), environment={})

    def with_key_check(self, spec: LaunchSpec) -> LaunchSpec:
        return spec


def use_fake_engine(replace: Callable[[object, str, object], None] = setattr) -> None:
    """Replace every engine by the fake one.

    Args:
        replace: `monkeypatch.setattr`, to have it undone.
    """
    for module in (local, protocol):
        replace(module, "engine_kind", lambda name: FakeEngine())


def pid_of(fleet: Fleet, engine: RunningEngine) -> int:
    """Process id of a running engine."""
    state = fleet.state(engine)
    assert state is not None
    return state.pid


def body_of(step: Callable[P, R]) -> Callable[P, R]:
    """Plain function of a step, to be called without Prefect."""
    plain: Callable[P, R] = step.fn  # type: ignore[attr-defined]
    return plain


def make_line(**flags: object) -> Line:
    """A line served by the fake engine, with quick rollout steps."""
    return Line.model_validate(
        {
            "name": "toy",
            "source": "hf://org/toy",
            "admission": {"licences": ["mit"]},
            "schemes": ["int8"],
            "target": {"gpus": ["host"], "context": 128, "concurrency": 4},
            "engine": {"name": "fake", "flags": flags},
            "suites": [{"name": "general/choice"}],
            "rollout": {"steps": [10, 50, 100], "hold_seconds": 0, "max_hold_seconds": 5, "drain_seconds": 10},
        }
    )


def alter_byte(settings: Settings, artifact: Artifact) -> Callable[[], object]:
    """Change one byte of an artifact in the store, as a bad disk or a person would.

    Returns:
        A call that undoes it.
    """
    file = settings.store_folder / artifact.line / artifact.digest / "model" / "config.json"
    whole = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
    return lambda: file.write_bytes(whole)


def make_artifact(settings: Settings, content: str = "a") -> Artifact:
    """An artifact in the store; other content is another artifact."""
    store = Store.of(settings)
    folder = store.staging("toy", f"make-{content}")
    (folder / "config.json").write_text(f'{{"content": "{content}"}}')
    return store.adopt(folder, line="toy", scheme="int8", repo="org/toy", commit="c" * 40)
