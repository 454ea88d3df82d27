"""Verification of approvals on a real MLflow server and a real store, with a stand-in for Prefect."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from registry.audit import AuditLog
from registry.models import records
from registry.models.records import CandidateRecord, ReleaseRecord, State, Version
from registry.models.registry import COMMENT_START, Registry
from registry.store import Artifact, Store
from tasks.serve import serving_record, settled, step
from tasks.serve.approval import check_production, verify_approval
from tasks.serve.installation import ServingInstallation
from tests.serve.serve_support import body_of, make_line
from tests.support.mlflow_server import MlflowServer
from tests.support.recorded_prefect import RecordedPrefect
from tests.support.waiting import wait_for
from weighbridge.errors import ApprovalRefused, ArtifactDamaged, StoreUnreachable, VersionUnknown
from weighbridge.line import Approval, Line
from weighbridge.settings import Settings, load_settings

pytestmark = pytest.mark.timeout(400)
COMMIT = "c" * 40
DAY_SECONDS = 86400


@dataclass
class Scene:
    """A new line in the session's MLflow, with artifacts in a temporary store."""

    line: Line
    registry: Registry
    settings: Settings
    server: MlflowServer
    prefect: RecordedPrefect

    @property
    def installation(self) -> ServingInstallation:
        """The installation that steps get."""
        return ServingInstallation(self.settings)

    @property
    def line_name(self) -> str:
        return self.line.name

    def candidate(self, content: str, outcome: str = "non_inferior", against: str | None = None) -> Artifact:
        """Record an artifact with a verdict."""
        store = Store.of(self.settings)
        folder = store.staging(self.line_name, f"make-{content}")
        (folder / "config.json").write_text(f'{{"content": "{content}"}}')
        artifact = store.adopt(folder, line=self.line_name, scheme="int8", repo="org/toy", commit=COMMIT)
        passes = outcome in ("non_inferior", "baseline")
        record = CandidateRecord(
            artifact=artifact,
            outcome=outcome,
            passes=passes,
            sentence="No worse." if passes else f"{outcome.capitalize()}: general/choice lost 12 items.",
            card_markdown="**The verdict.**",
            production_digest=against,
        )
        key = f"{content}{against or ''}"
        self.registry.record_release(
            ReleaseRecord(line=self.line_name, repo="org/toy", commit=COMMIT, key=key, candidates=(record,))
        )
        return artifact

    def click(self, artifact: Artifact) -> Version:
        """Send the request of *Promote model* in MLflow's page."""
        candidate = self.registry.candidate(self.line_name, artifact.digest)
        body = {
            "name": self.line_name,
            "source": f"models:/{candidate.model}/{candidate.version}",
            "tags": [{"key": key, "value": value} for key, value in candidate.tags.items()],
        }
        answer = httpx.post(f"{self.server.url}/ajax-api/2.0/mlflow/model-versions/create", json=body, trust_env=False)
        return self.version(int(answer.raise_for_status().json()["model_version"]["version"]))

    def serve(self, version: Version) -> None:
        """Record a version as production."""
        before = self.registry.production(self.line_name)
        if before is not None:
            self.registry.set_state(self.line_name, before.version, "previous")
        self.registry.set_state(self.line_name, version.version, "rolling")
        self.registry.set_production(self.line_name, version.version)
        self.registry.set_state(self.line_name, version.version, "serving")

    def version(self, number: int) -> Version:
        return self.registry.version(self.line_name, number)

    def verify(self, version: Version, rules: Approval | None = None) -> Artifact:
        line = self.line.model_copy(update={"approval": rules or self.line.approval})
        return verify_approval(self.installation, line, version)

    def comment(self, version: Version) -> str:
        """Comment before a version's card."""
        text = self.registry.client.get_model_version(self.line_name, str(version.version)).description or ""
        return text.partition("\n")[0] if text.startswith(COMMENT_START) else ""

    def is_refused(self, version: Version, why: str) -> None:
        """Tag, comment and audit log have the reason, and the card is unchanged."""
        now = self.version(version.version)
        assert now.state == "refused" and why in now.state_reason
        assert why in self.comment(version)
        assert list(AuditLog().entries(self.line_name))[-1].what == "refused"

    def age(self, version: Version, days: float) -> None:
        """Change an approval's age in MLflow's database."""
        at_ms = int((time.time() - days * DAY_SECONDS) * 1000)
        with sqlite3.connect(self.server.database, timeout=30) as database:
            found = database.execute(
                "UPDATE model_versions SET creation_time = ? WHERE name = ? AND version = ?",
                (at_ms, self.line_name, version.version),
            )
            assert found.rowcount == 1


