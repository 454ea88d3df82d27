"""One altered byte in the store is refused on each path on which bytes come to be read, and none of it serves."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import pytest
from typer.testing import CliRunner

from cli.app import app
from registry.models.records import CandidateRecord, ReleaseRecord
from registry.store import Artifact
from tasks.evaluate.scoring.serving_scorer import ServingScorer
from tasks.quantize import quantize
from tasks.serve import step
from tasks.serve.fleet.local import LocalFleet
from tasks.serve.fleet.refusal import refusal
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway
from tasks.serve.installation import ServingInstallation
from tests.serve.rollout.conftest import Promoted
from tests.serve.rollout.rollout_support import weights
from tests.serve.serve_support import alter_byte, body_of, make_artifact, pid_of
from tests.support.waiting import wait_for
from weighbridge.errors import ArtifactDamaged


@dataclass
class Scene:
    """Version 2 serves, version 1 is the previous one, and a third artifact is new."""

    installation: ServingInstallation
    fleet: LocalFleet
    gateway: Gateway
    promoted: Promoted
    new: Artifact

    def alter(self, artifact: Artifact) -> None:
        alter_byte(self.installation.settings, artifact)

    def answers(self) -> int:
        """Status that a client gets now."""
        settings, key = self.installation.settings, self.gateway.key()
        body = {"model": "toy", "messages": [{"role": "user", "content": "hello"}]}
        url = f"{settings.gateway_url}/v1/chat/completions"
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.post(url, headers=headers, json=body, trust_env=False).status_code


@pytest.fixture
def scene(installation: ServingInstallation, fleet: LocalFleet, gateway: Gateway, promoted: Promoted) -> Scene:
    new = make_artifact(installation.settings, "newest")
    return Scene(installation, fleet, gateway, promoted, new)


def verify_store(scene: Scene) -> None:
    scene.alter(scene.new)
    result = CliRunner().invoke(app, ["store", "verify", "--json"])
    assert '"ArtifactDamaged"' in result.output or isinstance(result.exception, ArtifactDamaged)
    assert scene.answers() == 200
    scene.installation.store.verify(scene.new)


def start_engine(scene: Scene) -> None:
    scene.alter(scene.new)
    scene.fleet.ensure(scene.promoted[0], scene.new)


def start_trial(scene: Scene) -> None:
    scene.alter(scene.new)
    with scene.fleet.trial(scene.promoted[0], scene.new):
        pass


def restart_after_kill(scene: Scene) -> None:
    serving = scene.promoted[2]
    scene.alter(serving.artifact)
    os.kill(pid_of(scene.fleet, serving), signal.SIGKILL)
    wait_for(lambda: refusal(scene.installation.settings, serving.name) is not None, seconds=30)
    scene.fleet.warm_up(serving)


def reboot(scene: Scene) -> None:
    serving, supervisor = scene.promoted[2], Supervisor(scene.installation.settings)
    scene.alter(serving.artifact)
    supervisor.shut_down()
    supervisor.start({})
    scene.fleet.warm_up(serving)


def roll_back(scene: Scene) -> None:
    line, old, _ = scene.promoted
    scene.fleet.stop(old)
    scene.alter(old.artifact)
    target = step.rollback_target(scene.installation, line, 1)
    body_of(step.prepare_rollback)(scene.installation, line, target, "")


def promote(scene: Scene) -> None:
    candidate = CandidateRecord(
        artifact=scene.new,
        outcome="non_inferior",
        passes=True,
        sentence="No worse.",
        production_digest=scene.promoted[2].artifact.digest,
    )
    record = ReleaseRecord(line="toy", repo="org/toy", commit="c" * 40, key="a3", candidates=(candidate,))
    registry = scene.installation.registry
    [recorded] = registry.record_release(record).candidates
    approved = registry.approve("toy", recorded.version or 0, "good", "me")
    scene.alter(scene.new)
    body_of(step.check_approval)(scene.installation, scene.promoted[0], approved)


def quantize_it(scene: Scene) -> None:
    scene.alter(scene.new)
    quantize(scene.installation, scene.new, "int8")


def score_it(scene: Scene) -> None:
    scene.alter(scene.new)
    scorer = ServingScorer("fake", False, lambda _: True, scene.fleet.trial, scene.installation.store)
    with scorer.lm_eval_scorer(scene.promoted[0], scene.new, lambda _: None):
        pass


PATHS: list[tuple[Callable[[Scene], None], int]] = [
    (verify_store, 200),
    (start_engine, 200),
    (start_trial, 200),
    (restart_after_kill, 503),
    (reboot, 503),
    (roll_back, 200),
    (promote, 200),
    (quantize_it, 200),
    (score_it, 200),
]
"""Each path, and what a client gets afterwards: what served before, or nothing if that is what was altered."""


@pytest.mark.parametrize(("path", "status"), PATHS, ids=lambda value: getattr(value, "__name__", ""))
def test_an_altered_byte_is_refused_and_does_not_serve(
    scene: Scene, path: Callable[[Scene], None], status: int
) -> None:
    assert scene.answers() == 200
    with pytest.raises(ArtifactDamaged, match=r"config\.json"):
        path(scene)
    assert weights(scene.gateway) == {"1": 0, "2": 100}
    wait_for(lambda: scene.answers() == status, seconds=30)
