"""How often a rollout stops a good version, and how soon it stops a bad one: whole rollouts, simulated.

Run `python -m benchmarks.rollout_judge good --rollouts 5000` and `python -m benchmarks.rollout_judge bad`. Each rollout
goes through the default line's steps with the product's own `StepDecision`: early, due, overdue and late results, quiet
steps, and the control share of the last step. `good` is a version that is exactly production, in each cell of errors of
both × requests a second × stickiness × kind of prompts. `bad` are versions with one fault.

Clients are 40, a few with most of the requests. Times are log-normal. The kinds of prompts: `alike`; `two kinds`, one
request in five with a prompt 20 times as long, which takes longer; `by client`, where each client has its own length of
prompts and answers and its own share of errors, some none and some a third of their requests. Not simulated: bursts,
and a speed that depends on the load.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import Pool
from typing import Any

import numpy as np

from tasks.serve.rollout.canary_step import next_weight
from tasks.serve.rollout.decision import Observed, StepDecision
from tasks.serve.rollout.intervals import Array
from tasks.serve.rollout.sample import COLUMNS, Outcome, Sample
from tasks.serve.rollout.window import ALONE_SHARE, HISTORY_SECONDS
from weighbridge.line import Rollout

PLAN = Rollout()
CLIENTS = 40
USUAL_ERRORS = 0.002
PATIENCE_MS = 30_000.0
HISTORY_REQUESTS = 3000
"""Most requests of the time before a rollout; the product reads more."""

ERRORS, RATES, MIXES = (0.0, 0.01, 0.02, 0.05, 0.1), (1, 10, 100), ("alike", "two kinds", "by client")


@dataclass(frozen=True)
class Truth:
    """True properties of a version."""

    name: str = "production"
    errors: float = USUAL_ERRORS
    slower: float = 1.0
    longer: float = 1.0
    empty: float = 0.0
    stalls: float = 0.0


BAD = (
    Truth("5 % errors", errors=0.05),
    Truth("20 % errors", errors=0.2),
    Truth("every stream breaks", errors=1.0),
    Truth("5 % of the streams stall", stalls=0.05),
    Truth("every stream stalls", stalls=1.0),
    Truth("twice as slow", slower=2.0),
    Truth("answers 30 % shorter", longer=0.7),
    Truth("answers three times as long", longer=3.0),
    Truth("5 % empty answers", empty=0.05),
)


@dataclass
class Traffic:
    """The requests of one rollout's clients."""

    per_second: float
    mix: str
    sticky: bool
    random: np.random.Generator
    activity: Array = field(init=False)
    place: Array = field(init=False)
    prompts: Array = field(init=False)
    lengths: Array = field(init=False)
    mistakes: Array = field(init=False)

    def __post_init__(self) -> None:
        activity = 1 / np.arange(1, CLIENTS + 1)
        self.activity = np.cumsum(activity / activity.sum())
        self.place = self.random.random(CLIENTS)
        own = self.mix == "by client"
        self.prompts = self.random.lognormal(np.log(500), 1.0 if own else 0.0, CLIENTS)
        self.lengths = self.random.lognormal(0, 0.6 if own else 0.0, CLIENTS)
        mistakes = self.random.gamma(0.3, 1 / 0.3, CLIENTS) if own else np.ones(CLIENTS)
        shares = np.diff(self.activity, prepend=0)
        self.mistakes = mistakes / (mistakes * shares).sum() if mistakes.sum() else mistakes

    def between(self, begin: float, end: float, share: float, truth: Truth, old: Truth) -> tuple[Sample, Sample]:
        """Draw both versions' requests of a stretch of time, in the order of arrival.

        Args:
            begin, end: seconds since the rollout began.
            share: of the requests that the new version gets.
            truth, old: the two versions.
        """
        count = int(self.random.poisson(self.per_second * (end - begin)))
        at = np.sort(self.random.uniform(begin, end, count))
        client = np.searchsorted(self.activity, self.random.random(count)).clip(0, CLIENTS - 1)
        to_new = (self.place[client] if self.sticky else self.random.random(count)) < share
        return self._draw(at[to_new], client[to_new], truth), self._draw(at[~to_new], client[~to_new], old)

    def _draw(self, at: Array, client: Array, truth: Truth) -> Sample:
        random, count = self.random, at.size
        prompt = self.prompts[client] * random.lognormal(0, 0.3, count)
        if self.mix == "two kinds":
            prompt = prompt * np.where(random.random(count) < 0.2, 20, 1)
        tokens = np.maximum(
            2, (random.lognormal(np.log(120 * truth.longer), 0.7, count) * self.lengths[client]).round()
        )
        first = random.lognormal(np.log(150 * truth.slower), 0.5, count) * np.sqrt(prompt / 500)
        pace = random.lognormal(np.log(25 * truth.slower), 0.2, count)
        failed = random.random(count) < np.minimum(truth.errors * self.mistakes[client], 1)
        stalls = random.random(count) < truth.stalls
        tokens = np.where(random.random(count) < truth.empty, 0, tokens)
        outcome = np.where(failed, Outcome.FAILED, np.where(stalls, Outcome.LEFT_WAITING, Outcome.ANSWERED))
        gone = outcome != Outcome.ANSWERED

        def whole(values: Array) -> Array:
            return np.where(gone, np.nan, values)

        return Sample(
            at=at,  # type: ignore[arg-type]
            key=client,  # type: ignore[arg-type]
            conversation=np.zeros(count, int),  # type: ignore[arg-type]
            prompt=prompt,  # type: ignore[arg-type]
            outcome=outcome,  # type: ignore[arg-type]
            waited_ms=np.where(outcome == Outcome.LEFT_WAITING, PATIENCE_MS, np.nan),  # type: ignore[arg-type]
            first_ms=whole(first),  # type: ignore[arg-type]
            token_times_ms=whole(np.where(tokens > 1, pace, np.nan)),  # type: ignore[arg-type]
            durations_ms=whole(first + pace * np.maximum(tokens - 1, 0)),  # type: ignore[arg-type]
            token_counts=whole(tokens),  # type: ignore[arg-type]
            byte_counts=whole(tokens * 200),  # type: ignore[arg-type]
        )