@pytest.fixture
def scene(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Scene]:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-")[:30] + f"-{uuid4().hex[:6]}"
    prefect = RecordedPrefect({f"release/{name}": False})
    monkeypatch.setenv("WEIGHBRIDGE_MLFLOW_PORT", mlflow_server.url.rpartition(":")[2])
    monkeypatch.setenv("WEIGHBRIDGE_PREFECT_PORT", str(prefect.port))
    line = make_line().model_copy(update={"name": name})
    settings = load_settings()
    yield Scene(line, Registry(settings), settings, mlflow_server, prefect)
    prefect.close()


def test_an_approved_version_is_verified_and_its_artifact_found(scene: Scene) -> None:
    artifact = scene.candidate("good", "baseline")
    version = scene.click(artifact)
    assert scene.verify(version) == artifact
    assert scene.version(1).state is None and scene.comment(version) == ""


def test_failed_candidates_and_handmade_versions_are_refused(scene: Scene) -> None:
    production, failed = scene.candidate("good", "baseline"), scene.candidate("worse", "regression")
    scene.serve(scene.click(production))
    with pytest.raises(ApprovalRefused, match="lost 12 items"):
        scene.registry.candidate(scene.line_name, failed.digest)
    tags = {records.DIGEST: failed.digest, records.SCHEME: "int8", records.PASSES: "true"}
    scene.registry.client.create_model_version(scene.line_name, source=failed.uri, tags=tags, description="mine")
    with pytest.raises(ApprovalRefused, match="was not copied from"):
        scene.verify(scene.version(2))
    scene.is_refused(scene.version(2), "was not copied from")
    assert scene.registry.client.get_model_version(scene.line_name, "2").description.endswith("---\n\nmine")
    with pytest.raises(ApprovalRefused, match="is refused: ApprovalRefused"):
        scene.verify(scene.version(2))
    assert scene.registry.production(scene.line_name) == scene.version(1)


def test_an_override_needs_an_allowed_name_a_reason_and_the_log(scene: Scene) -> None:
    failed, invalid = scene.candidate("worse", "regression"), scene.candidate("unknown", "invalid")
    anna, override = Approval(overriders=["anna"]), scene.registry.override
    with pytest.raises(ApprovalRefused, match=r"bob may not override .* names anna"):
        override(scene.line_name, failed.short, "please", "bob", anna)
    with pytest.raises(ApprovalRefused, match="names nobody"):
        override(scene.line_name, failed.short, "please", "anna", Approval())
    with pytest.raises(ApprovalRefused, match="needs a reason"):
        override(scene.line_name, failed.short, " ", "anna", anna)
    with pytest.raises(ApprovalRefused, match="was not weighed"):
        override(scene.line_name, invalid.short, "please", "anna", anna)
    with pytest.raises(VersionUnknown, match="no candidate of"):
        override(scene.line_name, "0" * 12, "please", "anna", anna)
    assert list(AuditLog().entries(scene.line_name)) == []

    version = override(scene.line_name, failed.short, "the twelve items are outdated", "anna", anna)
    assert override(scene.line_name, failed.short, "again", "anna", anna).version == version.version
    assert (version.passes, version.outcome, version.approved_by) == (False, "regression", "anna")
    entries = list(AuditLog().entries(scene.line_name))
    assert [(entry.action, entry.who, entry.what) for entry in entries] == [
        ("override", "anna", failed.digest), ("approve", "anna", failed.digest), ("reason", "anna", failed.digest)
    ]  # fmt: skip
    assert scene.verify(version, anna) == failed

    original = scene.registry.client.get_model_version(scene.line_name, str(version.version))
    copy = scene.registry.client.create_model_version(scene.line_name, source=failed.uri, tags=original.tags)
    with pytest.raises(ApprovalRefused, match="repeats the override of version 1"):
        scene.verify(scene.version(int(copy.version)), anna)
    forged = scene.registry.client.create_model_version(
        scene.line_name, source=failed.uri, tags={**original.tags, records.OVERRIDE: "0" * 64}
    )
    with pytest.raises(ApprovalRefused, match="does not stand in the audit log"):
        scene.verify(scene.version(int(forged.version)), anna)
    with pytest.raises(ApprovalRefused, match="overridden by anna, whom"):
        scene.verify(scene.version(1), Approval(overriders=["carl"]))
    scene.is_refused(version, "overridden by anna, whom")


