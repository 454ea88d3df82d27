"""`weighbridge store` as a user meets it: real processes, their output and exit statuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import store as command
from registry.models.records import CandidateRecord, ReleaseRecord
from registry.models.registry import Registry
from registry.store import Artifact, Store
from tests.registry.store_support import rewrite
from weighbridge.errors import StackDown

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def weighbridge(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "cli.main", "store", *arguments]
    return subprocess.run(program, capture_output=True, text=True, env=os.environ, check=False)


def add_artifact(
    content: str, *, scheme: str = "int8", hours: float = 48, line: str = "smollm2", by: str = ""
) -> Artifact:
    """An artifact in the installation's store, of a commit of its own unless it is a download."""
    store = Store()
    with store.fresh_staging(line, f"make-{content}") as folder:
        (folder / "config.json").write_text(content)
        commit = COMMIT if by else f"{len(content):040x}"
        facts: dict[str, object] = {"made_by": by}
        artifact = store.adopt(folder, line=line, scheme=scheme, repo="org/m", commit=commit, facts=facts)
    then = time.time() - hours * 3600
    os.utime(store.unverified_folder(artifact) / "manifest.json", (then, then))
    return artifact


def record(registry: Registry, artifact: Artifact) -> int:
    """Register a candidate that passed; its version."""
    candidate = CandidateRecord(artifact=artifact, outcome="non_inferior", passes=True, sentence="No worse.")
    release = ReleaseRecord(
        line=artifact.line, repo="org/m", commit=COMMIT, key=artifact.digest[:8], candidates=(candidate,)
    )
    version = registry.record_release(release).candidates[0].version
    assert version is not None
    return version


