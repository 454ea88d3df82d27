"""Error rates of the rollout's judge, and the requests that a bad version answers before it is stopped.

Run `python -m benchmarks.rollout_judge`. Each row simulates whole rollouts of the default line: 1, 10, 50 and 100 per
cent for 60 s each, with the interim results that a step takes. Times are log-normal; the new version differs as the
row says. Requests are independent here. Real ones come in bursts, so read the stopped shares of good
versions as lower bounds.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from tasks.serve.rollout.error_budget import ErrorBudget
from tasks.serve.rollout.judge import judge
from tasks.serve.rollout.window import Sample
from weighbridge.line import Rollout

PLAN = Rollout()
USUAL_ERRORS = 0.002


@dataclass(frozen=True)
class Truth:
    """True properties of a new version."""

    name: str
    errors: float = USUAL_ERRORS
    slower: float = 1.0
    empty: float = 0.0
    longer: float = 1.0


TRUTHS = (
    Truth("like production"),
    Truth("1.2 times as slow", slower=1.2),
    Truth("errors at the limit: 1 %", errors=PLAN.max_error_share),
    Truth("latency at the limit: 1.5 times", slower=PLAN.max_latency_ratio),
    Truth("all of it at the limit", PLAN.max_error_share, PLAN.max_latency_ratio, PLAN.max_empty_share),
    Truth("5 % errors", errors=0.05),
    Truth("20 % errors", errors=0.2),
    Truth("every request fails", errors=1.0),
    Truth("twice as slow", slower=2.0),
    Truth("5 % empty answers", empty=0.05),
    Truth("every answer empty", empty=1.0),
    Truth("answers three times as long", longer=3.0),
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=200, help="of each row")
    parser.add_argument("--per-second", type=float, default=10, help="requests of the line")
    options = parser.parse_args()
    print(
        f"{options.rollouts} rollouts a row, {options.per_second:g} requests a second\n\n"
        "| the new version | stopped | of these at 1 / 10 / 50 / 100 % | requests it had had by then, median |\n"
        "| --- | --- | --- | --- |"
    )
    for truth in TRUTHS:
        random = np.random.default_rng(20261125)
        ends = [_rollout(truth, options.per_second, random) for _ in range(options.rollouts)]
        stopped = [end for end in ends if end is not None]
        weights = [sum(weight == step for weight, _ in stopped) for step in PLAN.steps]
        gave = f"{np.median([requests for _, requests in stopped]):.0f}" if stopped else "–"
        shown = " / ".join(map(str, weights)) if stopped else "–"
        print(f"| {truth.name} | {len(stopped) / len(ends):.1%} | {shown} | {gave} |", flush=True)


def _rollout(truth: Truth, per_second: float, random: np.random.Generator) -> tuple[int, int] | None:
    """Weight at which a rollout was stopped, and the new version's requests until then; None if it was not stopped."""
    served, reference = 0, Sample()
    for weight in PLAN.steps:
        budget, arrivals = ErrorBudget(len(PLAN.steps)), int(random.poisson(per_second * PLAN.hold_seconds))
        new_arrivals = np.cumsum(random.random(arrivals) < weight / 100)
        count = int(new_arrivals[-1])
        new, old = Requests.of(truth, count, random), Requests.of(Truth("production"), arrivals - count, random)
        for number in range(1, count + 1):
            moment = budget.due(number, due=number == count, overdue=False)
            if moment is None:
                continue
            old_count = int(np.searchsorted(new_arrivals, number)) + 1 - number
            production = old.first(old_count) if weight < 100 else reference
            signals = judge(new.first(number), production, PLAN, budget.spend(moment, number))
            if any(signal.outcome == "worse" for signal in signals):
                return weight, served + number
        served += count
        reference.extend(old.first(arrivals - count))
    return None


@dataclass(frozen=True)
class Requests:
    """Requests of one version in the order in which they end."""

    failed: np.ndarray
    first_byte_ms: np.ndarray
    token_ms: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(cls, truth: Truth, count: int, random: np.random.Generator) -> Requests:
        """Draw `count` requests: first byte around 150 ms, 25 ms a token, around 120 tokens, all skewed."""
        tokens = np.maximum(2, random.lognormal(np.log(120 * truth.longer), 0.7, count).round())
        return cls(
            failed=random.random(count) < truth.errors,
            first_byte_ms=random.lognormal(np.log(150), 0.5, count) * truth.slower,
            token_ms=random.lognormal(np.log(25), 0.2, count) * truth.slower,
            tokens=np.where(random.random(count) < truth.empty, 0, tokens),
        )

    def first(self, count: int) -> Sample:
        """Sample of the first `count` requests, as the gateway's log reports them."""
        whole = ~self.failed[:count]
        first, pace, tokens = (values[:count][whole] for values in (self.first_byte_ms, self.token_ms, self.tokens))
        return Sample(
            requests=count,
            failed=int(self.failed[:count].sum()),
            first_byte_ms=list(first),
            token_ms=list(pace[tokens > 1]),
            total_ms=list(first + pace * np.maximum(tokens - 1, 0)),
            tokens=list(tokens),
        )


if __name__ == "__main__":
    main()
