"""The log of a flow run does not repeat an error that the command tells at its end."""

from __future__ import annotations

import logging

import pytest
from prefect.logging.handlers import PrefectConsoleHandler

from cli.flow_errors import ReportedErrors, told_error, told_once
from weighbridge.errors import SuiteUnknown

ERROR = SuiteUnknown("There is no suite 'agrement'.", "Name one of: agreement.", where="lines/toy.yaml")


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (str(ERROR), "SuiteUnknown"),
        (f'Finished in state Failed("Flow run encountered an exception: SuiteUnknown: {ERROR}")', "SuiteUnknown"),
        ("SuiteUnknown: with nothing to do next", ""),
        ("The Hub did not answer; SuiteUnknown: is next. Next: wait.", ""),
        ("ValueError: 3 Next: 4", ""),
        ("score: 25 % (10 of 40)", ""),
        ("Finished in state Completed()", ""),
    ],
)
def test_only_a_message_that_tells_a_named_error_whole_is_one(message: str, name: str) -> None:
    assert told_error(message) == name


def test_each_failed_step_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    reported = ReportedErrors()
    left_out = [
        reported.leave_out(f"{prefix}{ERROR}", step)
        for step in ("score-int8", "score-int4", "")
        for prefix in ("", "Finished in state Failed(")
    ]
    assert all(left_out)
    assert capsys.readouterr().err.split() == [
        "failed",
        "score-int8:",
        "SuiteUnknown",
        "failed",
        "score-int4:",
        "SuiteUnknown",
    ]


def test_a_console_of_prefect_leaves_the_error_out_and_shows_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("prefect.told")
    handler = PrefectConsoleHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with told_once():
            logger.info("score: 25 %%")
            logger.error(str(ERROR))
        logger.error(str(ERROR))
    finally:
        logger.removeHandler(handler)
    shown = capsys.readouterr().err
    assert shown.count("agrement") == 1 and "score: 25" in shown
