"""The tutorial keeps its promise: six commands, one file. tests/e2e/test_journey.py runs them."""

from __future__ import annotations

import json

from tasks.evaluate.suites.suite import Question
from tests.e2e import tutorial


def test_an_own_model_takes_six_commands_and_one_file() -> None:
    commands = tutorial.commands()
    assert 5 <= len(commands) <= 6, commands
    assert [command.split()[1] for command in commands] == ["up", "lines", "release", "release", "rollback", "lines"]
    [written] = tutorial.blocks("json")
    assert len(written.splitlines()) <= 5, "what a person types in a minute"
    for row in written.splitlines():
        Question.model_validate(json.loads(row))