def first_of(sample: Sample, count: int) -> Sample:
    return Sample(**{name: getattr(sample, name)[:count] for name in COLUMNS})


def together(*samples: Sample) -> Sample:
    joined: dict[str, Any] = {name: np.concatenate([getattr(sample, name) for sample in samples]) for name in COLUMNS}
    return Sample(**joined)


@dataclass(frozen=True)
class End:
    """How a rollout ended."""

    verb: str
    weight: int
    requests: int
    seconds: float
    why: str = ""


def roll_out(truth: Truth, old: Truth, traffic: Traffic, plan: Rollout = PLAN) -> End:
    """Simulate one rollout."""
    _, history = traffic.between(-min(HISTORY_SECONDS, HISTORY_REQUESTS / traffic.per_second), 0, 0.0, truth, old)
    before, full_load, begin, served = history, history, 0.0, 0
    for weight in plan.steps:
        step = StepDecision(plan, plan.hold_seconds, next_weight(plan, weight))
        share = (weight - (plan.control_per_cent if weight == 100 else 0)) / 100
        for observed, new, production in _moments(traffic, begin, share, truth, old, plan, step):
            reference = production
            if weight == 100:
                reference = full_load
            elif traffic.sticky:
                reference = together(before, production)
            decision = step.decide(
                Observed(
                    seconds=observed,
                    candidate=new,
                    production=reference,
                    control=production if weight == 100 else Sample(),
                    begun=new.requests,
                    quiet=not new.requests and not production.requests,
                )
            )
            if decision.verb != "wait":
                break
        served, begin = served + new.requests, begin + observed
        if decision.verb != "go_on":
            return End(decision.verb, weight, served, begin, decision.why)
        before = together(before, production)
        if weight <= 100 * (1 - ALONE_SHARE):
            full_load = together(full_load, production)
    return End("go_on", 100, served, begin)


