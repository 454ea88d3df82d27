"""The cost report: assumptions, every option, the hosted alternative, and warnings in words."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, Field

from tasks.cost.prices import HOURS_PER_MONTH, STALE_AFTER_DAYS, PriceList
from tasks.cost.throughput import (
    BAND_HIGH,
    BAND_LOW,
    MATH_EFFICIENCY,
    MEMORY_EFFICIENCY,
    TENSOR_PARALLEL_EFFICIENCY,
    Traffic,
)

DAYS_PER_MONTH = 30
CLASSES = ((14, "8B"), (45, "32B"), (100, "70B"), (200, "120B"), (math.inf, "400B"))
"""Upper bounds in billions of parameters, and the name that hosts use for the class."""


def class_of(billions: float) -> str:
    """Find the size class of a model by its billions of parameters."""
    return next(name for limit, name in CLASSES if billions <= limit)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModelSize(_Part):
    """The size of a model: decides its speed and the hosted models it is compared with."""

    name: str
    parameters: int = Field(gt=0)
    active_parameters: int = Field(gt=0)

    @property
    def size_class(self) -> str:
        """`8B`, `32B`, `70B`, `120B` or `400B`, by total parameters."""
        return class_of(self.parameters / 1e9)


class Assumptions(_Part):
    """Assumptions on traffic and staffing; each can be changed on the command line."""

    traffic: Traffic = Traffic()
    peak_to_mean: float = Field(4, ge=1, description="busiest minutes against the mean of the day")
    staff_hours_per_month: float = Field(10, ge=0)
    staff_eur_per_hour: float = Field(80, ge=0)
    sovereign_only: bool = False
    api: str | None = Field(None, description="id of the hosted price to compare with")

    @property
    def staffing_monthly_eur(self) -> float:
        """Monthly staffing, independent of the number of GPUs."""
        return self.staff_hours_per_month * self.staff_eur_per_hour


class CostOption(_Part):
    """One way to serve the model on GPUs at one price."""

    price_id: str
    provider: str
    sovereign: bool
    commitment: str
    region: str
    price_date: datetime.date
    stale: bool
    gpu: str
    scheme: str
    tp: int
    pp: int
    verdict: str
    copies: int
    """Needed in the busiest minutes."""
    copies_at_best: int
    copies_at_worst: int
    """The same at the ends of the throughput's error band."""
    servers: int
    gpus: int
    """Rented or owned, without spares."""
    server_monthly_eur: float
    server_tokens_per_day: float
    """Daily volume that one server can carry through its busiest minutes."""
    tokens_per_second_per_copy: float
    tokens_per_second_low: float
    tokens_per_second_high: float
    seconds_per_output_token: float
    utilization: float
    """Mean load divided by the copies' throughput."""
    monthly_eur: float
    eur_per_million_tokens: float
    ha_monthly_eur: float
    """Every server twice, without staffing."""
    staffing_monthly_eur: float
    all_in_monthly_eur: float
    """Every server twice, with staffing."""
    setup_eur: float
    """Paid once, for the servers without spares."""
    break_even_tokens_per_day: float | None
    """With high availability, against the hosted alternative; None if it never breaks even."""
    single_break_even_tokens_per_day: float | None
    """The same without spare servers."""
    all_in_break_even_tokens_per_day: float | None
    """The same with spare servers and staffing."""

    @property
    def label(self) -> str:
        """Name for tables and plots."""
        return f"{self.provider} {self.gpu}, {self.scheme}"


class HostedCost(_Part):
    """The same volume through a hosted API."""

    price_id: str
    provider: str
    model: str
    sovereign: bool
    reference: bool
    price_date: datetime.date
    stale: bool
    eur_per_million_tokens: float
    monthly_eur: float
    break_even_tokens_per_day: float | None
    """Above it the cheapest own option, with high availability, undercuts the API."""


