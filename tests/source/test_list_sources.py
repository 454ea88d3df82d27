"""Listing a line's source: the requests to the Hub, and what counts as a successor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from examples import tiny
from examples.faults import FOR_EVER, Fault, Faults
from examples.hub import publish, serving
from tasks.source.client import Hub
from tasks.source.successors import SourceListing, list_sources
from weighbridge.errors import SourceUnknown, SourceUnreachable
from weighbridge.line import Line
from weighbridge.settings import load_settings


class Counted(Faults):
    """Faults that also remember every request."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def take(self, method: str, path: str) -> Fault | None:
        self.asked.append(path)
        return super().take(method, path)


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Counted]]:
    root, faults = tmp_path / "hub", Counted()
    root.mkdir()
    with serving(root, faults) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        monkeypatch.setattr("tasks.source.client.FIRST_WAIT_SECONDS", 0.01)
        yield root, faults


@pytest.fixture
def shelf(counted: tuple[Path, Counted], tmp_path: Path) -> Callable[..., str]:
    """Publishes a tiny release under a name."""

    def put(repo: str, **config: Any) -> str:
        return publish(counted[0], repo, tiny.build(tmp_path / repo.replace("/", "-"), **config))

    return put


def line(**watch: Any) -> Line:
    return Line.model_validate(
        {
            "name": "tiny",
            "source": "hf://acme/Tiny-3.1-8B-Instruct",
            "admission": {"licences": ["apache-2.0"]},
            "schemes": ["int8"],
            "target": {"gpus": ["host"]},
            "suites": [{"name": "general/agreement"}],
            "watch": watch,
        }
    )


def listed_sources(line: Line) -> SourceListing:
    return list_sources(Hub.of(load_settings()), line)


def test_one_request_without_successor_patterns_and_two_with_them(counted: Any, shelf: Callable[..., str]) -> None:
    commit = shelf("acme/Tiny-3.1-8B-Instruct")
    assert listed_sources(line()).head.commit == commit
    assert counted[1].asked == ["/api/models/acme/Tiny-3.1-8B-Instruct/revision/main"]
    counted[1].asked.clear()
    assert listed_sources(line(successors=["Tiny-*-8B-Instruct"])).successors == ()
    assert counted[1].asked == ["/api/models/acme/Tiny-3.1-8B-Instruct/revision/main", "/api/models"]


def test_a_successor_matches_by_name_and_size_and_is_newer(shelf: Callable[..., str]) -> None:
    shelf("acme/Tiny-2-8B-Instruct")
    shelf("acme/Tiny-3.1-8B-Instruct")
    commit = shelf("acme/tiny-4-8b-instruct", seed=1)
    shelf("acme/Tiny-4-70B-Instruct", seed=2)
    shelf("acme/Tiny-5-8B-Instruct", num_hidden_layers=20)
    shelf("other/Tiny-6-8B-Instruct", seed=3)
    listing = listed_sources(line(successors=["Tiny-*-8B-Instruct"]))
    assert {listed.repo for listed in listing.successors} == {"acme/tiny-4-8b-instruct", "acme/Tiny-5-8B-Instruct"}
    small = list_sources(
        Hub.of(load_settings()), line(successors=["Tiny-*-8B-Instruct"], parameters_billion=[0.0001, 0.001])
    )
    assert [(listed.kind, listed.repo, listed.commit) for listed in small.successors] == [
        ("successor", "acme/tiny-4-8b-instruct", commit)
    ]
    assert small.successors[0].parameters == sum(math.prod(shape) for shape in tiny.shapes(tiny.CONFIG).values())
    assert [listed.repo for listed in listed_sources(line(successors=["Tiny-6*"], author="other")).successors] == [
        "other/Tiny-6-8B-Instruct"
    ]


def test_a_new_commit_makes_no_repository_newer(shelf: Callable[..., str]) -> None:
    first = shelf("acme/Tiny-3.1-8B-Instruct")
    shelf("acme/Tiny-4-8B-Instruct", seed=1)
    second = shelf("acme/Tiny-3.1-8B-Instruct", seed=2)
    listing = listed_sources(line(successors=["Tiny-*"]))
    assert (listing.head.commit, first != second) == (second, True)
    assert [listed.repo for listed in listing.successors] == ["acme/Tiny-4-8B-Instruct"]


def test_the_retry_after_of_the_hub_is_respected(counted: Any, shelf: Callable[..., str]) -> None:
    shelf("acme/Tiny-3.1-8B-Instruct")
    counted[1].add(Fault("/api/models", status=429, headers={"Retry-After": "1"}))
    assert listed_sources(line(successors=["Tiny-*"])).successors == ()
    assert counted[1].asked.count("/api/models") == 2


def test_an_unreachable_or_unknown_source_is_a_named_error(counted: Any, shelf: Callable[..., str]) -> None:
    with pytest.raises(SourceUnknown, match=r"acme/Tiny-3\.1"):
        listed_sources(line())
    shelf("acme/Tiny-3.1-8B-Instruct")
    counted[1].add(Fault("/api/models", status=503, times=FOR_EVER))
    with pytest.raises(SourceUnreachable, match="answered 503"):
        listed_sources(line(successors=["Tiny-*"]))


@pytest.mark.parametrize(
    "watch",
    [{"successors": ["acme/Tiny-*"]}, {"parameters_billion": [9, 7]}, {"on_new": "start"}, {"on_sucessor": "notify"}],
)
def test_a_wrong_block_is_refused(watch: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(watch))):
        line(**watch)
