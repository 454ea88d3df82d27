"""`weighbridge compare` as a user meets it: real processes, exit statuses, kills and interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from examples.answering import Answering
from weighbridge.errors import WeighbridgeError

TESTS = 60
CONFIG = {
    "prompts": ["Answer with the number alone: {{n}}"],
    "providers": ["openai:gpt-4.1"],
    "tests": [
        {"vars": {"n": str(number)}, "assert": [{"type": "contains", "value": f" {number}."}]}
        for number in range(TESTS)
    ],
}


def says(question: str) -> str:
    return f"It is {question.split()[-1]}."


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """A team's folder with an imported suite, `numbers`."""
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers/promptfooconfig.yaml").write_text(json.dumps(CONFIG))
    done = weighbridge(tmp_path, "suite", "import", "numbers/promptfooconfig.yaml")
    assert done.returncode == 0, done.stderr
    return tmp_path


def environment(team: Path) -> dict[str, str]:
    own = {"WEIGHBRIDGE_ROOT": str(team), "WEIGHBRIDGE_HOME": str(team / "home"), "COLUMNS": "200"}
    return {**os.environ, **own}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cli.main", *arguments]


def weighbridge(team: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=team, env=environment(team), check=False
    )


def compare(team: Path, candidate: Answering, production: Answering, *more: str) -> subprocess.CompletedProcess[str]:
    options = ("--suite", "numbers", "--margin", "0.1", "--patience", "1", *more)
    return weighbridge(team, "compare", candidate.url, production.url, *options)


def test_an_endpoint_that_dies_half_way_is_invalid_and_goes_on_from_there(team: Path) -> None:
    with Answering(says, dies_after=25) as candidate, Answering(says) as production:
        cut = compare(team, candidate, production, "--all-items", "--json")
        assert cut.returncode == 22, cut.stderr
        answer = json.loads(cut.stdout)
        assert answer["verdict"] == "invalid" and answer["error"] == "VerdictInvalid"
        (suite,) = answer["suites"]
        assert "25 of 60 by the candidate" in suite["reason"] and suite["lost"] == 0
        answered = list(candidate.asked)
        candidate.revive()
        production.asked.clear()
        whole = compare(team, candidate, production, "--all-items", "--json", "--report", "out/report.html")
        assert whole.returncode == 0, whole.stderr
        assert sorted(answered + candidate.asked) == sorted(f"Answer with the number alone: {n}" for n in range(TESTS))
        assert production.asked == []
        (suite,) = json.loads(whole.stdout)["suites"]
        assert (suite["outcome"], suite["items"]) == ("non_inferior", TESTS)
        page = (team / "out/report.html").read_text()
        assert "No worse than production" in page and candidate.url in page


@pytest.mark.parametrize(("signalled", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_scoring_that_is_killed_or_stopped_asks_only_what_is_missing(
    team: Path, signalled: signal.Signals, status: int
) -> None:
    with Answering(says, delay_seconds=0.05) as candidate, Answering(says) as production:
        arguments = ("--suite", "numbers", "--margin", "0.1", "--all-items", "--concurrency", "1")
        process = subprocess.Popen(
            command("compare", candidate.url, production.url, *arguments),
            cwd=team,
            env=environment(team),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            # A runner in the background ignores Ctrl-C, and its children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        _until(lambda: len(candidate.asked) >= 12)
        process.send_signal(signalled)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == status
        if signalled == signal.SIGINT:
            assert "the same command continues from there" in errors
        time.sleep(0.2)
        answered, candidate.delay_seconds = list(candidate.asked), 0.0
        candidate.asked.clear()
        done = compare(team, candidate, production, "--all-items")
        assert done.returncode == 0, done.stderr
        # The question in flight at the kill was answered, but its client was gone.
        assert len(set(answered) & set(candidate.asked)) <= 1
        assert len(set(answered) | set(candidate.asked)) == TESTS
        assert len(production.asked) == TESTS


@pytest.fixture
def here(team: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The team's folder for commands that run in this process."""
    for name, value in environment(team).items():
        if name.startswith("WEIGHBRIDGE_"):
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(team)
    return team


@pytest.mark.parametrize(
    ("wrong", "status", "verdict"),
    [(range(0), 0, "non_inferior"), (range(40), 20, "regression"), (range(5), 21, "inconclusive")],
)
def test_the_exit_status_is_the_verdict(here: Path, wrong: range, status: int, verdict: str) -> None:
    def worse(question: str) -> str:
        return "no idea" if int(question.split()[-1]) in wrong else says(question)

    with Answering(worse) as candidate, Answering(says) as production:
        done = CliRunner().invoke(
            app, ["compare", candidate.url, production.url, "--suite", "numbers", "--margin", "0.1"]
        )
        assert done.exit_code == status, done.output
        assert verdict in done.stdout and "regression/numbers" in done.stdout
        assert "margin 10.0%" in done.stderr, "the running difference, where nobody watches a terminal"


def test_what_cannot_be_compared_at_all_is_said_by_name(here: Path) -> None:
    with Answering(says) as toy:
        for arguments, code in (
            ((toy.url, str(here), "--suite", "numbers"), "ModelUnreadable"),
            ((toy.url, toy.url, "--suite", "nothing"), "SuiteUnknown"),
            ((toy.url, toy.url, "--suite", "numbers", "--suite", "regression/numbers"), "SuiteUnknown"),
            ((toy.url, toy.url, "--suite", "numbers", "--margin", "2"), "OptionInvalid"),
            ((toy.url, toy.url, "--suite", "numbers", "--candidate-key-env", "NO_SUCH_KEY"), "OptionInvalid"),
            ((f"{toy.url}#gpt", toy.url, "--suite", "numbers"), "EndpointRefused"),
        ):
            error = CliRunner().invoke(app, ["compare", *arguments]).exception
            assert isinstance(error, WeighbridgeError) and error.code == code
        assert toy.asked == []


def _until(met: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not met():
        assert time.monotonic() < ends
        time.sleep(0.01)
