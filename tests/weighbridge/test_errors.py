"""The reference of all failures: a name, a status and a sentence for each, and no two definitions."""

from __future__ import annotations

import pickle

import pytest

from weighbridge.errors import (
    ExitStatus,
    Interrupted,
    Unexpected,
    VerdictInconclusive,
    VerdictInvalid,
    VerdictRegression,
    WeighbridgeError,
    all_errors,
)


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: str(error.__name__))
def test_a_failure_has_a_status_of_its_kind_and_one_sentence(error: type[WeighbridgeError]) -> None:
    others = {Unexpected: ExitStatus.FAILED, Interrupted: ExitStatus.INTERRUPTED}
    assert others.get(error, error.exit_status) == error.exit_status != ExitStatus.OK
    assert error in others or error.exit_status not in others.values()
    assert error.exit_status.meaning
    assert error.__doc__ and error.__doc__.endswith(".") and "\n" not in error.__doc__
    raised = error("It failed.", "Mend it.", "here")
    received = pickle.loads(pickle.dumps(raised))
    assert str(received) == f"{error.__name__}: It failed. [here] Next: Mend it."
    assert received.as_dict() == raised.as_dict(), "it survives the way between processes"


def test_every_status_but_success_belongs_to_a_failure() -> None:
    used = {error.exit_status for error in all_errors()}
    assert set(ExitStatus) - used == {ExitStatus.OK}


def test_the_three_verdict_failures_are_told_apart_by_exit_status() -> None:
    failures = (VerdictRegression, VerdictInconclusive, VerdictInvalid)
    assert [int(failure.exit_status) for failure in failures] == [20, 21, 22]