def test_an_expired_approval_is_refused_until_renewed(scene: Scene) -> None:
    artifact = scene.candidate("good", "baseline")
    version = scene.click(artifact)
    scene.age(version, 13.9)
    assert scene.verify(scene.version(1)) == artifact
    scene.age(version, 14.1)
    assert scene.verify(scene.version(1), Approval(max_age_days=30)) == artifact
    with pytest.raises(ApprovalRefused, match="more than 14 days ago"):
        scene.verify(scene.version(1))
    scene.is_refused(version, "more than 14 days ago")
    renewed = scene.registry.approve(scene.line_name, 1, "still requested", "ada")
    assert renewed.version == 2 and scene.verify(renewed) == artifact


def test_a_rollback_to_a_served_version_is_always_allowed(scene: Scene) -> None:
    """The alias moved by hand: the tag alone, without the audit log, does not prove that a version was served."""
    first = scene.candidate("first", "baseline")
    second = scene.candidate("second", against=first.digest)
    third = scene.candidate("third", against=first.digest)
    for artifact in (first, second):
        scene.serve(scene.click(artifact))
    scene.age(scene.version(1), 400)
    scene.registry.client.set_registered_model_alias(scene.line_name, "production", "1")
    requested = settled.requested_version(scene.installation, scene.line, None)
    assert requested is not None and requested.version == 1
    assert scene.verify(requested) == first

    scene.registry.client.set_registered_model_alias(scene.line_name, "production", "2")
    forged = scene.click(third)
    scene.registry.client.set_model_version_tag(scene.line_name, str(forged.version), records.STATE, "previous")
    scene.registry.client.set_registered_model_alias(scene.line_name, "production", str(forged.version))
    requested = settled.requested_version(scene.installation, scene.line, None)
    assert requested is not None and requested.version == forged.version
    with pytest.raises(ApprovalRefused, match="was weighed against"):
        scene.verify(requested)
    assert "was weighed against" in scene.comment(forged)


def test_the_alias_on_a_version_without_a_verdict_is_refused(scene: Scene) -> None:
    artifact = scene.candidate("good", "baseline")
    scene.serve(scene.click(artifact))
    scene.registry.client.create_model_version(scene.line_name, source=f"store://{scene.line_name}/{'0' * 64}")
    scene.registry.client.set_registered_model_alias(scene.line_name, "production", "2")
    requested = settled.requested_version(scene.installation, scene.line, None)
    assert requested is not None and requested.version == 2
    with pytest.raises(ApprovalRefused, match="was not copied from"):
        scene.verify(requested)
    scene.is_refused(scene.version(2), "was not copied from")
    assert scene.version(1).state == "serving"