class CostReport(_Part):
    """The comparison with its assumptions."""

    model: str
    parameters: int
    active_parameters: int
    model_class: str
    tokens_per_day: float
    options: tuple[CostOption, ...]
    """Cheapest first."""
    hosted: HostedCost | None
    """The API that break-evens are computed against."""
    hosted_others: tuple[HostedCost, ...]
    """Of the same class, cheapest first."""
    break_even_tokens_per_day: float | None
    break_even_at_best_tokens_per_day: float | None
    break_even_at_worst_tokens_per_day: float | None
    """The same at the ends of the throughput's error band."""
    break_even_option: str | None
    """The option that reaches `break_even_tokens_per_day`."""
    single_break_even_tokens_per_day: float | None
    all_in_break_even_tokens_per_day: float | None
    unpriced_gpus: tuple[str, ...]
    """GPUs that would do, and for which no price is known."""
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]


def assumptions_in_words(known: Assumptions, prices: PriceList) -> tuple[str, ...]:
    """Describe the assumptions, one sentence each."""
    traffic, exchange = known.traffic, prices.exchange
    return (
        f"Of all tokens {traffic.input_share:.0%} are prompts; the mean request has {traffic.request_tokens:,} tokens; "
        f"an engine runs at most {traffic.max_num_seqs} requests at once, and only as many as still get "
        f"{traffic.stream_tokens_per_second:g} tokens a second each.",
        f"The busiest minutes have {known.peak_to_mean:g} times the day's mean load, and copies are counted for them.",
        f"Throughput is a roofline at {MEMORY_EFFICIENCY:.0%} of the GPU's bandwidth and {MATH_EFFICIENCY:.0%} of its "
        f"dense arithmetic (ten public measurements of vLLM 0.30 on an H100, September 2026), times "
        f"{TENSOR_PARALLEL_EFFICIENCY} for each doubling of the GPUs of a copy (assumed); the truth may lie between "
        f"{BAND_LOW:g} and {BAND_HIGH:g} times the estimate.",
        f"A month has {HOURS_PER_MONTH} hours of rent, never switched off, and {DAYS_PER_MONTH} days of tokens.",
        "High availability means every server twice; break-evens are drawn with it unless they say otherwise.",
        f"Staffing: {known.staff_hours_per_month:g} hours a month at €{known.staff_eur_per_hour:g} (assumed), whatever "
        f"the number of servers.",
        f"Prices are net of VAT; one euro is {exchange.usd_per_eur} US dollars ({exchange.date}: {exchange.source}).",
        "Not counted: storage, traffic out of the cloud, setup fees (shown apart), idle test systems, discounts.",
    )


def warnings_in_words(
    model: ModelSize,
    options: Sequence[CostOption],
    primary: HostedCost | None,
    hosted: Sequence[HostedCost],
    unpriced: Iterable[str],
    unknown_speed: Iterable[str],
) -> tuple[str, ...]:
    """List warnings to read before relying on the figures."""
    warnings = []
    priced: list[CostOption | HostedCost] = [*options, *hosted]
    old = sorted({price.price_id for price in priced if price.stale})
    if old:
        warnings.append(f"Stale prices, older than {STALE_AFTER_DAYS} days: {', '.join(old)}.")
    if names := sorted(unpriced):
        warnings.append(f"No price known: {', '.join(names)}.")
    if names := sorted(unknown_speed):
        warnings.append(f"Left out, because their speed is not known: {', '.join(names)}.")
    if not options:
        warnings.append("No option that fits has a price.")
    if primary is None:
        warnings.append(f"No hosted price is known for the {model.size_class} class; there is no break-even.")
    elif primary.reference and options:
        cheaper = [other for other in hosted if other.eur_per_million_tokens < primary.eur_per_million_tokens]
        if cheaper:
            least = min(cheaper, key=lambda other: other.eur_per_million_tokens)
            at = least.break_even_tokens_per_day
            meets = (
                f"break even at {at / 1e6:,.1f} million tokens a day" if at else "never break even on these assumptions"
            )
            warnings.append(
                f"The break-even is against a reference of €{primary.eur_per_million_tokens:.2f} a million tokens. "
                f"{least.provider} hosts {least.model} for €{least.eur_per_million_tokens:.2f}; against that, own "
                f"servers {meets}."
            )
    return tuple(warnings)
