"""`weighbridge restart`: what it refuses, read from a home's files without a server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stack.restarting import obstacles
from tasks.serve.fleet import trial_mark
from weighbridge.settings import load_settings

RECORDED = Path(__file__).parents[1] / "serve" / "recorded"
ENGINE = "engine-toy-aaaaaaaaaaaa-950377"


@pytest.fixture
def engine_folder(own_home: Path) -> Path:
    """A home with an engine on port 8200, and the line `toy` whose first version is on it."""
    (folder := own_home / "engines" / ENGINE).mkdir(parents=True)
    shutil.copy(RECORDED / "engine-with-port.json", folder / "engine.json")
    return folder


def give_weights(home: Path, first: int, second: int) -> None:
    routes = json.loads((RECORDED / "routes-with-ports.json").read_text())
    for backend, weight in zip(routes["lines"][0]["backends"], (first, second), strict=True):
        backend["weight"] = weight
    (home / "gateway").mkdir(exist_ok=True)
    (home / "gateway" / "routes.json").write_text(json.dumps(routes))


@pytest.mark.parametrize(("weight", "said"), [(100, "has all of the requests of toy"), (25, "has 25 % of")])
def test_an_engine_with_requests_is_an_obstacle_and_says_the_way_round(
    engine_folder: Path, own_home: Path, weight: int, said: str
) -> None:
    give_weights(own_home, weight, 100 - weight)
    [sentence] = obstacles(load_settings(), [ENGINE])
    assert said in sentence and "weighbridge rollback toy" in sentence


def test_an_engine_without_requests_is_none(engine_folder: Path, own_home: Path) -> None:
    give_weights(own_home, 0, 100)
    assert obstacles(load_settings(), [ENGINE]) == []


def test_an_engine_that_is_being_scored_is_an_obstacle(engine_folder: Path, own_home: Path) -> None:
    with trial_mark.held(engine_folder / "trial"):
        [sentence] = obstacles(load_settings(), [ENGINE])
    assert "is being scored" in sentence
    assert obstacles(load_settings(), [ENGINE]) == [], "what a killed run left on trial is in nobody's way"


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("restart", "worker"), 3, "StackDown"),
        (("restart",), 2, "UsageInvalid"),
        (("logs", "wroker"), 2, "ServiceUnknown"),
    ],
)
def test_what_cannot_be_restarted_or_shown_is_named(
    own_home: Path, arguments: tuple[str, ...], status: int, error: str
) -> None:
    (own_home / "logs").mkdir()
    (own_home / "logs" / "worker.log").write_text("works\n")
    command = [sys.executable, "-m", "cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == status and error in done.stderr
    if error == "ServiceUnknown":
        assert "did you mean worker?" in done.stderr