def test_a_byte_changed_in_the_store_is_detected(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    production = scene.candidate("good", "baseline")
    altered = scene.candidate("better", against=production.digest)
    scene.serve(scene.click(production))
    version = scene.click(altered)

    def unreachable(*_: object, **__: object) -> None:
        raise StoreUnreachable("The store does not answer.", "Wait.")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "verify", unreachable)
        with pytest.raises(StoreUnreachable):
            scene.verify(version)
    assert scene.version(2).state is None, "a temporary failure is no permanent refusal"

    file = Store.of(scene.settings).path(altered) / "config.json"
    file.chmod(0o644)
    content = file.read_bytes()
    file.write_bytes(content[:-3] + b"x" + content[-2:])
    with pytest.raises(ArtifactDamaged, match=r"config\.json"):
        scene.verify(version)
    scene.is_refused(version, "config.json")
    assert scene.registry.production(scene.line_name) == scene.version(1)


def test_a_verdict_against_another_production_is_repeated(scene: Scene) -> None:
    first = scene.candidate("first", "baseline")
    second, third = (scene.candidate(name, against=first.digest) for name in ("second", "third"))
    scene.serve(scene.click(first))
    scene.serve(scene.click(second))
    late = scene.click(third)
    command = f"weighbridge release {scene.line_name} --revision {COMMIT} --scheme int8"
    said = f"weighed against {first.short}, and production is version 2 .int8, {second.short}. now"

    with pytest.raises(ApprovalRefused, match=f"{said}.*Weigh it again: `{command}`; then"):
        check_production(scene.line, scene.registry.candidate(scene.line_name, third.digest), scene.registry)
    assert scene.prefect.asked(f"release/{scene.line_name}") == []
    with pytest.raises(ApprovalRefused, match=f"{said}.*is being weighed again: `{command}` was started in Prefect"):
        scene.verify(late)
    scene.is_refused(late, "is being weighed again")
    with pytest.raises(ApprovalRefused, match="is being weighed again"):
        scene.verify(scene.click(third))
    [run] = scene.prefect.asked(f"release/{scene.line_name}")
    assert run["parameters"] == {"line": scene.line_name, "schemes": ["int8"], "revision": COMMIT}

    scene.candidate("third", against=second.digest)
    assert scene.verify(scene.click(third)) == third
    assert scene.registry.production(scene.line_name) == scene.version(2)


def test_without_prefect_the_refusal_names_the_command(scene: Scene) -> None:
    first = scene.candidate("first", "baseline")
    scene.serve(scene.click(first))
    version = scene.click(scene.candidate("second", against="f" * 64))
    scene.prefect.broken = True
    with pytest.raises(ApprovalRefused, match=r"Weigh it again: `weighbridge release .* --scheme int8`; then approve"):
        scene.verify(version)


APPROVE = """
import sys, time
from pathlib import Path
from registry.models.registry import Registry
registry = Registry(sys.argv[1])
registry.candidates(sys.argv[2])
ready = Path(sys.argv[3])
(ready / sys.argv[4]).touch()
while not (ready / "go").exists():
    time.sleep(0.01)
print(registry.approve(sys.argv[2], 1, "at once", sys.argv[4]).version)
"""


def test_concurrent_and_repeated_approvals_make_one_version(scene: Scene, tmp_path: Path) -> None:
    artifact = scene.candidate("good", "baseline")
    approving = [
        subprocess.Popen(
            [sys.executable, "-c", APPROVE, scene.server.url, scene.line_name, str(tmp_path), who],
            stdout=subprocess.PIPE,
            text=True,
        )
        for who in ("ada", "bob")
    ]
    wait_for(lambda: (tmp_path / "ada").exists() and (tmp_path / "bob").exists())
    (tmp_path / "go").touch()
    assert [process.communicate(timeout=120)[0].strip() for process in approving] == ["1", "1"]
    assert [version.version for version in scene.registry.versions(scene.line_name)] == [1]
    assert [entry.action for entry in AuditLog().entries(scene.line_name)] == ["approve"]
    assert scene.registry.approve(scene.line_name, 1, "", "carl").version == 1
    assert scene.verify(scene.version(1)) == artifact