def _moments(
    traffic: Traffic, begin: float, share: float, truth: Truth, old: Truth, plan: Rollout, step: StepDecision
) -> Iterator[tuple[float, Sample, Sample]]:
    """Each moment of a step at which something may be decided: its time, and both versions' requests so far."""
    longest = plan.max_hold_seconds * plan.max_unsure_factor
    times = (plan.hold_seconds, plan.max_hold_seconds, longest)
    new, production = traffic.between(begin, begin, share, truth, old)
    now = 0.0
    for upto in times:
        drawn = traffic.between(begin + now, begin + upto, share, truth, old)
        new, production = together(new, drawn[0]), together(production, drawn[1])
        while True:
            needed = step.next_requests(overdue=now >= plan.max_hold_seconds)
            reached = float(new.at[needed - 1]) - begin if new.requests >= needed else upto
            now = min(max(reached, now), upto)
            counts = (int(np.searchsorted(sample.at, begin + now, "right")) for sample in (new, production))
            yield now, first_of(new, next(counts)), first_of(production, next(counts))
            if now >= upto:
                break


@dataclass(frozen=True)
class Cell:
    """One row: both versions, and their clients."""

    truth: Truth
    old: Truth
    per_second: float
    mix: str
    sticky: bool
    seed: int

    def end(self, number: int) -> End:
        """Simulate the rollout of a number."""
        plan = PLAN.model_copy(update={"sticky_by": "key" if self.sticky else "none"})
        random = np.random.default_rng([self.seed, number])
        return roll_out(self.truth, self.old, Traffic(self.per_second, self.mix, self.sticky, random), plan)

    def ends(self, rollouts: int, jobs: int = 1) -> list[End]:
        """Simulate so many rollouts, in so many processes."""
        if jobs == 1:
            return [self.end(number) for number in range(rollouts)]
        with Pool(jobs) as pool:
            return pool.map(self.end, range(rollouts), chunksize=max(1, rollouts // (8 * jobs)))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["good", "bad"])
    parser.add_argument("--rollouts", type=int, default=200, help="of each row")
    parser.add_argument("--seed", type=int, default=20261201)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="requests a second")
    parser.add_argument("--errors", type=float, nargs="+", default=ERRORS, help="of both, for good versions")
    parser.add_argument("--only", nargs="+", help="names of bad versions")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--mixes", nargs="+", default=MIXES)
    options = parser.parse_args()
    print(f"{options.rollouts} rollouts a row, seed {options.seed}\n", flush=True)
    print("| version | requests a second | sticky | prompts | stopped | asked | at | requests by then | minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    total, began = Counter[str](), time.monotonic()
    if options.what == "good":
        truths = [Truth(f"{share:.0%} errors of both", errors=share) for share in options.errors]
        pairs = [(truth, truth) for truth in truths]
    else:
        pairs = [(truth, Truth()) for truth in BAD if not options.only or truth.name in options.only]
    for per_second in options.rates:
        for truth, old in pairs:
            for sticky in (False, True):
                for mix in options.mixes:
                    cell = Cell(truth, old, per_second, mix, sticky, options.seed)
                    ends = cell.ends(options.rollouts, options.jobs)
                    total.update(end.verb for end in ends)
                    _print_row(truth, per_second, sticky, mix, ends)
    print(f"\n{sum(total.values())} rollouts: {dict(total)}; {time.monotonic() - began:.0f} s")


def _print_row(truth: Truth, per_second: float, sticky: bool, mix: str, ends: list[End]) -> None:
    stopped, asked = ([end for end in ends if end.verb == verb] for verb in ("stop", "ask"))
    at = " / ".join(str(sum(end.weight == step for end in stopped)) for step in PLAN.steps) if stopped else "–"
    requests = f"{np.median([end.requests for end in stopped]):.0f}" if stopped else "–"
    minutes = np.median([end.seconds for end in ends]) / 60
    shares = f"{len(stopped) / len(ends):.2%} | {len(asked) / len(ends):.2%}"
    print(
        f"| {truth.name} | {per_second:g} | {'key' if sticky else 'no'} | {mix} | {shares} | {at} | {requests} "
        f"| {minutes:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
