"""`weighbridge watch` as a user meets it: real processes against the stand-in for the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples import tiny
from examples.hub import publish, serving


class Team:
    """A project with lines of its own, a Hub, and no stack."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder, self.endpoint = folder, endpoint
        (folder / "lines").mkdir()

    def line(self, name: str, repo: str, **changes: Any) -> None:
        fields = {
            "source": f"hf://{repo}",
            "admission": {"licences": ["apache-2.0"]},
            "schemes": ["int8"],
            "target": {"gpus": ["host"], "context": 512, "concurrency": 1},
            "suites": [{"name": "general/agreement"}],
        }
        (self.folder / f"lines/{name}.yaml").write_text(yaml.safe_dump({**fields, **changes}))

    def publish(self, repo: str, remote_code: bool = False, **config: Any) -> str:
        folder = self.folder / "releases" / f"{repo}-{len(config)}-{config.get('seed', 0)}"
        if remote_code:
            config["auto_map"] = {"AutoModelForCausalLM": "modeling.X"}
        tiny.build(folder, **config)
        return publish(self.folder / "hub", repo, folder)

    def watch(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        own = {
            "WEIGHBRIDGE_ROOT": str(self.folder),
            "WEIGHBRIDGE_HOME": str(self.folder / "home"),
            "WEIGHBRIDGE_MLFLOW_PORT": "9",
            "WEIGHBRIDGE_PREFECT_PORT": "9",
            "HF_ENDPOINT": self.endpoint,
        }
        return subprocess.run(
            [sys.executable, "-m", "cli.main", "watch", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **own, **environment},
            check=False,
        )

    def rows(self, *arguments: str) -> tuple[int, dict[tuple[str, str | None], Any]]:
        """The rows of `--json` by line and repository."""
        done = self.watch(*arguments, "--json")
        return done.returncode, {(row["line"], row.get("repo")): row for row in json.loads(done.stdout)["rows"]}


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as endpoint:
        yield Team(tmp_path, endpoint)


@pytest.fixture
def five(team: Team) -> dict[str, str]:
    """Show 4: a new commit, a successor, a forbidden licence, remote code, and a model too large for its GPU."""
    for name in ("fresh", "family", "closed", "coded"):
        team.line(name, f"acme/{name.title()}-1")
    team.line("family", "acme/Family-1", watch={"successors": ["Family-*"]})
    team.line("large", "acme/Large-1", target={"gpus": ["L4"], "context": 131072, "concurrency": 1000},
              engine={"name": "vllm"})  # fmt: skip
    commits = {
        "fresh": team.publish("acme/Fresh-1"),
        "family": team.publish("acme/Family-1", seed=1),
        "closed": team.publish("acme/Closed-1", seed=2, licence="cc-by-nc-4.0"),
        "coded": team.publish("acme/Coded-1", seed=3, remote_code=True),
        "large": team.publish("acme/Large-1", seed=4),
    }
    return {**commits, "successor": team.publish("acme/Family-2", seed=5)}


def codes(row: dict[str, Any]) -> dict[str, str]:
    return {reason["code"]: reason["text"] for reason in row["reasons"]}


def test_each_of_five_lines_gets_the_right_decision_and_its_reasons(team: Team, five: dict[str, str]) -> None:
    status, rows = team.rows("--dry-run")
    assert status == 0
    assert {key: row["outcome"] for key, row in rows.items()} == {
        ("fresh", "acme/Fresh-1"): "release",
        ("family", "acme/Family-1"): "release",
        ("family", "acme/Family-2"): "notify",
        ("closed", "acme/Closed-1"): "ignore",
        ("coded", "acme/Coded-1"): "ignore",
        ("large", "acme/Large-1"): "ignore",
    }
    fresh = rows["fresh", "acme/Fresh-1"]
    assert (fresh["commit"], fresh["kind"]) == (five["fresh"], "commit")
    assert codes(fresh) == {"policy": "watch.on_new is release"}
    numbers = fresh["numbers"]
    assert numbers["fits_as"] == "int8 on host"
    assert 0 < numbers["download_gib"] <= numbers["disk_needed_gib"] < numbers["disk_free_gib"]
    family = rows["family", "acme/Family-2"]
    assert (family["commit"], family["kind"]) == (five["successor"], "successor")
    assert "hf://acme/Family-2" in codes(family)["policy"]
    assert "cc-by-nc-4.0 is not allowed (allowed: apache-2.0)" in codes(rows["closed", "acme/Closed-1"])["admission"]
    assert "auto_map" in codes(rows["coded", "acme/Coded-1"])["admission"]
    assert "No scheme of large fits any of its GPUs" in codes(rows["large", "acme/Large-1"])["fit"]
    assert not (team.folder / "home/watch").exists()


def test_without_a_stack_it_decides_and_says_what_it_could_not_start(team: Team, five: dict[str, str]) -> None:
    status, rows = team.rows("fresh", "closed")
    assert status == 3
    fresh = rows["fresh", "acme/Fresh-1"]
    assert (fresh["outcome"], fresh["state"], fresh["error"]["code"]) == ("release", "seen", "StackDown")
    assert (rows["closed", "acme/Closed-1"]["state"], rows["closed", "acme/Closed-1"]["error"]) == ("told", None)


def test_a_person_reads_a_table_and_what_to_do(team: Team) -> None:
    team.line("asked", "acme/Asked-1", watch={"on_new": "notify"})
    commit = team.publish("acme/Asked-1")
    done = team.watch(COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "notify" in done.stdout
    assert f"weighbridge release asked --revision {commit}" in " ".join(done.stdout.split())
    assert "MLflow" in done.stdout


def test_an_unknown_line_is_one_message(team: Team) -> None:
    done = team.watch("nope")
    assert done.returncode == 2
    assert done.stderr.count("LineUnknown") == 1 and "Traceback" not in done.stderr