def test_of_two_concurrent_clicks_the_newer_version_serves(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = scene.candidate("good", "baseline")
    clicks = [threading.Thread(target=scene.click, args=(artifact,)) for _ in range(2)]
    for click in clicks:
        click.start()
    for click in clicks:
        click.join()
    assert [version.version for version in scene.registry.waiting(scene.line_name)] == [1, 2]
    requested = settled.requested_version(scene.installation, scene.line, None)
    assert requested is not None and requested.version == 2
    scene.verify(requested)
    monkeypatch.setattr(step, "retire_engines", lambda installation, line: None)
    body_of(step.finish_rollout)(scene.installation, scene.line, requested)
    assert [version.state for version in scene.registry.versions(scene.line_name)] == ["retired", "serving"]
    assert scene.version(1).state_reason == "superseded by version 2"
    requested = settled.requested_version(scene.installation, scene.line, None)
    assert requested is not None and requested.version == 2, "no approval is left"


def test_the_older_approval_is_used_if_the_newer_is_refused(
    scene: Scene,
) -> None:
    production = scene.candidate("good", "baseline")
    scene.serve(scene.click(production))
    older, newer = (scene.candidate(name, against=production.digest) for name in ("older", "newer"))
    scene.click(older)
    scene.click(newer)
    requested = settled.requested_version(scene.installation, scene.line, None)
    assert requested is not None and requested.digest == newer.digest
    (Store.of(scene.settings).unverified_folder(newer) / "model/config.json").unlink()
    with pytest.raises(ArtifactDamaged):
        scene.verify(requested)
    requested = settled.requested_version(scene.installation, scene.line, None)
    assert requested is not None and scene.verify(requested) == older


@pytest.mark.parametrize("state", ["failed", "rolled_back"])
def test_the_alias_does_not_restore_a_retired_version(scene: Scene, state: State) -> None:
    scene.serve(scene.click(scene.candidate("good", "baseline")))
    scene.registry.set_state(scene.line_name, 1, state, "errors")
    requested = settled.requested_version(scene.installation, scene.line, None)
    assert requested is not None and requested.version == 1
    with pytest.raises(ApprovalRefused, match=f"is {state}: errors"):
        scene.verify(requested)


class Killed(BaseException):
    """Simulated `kill -9`: no code catches it."""


@pytest.mark.parametrize("writes", range(6))
def test_the_registry_is_correct_after_a_kill_at_any_write(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    first, passed_over, newest = (
        scene.click(scene.candidate(name, "baseline")) for name in ("first", "second", "newest")
    )
    scene.serve(first)
    scene.registry.set_state(scene.line_name, newest.version, "rolling")
    writes_left = writes

    def dies(name: str) -> None:
        real = getattr(Registry, name)

        def write(*arguments: object) -> None:
            nonlocal writes_left
            if writes_left == 0:
                raise Killed
            writes_left -= 1
            real(*arguments)

        monkeypatch.setattr(Registry, name, write)

    for name in ("set_previous", "set_production", "set_state"):
        dies(name)
    if writes < 5:
        with pytest.raises(Killed):
            serving_record.record_serving(scene.installation, scene.line, scene.version(newest.version))
    writes_left = 100
    serving_record.record_serving(scene.installation, scene.line, scene.version(newest.version))
    production, previous = scene.registry.production(scene.line_name), scene.registry.previous(scene.line_name)
    assert production == scene.version(newest.version) and production.state == "serving"
    assert previous == scene.version(first.version) and previous.state == "previous"
    assert scene.version(passed_over.version).state == "retired"
    writes_left = 0
    serving_record.record_serving(scene.installation, scene.line, scene.version(newest.version))
