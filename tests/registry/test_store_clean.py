"""Cleaning the store: which artifacts are kept, and no partial artifact is ever visible."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry.store import Artifact, Store, clean
from tests.registry.store_support import make_artifact


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def aged(store: Store, artifact: Artifact, hours: float) -> Artifact:
    manifest = store.unverified_folder(artifact) / "manifest.json"
    then = time.time() - hours * 3600
    os.utime(manifest, (then, then))
    return artifact


def test_clean_keeps_used_artifacts_only(store: Store) -> None:
    used, idle = make_artifact(store), make_artifact(store, {"idle": "12345"}, commit="d" * 40)
    cleaned = clean(store, {used.digest})
    assert [removal.name for removal in cleaned.removed] == [idle.digest]
    assert (cleaned.freed_bytes, cleaned.kept) == (5, 1)
    assert store.artifacts() == [used]
    store.verify(used)


def test_a_dry_run_removes_nothing(store: Store) -> None:
    idle = make_artifact(store)
    store.staging("line", "left").joinpath("x").write_text("123")
    cleaned = clean(store, set(), dry_run=True)
    assert {removal.name for removal in cleaned.removed} == {idle.digest, "left"}
    store.verify(idle)
    assert (store.folder / "line/.staging/left/x").exists()


def test_the_source_of_a_kept_artifact_is_kept(store: Store) -> None:
    used = make_artifact(store)
    source = make_artifact(store, {"source": ""}, scheme="bf16", by="download")
    sibling = make_artifact(store, {"sibling": ""}, scheme="int4")
    older = make_artifact(store, {"older": ""}, scheme="bf16", by="download", commit="d" * 40)
    removed = {removal.name for removal in clean(store, {used.digest}).removed}
    assert removed == {sibling.digest, older.digest}
    assert source in store.artifacts()


def test_the_newest_and_the_recent_are_kept(store: Store) -> None:
    old = aged(store, make_artifact(store, {"a": ""}, commit="a" * 40), 72)
    middle = aged(store, make_artifact(store, {"b": ""}, commit="b" * 40), 48)
    young = aged(store, make_artifact(store, {"c": ""}, commit="d" * 40), 1)
    assert [removal.name for removal in clean(store, set(), newest=2, dry_run=True).removed] == [old.digest]
    removed = {removal.name for removal in clean(store, set(), min_age_seconds=24 * 3600).removed}
    assert removed == {old.digest, middle.digest}
    assert store.artifacts() == [young]


def test_a_recent_artifact_is_kept_beside_an_old_one_of_the_same_digest(store: Store) -> None:
    recent = aged(store, make_artifact(store, line="a"), 1)
    old = aged(store, make_artifact(store, line="b"), 72)
    assert recent.digest == old.digest
    assert clean(store, set(), min_age_seconds=24 * 3600).removed == ()


def test_staging_folders_of_dead_processes_are_removed(store: Store, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from registry.store import Store\n"
        "with Store(Path(sys.argv[1])).fresh_staging('line', sys.argv[2]) as folder:\n"
        "    (folder / 'half').write_text('12345'); print('ready', flush=True); time.sleep(60)\n"
    )

    def builder(key: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(store.folder), key]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout and process.stdout.readline() == "ready\n"
        return process

    dead, living = builder("dead"), builder("living")
    try:
        dead.kill()
        dead.wait()
        cleaned = clean(store, set())
        assert [(removal.name, removal.size_bytes) for removal in cleaned.removed] == [("dead", 5)]
        assert (store.folder / "line/.staging/living/half").exists()
        assert not (store.folder / "line/.staging/dead").exists()
    finally:
        living.kill()
        living.wait()


def test_a_killed_clean_is_invisible_and_finished_by_the_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make_artifact(store)

    def die(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("registry.store.cleanup.remove", die)
    with pytest.raises(KeyboardInterrupt):
        clean(store, set())
    monkeypatch.undo()
    assert store.artifacts() == []
    assert [removal.name[:5] for removal in clean(store, set()).removed] == ["gone-"]
    assert clean(store, set()).removed == ()


USER = (
    "import sys; from pathlib import Path; from registry.store import Store\n"
    "from weighbridge.errors import ArtifactMissing\n"
    "store = Store(Path(sys.argv[1])); artifact = store.get('line', sys.argv[2])\n"
    "print('asks', flush=True)\n"
    "try:\n    print(store.path(artifact), flush=True)\n"
    "except ArtifactMissing:\n    print('missing', flush=True)\n"
    "sys.stdin.read()\n"
)
"""A process that begins to use an artifact, as an engine's start does, and ends when its input does."""


def user_of(store: Store, artifact: Artifact) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", USER, str(store.folder), artifact.digest]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "asks\n"
    return process


def test_what_a_living_process_was_given_stays_until_it_ends(store: Store) -> None:
    """`uses` was gathered before the engine began: its weights are not taken away all the same."""
    artifact, uses = make_artifact(store), set[str]()
    with user_of(store, artifact) as process:
        assert process.stdout and process.stdout.readline().strip() == str(store.unverified_folder(artifact) / "model")
        assert clean(store, uses).removed == ()
        assert clean(store, uses, dry_run=True).removed == ()
    assert [removal.name for removal in clean(store, uses).removed] == [artifact.digest]


def test_the_source_of_what_a_living_process_uses_stays_too(store: Store) -> None:
    artifact = make_artifact(store)
    make_artifact(store, {"source": ""}, scheme="bf16", by="download")
    with user_of(store, artifact) as process:
        assert process.stdout and process.stdout.readline()
        assert clean(store, set()).removed == ()


def test_a_use_that_begins_during_a_clean_waits_and_finds_nothing_half_gone(store: Store) -> None:
    artifact, users = make_artifact(store), list[subprocess.Popen[str]]()

    def begin() -> set[str]:
        users.append(user_of(store, artifact))
        return set()

    assert [removal.name for removal in clean(store, set(), keep_now=begin).removed] == [artifact.digest]
    (process,) = users
    with process:
        assert process.stdout and process.stdout.readline() == "missing\n"


def test_uses_are_asked_for_again_once_none_can_begin(store: Store) -> None:
    artifact = make_artifact(store)
    assert clean(store, set(), keep_now=lambda: {artifact.digest}).removed == ()


def test_what_was_used_lately_is_kept_like_what_came_lately(store: Store) -> None:
    artifact = aged(store, make_artifact(store), 72)
    with user_of(store, artifact) as process:
        assert process.stdout and process.stdout.readline()
    assert clean(store, set(), min_age_seconds=24 * 3600).removed == ()
    assert [removal.name for removal in clean(store, set()).removed] == [artifact.digest]


def test_an_artifact_that_is_only_verified_every_night_is_no_artifact_in_use(store: Store) -> None:
    artifact = aged(store, make_artifact(store), 72)
    store.verify(artifact)
    assert [removal.name for removal in clean(store, set(), min_age_seconds=24 * 3600).removed] == [artifact.digest]