@pytest.fixture
def registry(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    address = f"sqlite:///{tmp_path}/mlflow.db"
    registry = Registry(address)
    monkeypatch.setattr("registry.installation.Installation.registry", registry)
    yield registry


def in_process(*arguments: str) -> dict[str, object]:
    done = CliRunner().invoke(command.store, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def test_ls_says_what_there_is_without_the_stack() -> None:
    artifact = add_artifact("a")
    done = weighbridge("ls", "--json")
    (row,) = json.loads(done.stdout)["artifacts"]
    assert (row["digest"], row["line"], row["scheme"], row["signed"]) == (artifact.digest, "smollm2", "int8", True)
    assert row["uses"] is None, "without MLflow nobody knows"
    assert 47 * 3600 < row["age_seconds"] < 49 * 3600
    people = weighbridge("ls", "--line", "smollm2")
    assert artifact.digest[:12] in people.stdout and "2 d" in people.stdout and "?" in people.stdout
    assert json.loads(weighbridge("ls", "--line", "llama", "--json").stdout)["artifacts"] == []


def test_verify_names_the_damaged_file_and_its_exit_status() -> None:
    good, bad = add_artifact("a"), add_artifact("bb")
    assert weighbridge("verify").returncode == 0
    rewrite(Store().unverified_folder(bad) / "model/config.json", "altered")
    done = weighbridge("verify")
    assert done.returncode == 10
    assert f"right  {good.uri}" in done.stdout
    assert done.stderr.startswith("ArtifactDamaged") and "config.json" in done.stderr
    assert weighbridge("verify", good.digest[:9]).returncode == 0
    result = weighbridge("verify", bad.digest, "--json")
    assert result.returncode == 10
    (row,) = json.loads(result.stdout)["artifacts"]
    assert (row["right"], row["error"]) == (False, "ArtifactDamaged") and "config.json" in row["what"]


def test_an_unsigned_artifact_is_refused_and_may_be_signed() -> None:
    artifact = add_artifact("a")
    (Store().unverified_folder(artifact) / "manifest.sig").unlink()
    done = weighbridge("verify")
    assert done.returncode == 10 and "ArtifactUnsigned" in done.stderr
    assert weighbridge("sign", artifact.short).returncode == 0
    assert weighbridge("verify").returncode == 0


def test_show_follows_an_artifact_to_the_published_commit() -> None:
    artifact = add_artifact("a")
    done = weighbridge("show", artifact.short, "--json")
    shown = json.loads(done.stdout)
    assert [origin["uri"] for origin in shown["origins"]] == [artifact.uri, f"hf://org/m@{artifact.commit}"]
    assert shown["provenance"] is None
    people = weighbridge("show", artifact.short)
    assert people.returncode == 0 and artifact.short in people.stdout.replace("\n", "")


def test_push_repairs_the_shared_store_and_needs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = add_artifact("a")
    alone = weighbridge("push", artifact.short)
    assert alone.returncode != 0 and "WEIGHBRIDGE_STORE_URL" in alone.stderr
    monkeypatch.setenv("WEIGHBRIDGE_STORE_URL", f"file://{tmp_path}/shared")
    assert weighbridge("push", artifact.short).returncode == 0
    assert (tmp_path / "shared/smollm2" / artifact.digest / "model/config.json").read_text() == "a"


def test_what_is_not_there_and_what_is_not_clear_are_said() -> None:
    add_artifact("a")
    done = weighbridge("verify", "ffff")
    assert done.returncode == 10 and "'ffff'" in done.stderr


def test_gc_without_mlflow_refuses_and_removes_nothing() -> None:
    artifact = add_artifact("a")
    done = weighbridge("gc")
    assert done.returncode == 3 and done.stderr.startswith("StackDown")
    assert Store().holds("smollm2", artifact.digest)


def test_gc_never_takes_what_is_used(registry: Registry, own_home: Path) -> None:
    production, previous, candidate, waiting = (
        add_artifact("p"),
        add_artifact("pp"),
        add_artifact("ccc"),
        add_artifact("wwww"),
    )
    retired, refused, engine, young = (
        add_artifact("r" * 5),
        add_artifact("r" * 6),
        add_artifact("e" * 7),
        add_artifact("y" * 8, hours=1),
    )
    idle = add_artifact("i" * 9)
    for artifact in (production, previous, waiting, retired, refused):
        version = registry.approve("smollm2", record(registry, artifact), "test", "me").version
        if artifact is production:
            registry.set_production("smollm2", version)
            registry.set_state("smollm2", version, "serving")
        elif artifact is previous:
            registry.set_previous("smollm2", version)
            registry.set_state("smollm2", version, "previous")
        elif artifact is retired:
            registry.set_state("smollm2", version, "retired")
        elif artifact is refused:
            registry.set_state("smollm2", version, "refused", "because")
    record(registry, candidate)
    _pretend_engine(own_home, engine)
    expected = {retired.digest, refused.digest, idle.digest}
    dry = in_process("gc", "--dry-run")
    assert {removed["name"] for removed in dry["removed"]} == expected  # type: ignore[attr-defined]
    assert all(Store().holds("smollm2", digest) for digest in expected)
    rows = {row["digest"]: row["uses"] for row in in_process("ls")["artifacts"]}  # type: ignore[attr-defined]
    assert rows[production.digest][0] == "production" and rows[previous.digest][0] == "previous"
    assert rows[engine.digest] == ["engine"] and rows[idle.digest] == []
    done = in_process("gc")
    assert {removed["name"] for removed in done["removed"]} == expected  # type: ignore[attr-defined]
    assert done["freed_bytes"] == 5 + 6 + 9
    stay = {production, previous, candidate, waiting, engine, young}
    assert set(Store().artifacts()) == stay
    for artifact in stay:
        Store().verify(artifact)


def test_gc_keeps_as_many_as_it_is_told(registry: Registry) -> None:
    old, newer = add_artifact("a", hours=72), add_artifact("bb", hours=48)
    removed = in_process("gc", "--keep", "1")["removed"]
    assert [artifact["name"] for artifact in removed] == [old.digest]  # type: ignore[attr-defined]
    assert Store().artifacts() == [newer]


def test_gc_does_not_guess_when_mlflow_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = add_artifact("a")

    def down(self: Registry, line: str) -> None:
        raise StackDown("The MLflow server does not answer.", "Start it.")

    monkeypatch.setattr(Registry, "candidates", down)
    monkeypatch.setattr(Registry, "versions", lambda self, line: [])
    monkeypatch.setattr(Registry, "production", lambda self, line: None)
    monkeypatch.setattr(Registry, "previous", lambda self, line: None)
    with pytest.raises(StackDown):
        CliRunner().invoke(command.store, ["gc"], catch_exceptions=False)
    assert Store().holds("smollm2", artifact.digest)


def _pretend_engine(home: Path, artifact: Artifact) -> None:
    from tasks.engines import EnginePlan
    from tasks.serve.fleet.protocol import Endpoint, RunningEngine

    plan = EnginePlan(
        engine="transformers", engine_version="1", model_name="smollm2", context=128, concurrency=1, flags={}
    )
    endpoint = Endpoint(host="127.0.0.1", port=8200)
    engine = RunningEngine(name="engine-x", line="smollm2", artifact=artifact, plan=plan, endpoints=(endpoint,))
    folder = home / "engines" / engine.name
    folder.mkdir(parents=True)
    (folder / "engine.json").write_text(engine.model_dump_json())
