"""What the store does while this process or machine lacks something: nothing is taken for damage."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.store import Store
from tests.registry.store_support import make_artifact


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    """Leave this process few descriptors to open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sum(1 for _ in Path("/proc/self/fd").iterdir()) + 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    yield most
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_whole_store_is_verified_with_few_descriptors(store: Store, few_descriptors: int) -> None:
    for number in range(few_descriptors):
        store.verify(make_artifact(store, {"config.json": str(number)}))


def test_a_lack_of_descriptors_is_not_taken_for_damage(store: Store, few_descriptors: int) -> None:
    """Otherwise the version would be refused for good, and a sound artifact replaced."""
    artifact = make_artifact(store)
    taken: list[int] = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    try:
        # With every number of descriptors that is left over, it is either sound or not known.
        while taken:
            try:
                store.verify(artifact)
            except OSError as error:
                assert error.errno == errno.EMFILE
            os.close(taken.pop())
    finally:
        for descriptor in taken:
            os.close(descriptor)
    store.verify(artifact)
