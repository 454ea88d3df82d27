"""Decide whether an engine is further from its reference than sound engines are, over all kinds of prompt together.

The null hypothesis for each kind of prompt and gauge: the distances are independent, never negative, and their tail is
no heavier than an exponential's of mean `allowed` (in the sense of moment generating functions: E exp(tD) <=
1 / (1 - t × allowed)). Then the mean of n of them exceeds r × allowed with a probability of at most
exp(-n (r - 1 - ln r)) for r > 1 (Chernoff's bound of the gamma distribution: Boucheron, Lugosi and Massart,
Concentration Inequalities, 2013, section 2.2). The same bound, solved for the mean, is the lower confidence bound that
is shown. A single prompt that is far off counts as much as it should, unlike in a t interval of so few and so skewed
numbers. A fault in long prompts only is not averaged away: each kind is tested by itself, and Holm's step-down
procedure (Scandinavian Journal of Statistics 6, 1979, 65-70) bounds the error of all tests together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log

from tasks.serve.parity.measure import Gauge, Measured
from tasks.serve.parity.probes import Kind

ERROR = 1e-3
"""Probability of refusing a sound engine at one start, all kinds together."""
DEFAULT_NATS: Mapping[Gauge, float] = {"choice": 0.05, "top": 0.2, "read": 0.2}
"""Allowed noise scale where production's is unknown, and the largest ever: noise may not grow from one promotion to the
next. Above the noise scale of every sound engine that was measured (docs/evidence/parity.md)."""
LEAST_SHARE = 0.2
"""Share of the default that is allowed even if production has no noise: another artifact has other near-ties."""
SLACK = 2.0
"""Factor on production's noise: a few dozen prompts on another artifact measure it no better."""
BISECTIONS = 50
MOMENTS = tuple(number / 20 for number in range(1, 20))
"""Points at which the moment generating function is compared with the exponential's, as parts of 1 / scale."""


@dataclass(frozen=True, slots=True)
class Group:
    """The distances of one kind of prompt by one gauge."""

    kind: Kind
    gauge: Gauge
    prompts: int
    mean_nats: float
    low_nats: float
    """Lower confidence bound of this mean alone, at the error of the whole family."""
    allowed_nats: float
    log_chance: float
    """Logarithm of the largest probability of such a mean if the engine is sound."""
    diverges: bool = False

    @property
    def name(self) -> str:
        """The group's name in messages."""
        return f"{self.kind}/{self.gauge}"


def judge(
    measured: Sequence[Measured], allowed: Mapping[Gauge, float] = DEFAULT_NATS, error: float = ERROR
) -> list[Group]:
    """Judge every kind of prompt; the engine diverges if any of them does.

    Args:
        measured: all distances of one engine.
        allowed: noise scale of a sound engine, nats.
        error: largest probability that a sound engine is refused.

    Returns:
        The groups, the most suspicious first.
    """
    names = dict.fromkeys((row.kind, row.gauge) for row in measured)
    groups = []
    for kind, gauge in names:
        nats = [row.nats for row in measured if (row.kind, row.gauge) == (kind, gauge)]
        groups.append(
            Group(
                kind,
                gauge,
                len(nats),
                sum(nats) / len(nats),
                lower_bound(nats, error),
                allowed[gauge],
                log_chance(nats, allowed[gauge]),
            )
        )
    groups.sort(key=lambda group: group.log_chance)
    judged, rejected = [], True
    for number, group in enumerate(groups):
        rejected = rejected and group.log_chance <= log(error / (len(groups) - number))
        judged.append(replace(group, diverges=rejected))
    return judged


def log_chance(nats: Sequence[float], allowed: float) -> float:
    """Logarithm of the largest probability of so large a mean if the noise scale is `allowed` (Chernoff)."""
    ratio = sum(nats) / len(nats) / allowed
    return 0.0 if ratio <= 1 else -len(nats) * (ratio - 1 - log(ratio))


def lower_bound(nats: Sequence[float], error: float) -> float:
    """Lower confidence bound of the noise scale, nats: the smallest scale that the distances do not contradict."""
    # ratio - 1 - ln ratio rises from 0 at 1; the bound is the mean over the ratio where it reaches the error.
    needed, low, high = -log(error) / len(nats), 1.0, 2.0
    while high - 1 - log(high) < needed:
        high *= 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if middle - 1 - log(middle) < needed else (low, middle)
    return sum(nats) / len(nats) / high


def noise_scale(nats: Sequence[float]) -> float:
    """The smallest scale for which an exponential's tail is as heavy as that of these distances; 0 for all zeros."""
    low, high = 0.0, max(nats, default=0.0)
    for _ in range(BISECTIONS if high else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if _fits(nats, middle) else (middle, high)
    return high


def _fits(nats: Sequence[float], scale: float) -> bool:
    if not scale:
        # Half of the smallest positive number is 0.
        return False
    # exp overflows beyond 700; such a scale never fits.
    moments = [sum(exp(min(part * distance / scale, 700.0)) for distance in nats) / len(nats) for part in MOMENTS]
    return all(moment <= 1 / (1 - part) for part, moment in zip(MOMENTS, moments))


def allowed_beside(production: Sequence[Measured]) -> dict[Gauge, float]:
    """Allowed noise scale of an engine whose kind serves in production, from the distances measured there."""
    allowed = dict(DEFAULT_NATS)
    for gauge, default in DEFAULT_NATS.items():
        nats = [row.nats for row in production if row.gauge == gauge]
        if nats:
            allowed[gauge] = min(default, max(LEAST_SHARE * default, SLACK * noise_scale(nats)))
    return allowed
