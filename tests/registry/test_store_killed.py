"""Adopting over a damaged artifact, killed at each of its calls to the file system: nothing half-written is seen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from registry.store import Artifact, Store, clean
from tests.registry.store_support import make_artifact, rewrite
from weighbridge.errors import ArtifactDamaged

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.utime", "open", "shutil.rmtree")
"""Audit events (PEP 578) of calls that may change the disk."""


def adopt_and_die_at(store: Store, call: int) -> bool:
    """Adopt in a process that ends without cleaning up at its n-th call; return whether it came to its end."""
    child = os.fork()
    if child == 0:
        left = call

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in CHANGES:
                left -= 1
                if left < 0:
                    os._exit(9)

        sys.addaudithook(count)
        try:
            make_artifact(store)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def is_whole(store: Store, artifact: Artifact) -> bool:
    """Whether the fresh copy is there; the damaged one and none are the other two possibilities."""
    folder = store.unverified_folder(artifact)
    if not folder.exists():
        return False
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"manifest.json", "manifest.sig", "model/config.json", "model/sub/model.safetensors"}
    try:
        store.path(artifact)
    except ArtifactDamaged:
        assert (folder / "model/config.json").read_text() == "[]"
        return False
    return True


def test_a_replacement_killed_at_any_point_leaves_the_old_the_new_or_none(tmp_path: Path) -> None:
    for call in range(1000):
        store = Store(tmp_path / str(call) / "store")
        artifact = make_artifact(store)
        rewrite(store.unverified_folder(artifact) / "model/config.json", "[]")
        ended = adopt_and_die_at(store, call)
        whole = is_whole(store, artifact)
        assert make_artifact(store) == artifact
        store.verify(artifact)
        clean(store, {artifact.digest})
        assert list((store.folder / "line/.staging").iterdir()) == [], "leftovers are removed"
        if ended:
            assert whole
            assert call > 20, "the calls were seen"
            return
    raise AssertionError("it never came to its end")
