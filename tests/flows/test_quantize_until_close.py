"""Which method's artifact becomes the candidate, and the record of the other attempts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from registry.store import Artifact
from tasks.evaluate.drift.intervals import Interval
from tasks.evaluate.drift.report import DriftReport, draw
from tasks.evaluate.drift.signals import make_signal
from tasks.quantize.step import methods_of
from tasks.quantize.until_close import Attempt, quantize_until_close
from weighbridge.errors import QuantizationFailed, QuantizationInterrupted, WeighbridgeError
from weighbridge.line import Line

BOUND = 0.25
Outcomes = dict[str, float | WeighbridgeError]
FAILED = QuantizationFailed("it broke.", "Read the log.")


def artifact(scheme: str, digit: str) -> Artifact:
    return Artifact(line="toy", scheme=scheme, repo="org/toy", commit="c" * 40, digest=digit * 64, size_bytes=1)


WEIGHTS = artifact("bf16", "0")


class Methods:
    """Quantize with stand-in methods: each has the divergence of its artifact, or its error."""

    def __init__(self, outcomes: Outcomes) -> None:
        self.outcomes, self.tried, self.messages = outcomes, list[str](), list[str]()

    def quantize(self, method: str) -> Artifact:
        self.tried.append(method)
        if isinstance(outcome := self.outcomes[method], WeighbridgeError):
            raise outcome
        return artifact("int4", str(list(self.outcomes).index(method) + 1))

    def check_drift(self, candidate: Artifact) -> DriftReport:
        kl = self.outcomes[list(self.outcomes)[int(candidate.digest[0]) - 1]]
        assert isinstance(kl, float)
        interval = Interval(mean=kl, low=kl - 0.05, high=kl + 0.05, units=16)
        signal = make_signal("KL", interval, unit="nats a token", bound=BOUND)
        return draw([signal], candidate_digest=candidate.digest, production_digest=WEIGHTS.digest)


def try_methods(
    outcomes: Outcomes, minutes: float = 60, clock: Callable[[], float] = lambda: 0.0
) -> tuple[Artifact, tuple[Attempt, ...], Methods]:
    methods = Methods(outcomes)
    chosen = quantize_until_close(
        WEIGHTS,
        list(outcomes),
        quantize=methods.quantize,
        check_drift=methods.check_drift,
        minutes=minutes,
        report=methods.messages.append,
        clock=clock,
    )
    assert chosen.drift is not None and chosen.drift.candidate_digest == chosen.artifact.digest
    return chosen.artifact, chosen.attempts, methods


def test_the_cheapest_close_enough_method_ends_the_search() -> None:
    candidate, attempts, methods = try_methods({"rtn": 0.47, "gptq": 0.15, "autoround": 0.1})
    assert methods.tried == ["rtn", "gptq"] and candidate.digest[0] == "2"
    assert [(attempt.method, attempt.outcome, attempt.kl_nats) for attempt in attempts] == [
        ("rtn", "regression", 0.47),
        ("gptq", "non_inferior", 0.15),
    ]


def test_an_inconclusive_drift_check_tries_the_next_method() -> None:
    _, attempts, _ = try_methods({"rtn": 0.26, "gptq": 0.15})
    assert [attempt.outcome for attempt in attempts] == ["inconclusive", "non_inferior"]


def test_the_closest_artifact_is_the_candidate_if_none_is_close_enough() -> None:
    candidate, attempts, _ = try_methods({"rtn": 0.47, "gptq": 0.32, "awq": 0.4})
    assert candidate.digest[0] == "2" and len(attempts) == 3


def test_a_failed_method_is_skipped_and_recorded() -> None:
    candidate, attempts, _ = try_methods({"rtn": 0.47, "gptq": FAILED, "awq": 0.2})
    assert candidate.digest[0] == "3"
    assert (attempts[1].outcome, attempts[1].sentence, attempts[1].digest) == ("failed", "it broke.", "")


def test_the_last_failure_is_raised_if_every_method_fails() -> None:
    with pytest.raises(QuantizationFailed, match="it broke"):
        try_methods({"rtn": FAILED, "gptq": FAILED})


def test_a_killed_method_is_not_replaced_by_another() -> None:
    with pytest.raises(QuantizationInterrupted):
        try_methods({"rtn": QuantizationInterrupted("killed.", "Run it again."), "gptq": 0.1})


def test_no_time_left_ends_the_search() -> None:
    hours: Iterator[int] = iter(range(0, 100000, 3600))
    candidate, attempts, methods = try_methods(
        {"rtn": 0.47, "gptq": 0.3, "awq": 0.1}, minutes=90, clock=lambda: next(hours)
    )
    assert methods.tried == ["rtn", "gptq"] and candidate.digest[0] == "2" and len(attempts) == 2
    assert methods.messages == ["awq is not tried: the 90 minutes for trying methods are over."]


def test_the_methods_of_the_scheme_are_the_default() -> None:
    assert methods_of("int4", Line.load("smollm2"))[0] == "rtn"
