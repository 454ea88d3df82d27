"""The ladder of methods: which rung becomes the candidate, and what is told of the others."""

from __future__ import annotations

import pytest

from flows import release
from registry.store import Artifact
from tasks.evaluate.drift.intervals import Interval
from tasks.evaluate.drift.report import DriftReport, draw
from tasks.evaluate.drift.signals import make_signal
from tasks.quantize.step import methods_of
from weighbridge.errors import QuantizationFailed, QuantizationInterrupted, WeighbridgeError
from weighbridge.line import Line, Quantize, SchemeChoice

BOUND = 0.25


def artifact(scheme: str, digit: str) -> Artifact:
    return Artifact(line="toy", scheme=scheme, repo="org/toy", commit="c" * 40, digest=digit * 64, size_bytes=1)


WEIGHTS = artifact("bf16", "0")


class Ladder:
    """Methods with the divergence of what they make, or the error that they end with."""

    def __init__(self, outcomes: dict[str, float | WeighbridgeError]) -> None:
        self.outcomes, self.tried = outcomes, list[str]()

    def quantize(self, weights: Artifact, scheme: str, method: str, how: Quantize) -> Artifact:
        self.tried.append(method)
        if isinstance(outcome := self.outcomes[method], WeighbridgeError):
            raise outcome
        return artifact(scheme, str(list(self.outcomes).index(method) + 1))

    def look(self, made: Artifact, weights: Artifact, line: Line) -> DriftReport:
        kl = self.outcomes[list(self.outcomes)[int(made.digest[0]) - 1]]
        assert isinstance(kl, float)
        interval = Interval(mean=kl, low=kl - 0.05, high=kl + 0.05, units=16)
        signal = make_signal("KL", interval, unit="nats a token", bound=BOUND)
        return draw([signal], candidate_digest=made.digest, production_digest=weights.digest)


@pytest.fixture
def climb(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    def going(outcomes: dict[str, float | WeighbridgeError], minutes: float = 60):  # type: ignore[no-untyped-def]
        ladder = Ladder(outcomes)
        monkeypatch.setattr(release, "quantize", ladder.quantize)
        monkeypatch.setattr(release, "look", ladder.look)
        how = Quantize(minutes=minutes, schemes={"int4": SchemeChoice(methods=list(outcomes))})
        line = Line.load("smollm2").model_copy(update={"quantize": how})
        made = release.climb(line, WEIGHTS, "int4")
        assert made.seen is not None and made.seen.candidate_digest == made.artifact.digest
        return made.artifact, made.rungs, ladder

    return going


FAILED = QuantizationFailed("it broke.", "Read the log.")


def test_the_cheapest_method_that_is_near_enough_ends_the_climb(climb) -> None:  # type: ignore[no-untyped-def]
    made, rungs, ladder = climb({"rtn": 0.47, "gptq": 0.15, "autoround": 0.1})
    assert ladder.tried == ["rtn", "gptq"] and made.digest[0] == "2"
    assert [(one.method, one.outcome, one.kl_nats) for one in rungs] == [
        ("rtn", "regression", 0.47),
        ("gptq", "non_inferior", 0.15),
    ]


def test_an_unsure_look_climbs_on_too(climb) -> None:  # type: ignore[no-untyped-def]
    _, rungs, _ = climb({"rtn": 0.26, "gptq": 0.15})
    assert [one.outcome for one in rungs] == ["inconclusive", "non_inferior"]


def test_where_none_is_near_enough_the_nearest_is_the_candidate(climb) -> None:  # type: ignore[no-untyped-def]
    made, rungs, _ = climb({"rtn": 0.47, "gptq": 0.32, "awq": 0.4})
    assert made.digest[0] == "2" and len(rungs) == 3


def test_a_method_that_fails_is_passed_over_and_told(climb) -> None:  # type: ignore[no-untyped-def]
    made, rungs, _ = climb({"rtn": 0.47, "gptq": FAILED, "awq": 0.2})
    assert made.digest[0] == "3"
    assert (rungs[1].outcome, rungs[1].sentence, rungs[1].digest) == ("failed", "it broke.", "")


def test_where_every_method_fails_the_last_failure_is_told(climb) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(QuantizationFailed, match="it broke"):
        climb({"rtn": FAILED, "gptq": FAILED})


def test_what_was_killed_is_not_replaced_by_another_method(climb) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(QuantizationInterrupted):
        climb({"rtn": QuantizationInterrupted("killed.", "Run it again."), "gptq": 0.1})


def test_no_time_left_ends_the_climb(climb, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    clock = iter(range(0, 100000, 3600))
    monkeypatch.setattr(release.time, "monotonic", lambda: next(clock))
    made, rungs, ladder = climb({"rtn": 0.47, "gptq": 0.3, "awq": 0.1}, minutes=90)
    assert ladder.tried == ["rtn", "gptq"] and made.digest[0] == "2" and len(rungs) == 2


def test_without_a_choice_the_scheme_s_own_methods_are_climbed() -> None:
    assert methods_of("int4", Line.load("smollm2"))[0] == "rtn"
