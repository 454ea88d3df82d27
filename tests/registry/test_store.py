"""The local store: artifacts by content, adopted atomically, verified on use."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from registry.store import Artifact, Store
from tests.registry.store_support import rewrite
from weighbridge.errors import ArtifactDamaged, ArtifactMissing, DiskFull

COMMIT = "c" * 40


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def make_artifact(store: Store, files: dict[str, str] | None = None, key: str = "k") -> Artifact:
    folder = store.staging("line", key)
    for name, text in (files or {"config.json": "{}", "sub/model.safetensors": "weights"}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return store.adopt(folder, line="line", scheme="int8", repo="org/m", commit=COMMIT, facts={"recipe": {"bits": 8}})


def test_an_adopted_artifact_is_found_intact(store: Store) -> None:
    artifact = make_artifact(store)
    assert store.get("line", artifact.digest) == artifact
    assert (store.path(artifact) / "sub/model.safetensors").read_text() == "weights"
    assert artifact.uri == f"store://line/{artifact.digest}"
    assert artifact.size_bytes == len("{}") + len("weights")
    assert store.facts(artifact) == {"recipe": {"bits": 8}}
    store.verify(artifact)


def test_same_content_is_the_same_artifact(store: Store) -> None:
    first, second = make_artifact(store, key="a"), make_artifact(store, key="b")
    assert first == second
    assert len(store.artifacts("line")) == 1


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": "{}", "sub/model.safetensors": "weightz"},
        {"config.json": "{}", "model.safetensors": "weights"},
        {"config.json": "{}", "sub/model.safetensors": "weights", "more": ""},
    ],
)
def test_other_content_or_names_are_another_artifact(store: Store, files: dict[str, str]) -> None:
    assert make_artifact(store).digest != make_artifact(store, files, key="other").digest


@pytest.mark.parametrize("harm", ["alter", "remove", "add"])
def test_verify_names_the_damaged_file(store: Store, harm: str) -> None:
    artifact = make_artifact(store)
    path = store.path(artifact) / "config.json"
    if harm == "alter":
        rewrite(path, "[]")
    elif harm == "remove":
        path.unlink()
    else:
        (path.parent / "extra.py").write_text("import os")
    with pytest.raises(ArtifactDamaged, match="extra.py" if harm == "add" else "config.json"):
        store.verify(artifact)


def test_a_missing_artifact_names_the_command_that_rebuilds_it(store: Store) -> None:
    with pytest.raises(ArtifactMissing) as caught:
        store.get("line", "0" * 64)
    assert "weighbridge release line" in caught.value.next_step


def test_a_failed_build_leaves_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError), store.fresh_staging("line", "k") as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert not folder.exists()
    assert store.artifacts() == []


def test_a_crash_before_the_last_rename_is_invisible_and_repaired(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.rename

    def crash(self: Path, target: Path) -> Path:
        if Path(target).parent == store.folder / "line":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        make_artifact(store)
    monkeypatch.undo()
    assert store.artifacts() == []
    artifact = make_artifact(store, key="again")
    store.verify(artifact)


def test_a_full_disk_is_reported_before_writing(store: Store) -> None:
    with pytest.raises(DiskFull, match="needs 1048576"):
        store.require_free(2**50, "The download")


def test_concurrent_adoptions_of_one_content_make_one_artifact(store: Store) -> None:
    folders: list[Path] = []
    for key in ("a", "b"):
        folder = store.staging("line", key)
        (folder / "config.json").write_text(json.dumps({"n": list(range(1000))}))
        folders.append(folder)
    results: list[Artifact] = []

    def adopt(folder: Path) -> None:
        results.append(store.adopt(folder, line="line", scheme="int8", repo="o/m", commit=COMMIT))

    threads = [threading.Thread(target=adopt, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert results[0] == results[1]
    store.verify(results[0])
