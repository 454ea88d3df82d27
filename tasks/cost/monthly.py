"""Monthly cost of serving a model on your own GPUs, against a hosted API at the same volume.

    report = cost(rows, model, 20e6, load_prices())
    report.options[0].monthly_eur          # cheapest, without spare servers
    report.break_even_tokens_per_day       # above it the cheapest option *with* spare servers undercuts the API

The break-even includes high availability, because a hosted API has it too; the figures without it and with staffing
are reported beside it. `docs/how-to/cost.md` lists what is not counted.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from tasks.cost.prices import Hosted, Owned, PriceList, Rental
from tasks.cost.report import (
    DAYS_PER_MONTH,
    Assumptions,
    CostOption,
    CostReport,
    HostedCost,
    ModelSize,
    assumptions_in_words,
    class_of,
    warnings_in_words,
)
from tasks.cost.throughput import BAND_HIGH, BAND_LOW, GpuSpeed, Throughput, throughput
from tasks.fit.hardware.gpus import gpu
from weighbridge.errors import OptionInvalid, PricesInvalid

if TYPE_CHECKING:
    from tasks.fit.rows import FitRow

__all__ = ["Assumptions", "CostOption", "CostReport", "HostedCost", "ModelSize", "break_even", "cost"]

SECONDS_PER_DAY = 86_400
HA_FACTOR = 2
"""Every server twice. An upper bound from three servers on, where one spare would do."""


def break_even(
    server_eur: float, server_tokens_per_day: float, fixed_eur: float, api_eur_per_million: float
) -> float | None:
    """Find the smallest volume, tokens a day, at which own servers cost no more than an API, or None.

    Own cost is a staircase: n servers carry up to n x `server_tokens_per_day` and cost n x `server_eur` + `fixed_eur`
    a month. The API's is a straight line. They first meet on the step n = ceil(fixed / (API's price of a full
    server - server's price)), at (n x server + fixed) / (API's price of one token a day).

    Args:
        server_eur: monthly cost of one server (of two, with high availability).
        server_tokens_per_day: its capacity.
        fixed_eur: monthly cost that does not grow with volume.
        api_eur_per_million: price of a million tokens.
    """
    eur_per_daily_token = api_eur_per_million * DAYS_PER_MONTH / 1e6
    gain_of_full_server = eur_per_daily_token * server_tokens_per_day - server_eur
    if gain_of_full_server <= 0:
        return None
    servers = max(1, math.ceil(fixed_eur / gain_of_full_server))
    return (servers * server_eur + fixed_eur) / eur_per_daily_token


def cost(
    rows: Iterable[FitRow],
    model: ModelSize,
    tokens_per_day: float,
    prices: PriceList,
    assumptions: Assumptions | None = None,
    today: datetime.date | None = None,
    gpu_of: Callable[[str], GpuSpeed] = gpu,
) -> CostReport:
    """Price every way to serve a model that fits, against a hosted API.

    Args:
        rows: from the planner; those that do not fit are left out.
        model: its size.
        tokens_per_day: prompts and answers together.
        prices: from `load_prices`.
        assumptions: of traffic and staffing.
        today: date against which prices are stale.
        gpu_of: looks up a GPU.

    Raises:
        OptionInvalid: the volume is not positive.
        PricesInvalid: `assumptions.api` names no hosted price.
    """
    if not 0 < tokens_per_day < math.inf:
        raise OptionInvalid(f"A volume of {tokens_per_day:g} tokens a day has no cost.", "Name a positive number.")
    known, today = assumptions or Assumptions(), today or datetime.date.today()
    every, first = _hosted(model, prices, known)
    api_eur = first.blended_eur_per_million(known.traffic.input_share, prices.exchange) if first else None
    options, unpriced, unknown_speed = [], set(), set()
    for row in rows:
        offers = prices.servers_with(row.gpu)
        if row.verdict == "no" or not offers:
            unpriced |= {row.gpu} if row.verdict != "no" else set()
            continue
        speed = throughput(row, gpu_of(row.gpu), model.parameters, model.active_parameters, known.traffic)
        if speed is None:
            unknown_speed.add(row.gpu)
            continue
        priced = (
            _option(row, offer, speed, tokens_per_day, prices, known, today, api_eur)
            for offer in offers
            if offer.sovereign or not known.sovereign_only
        )
        options += [option for option in priced if option]
    options.sort(key=lambda option: (option.monthly_eur, -option.tokens_per_second_per_copy, option.price_id))
    hosted = [_hosted_cost(offer, options, tokens_per_day, prices, known, today) for offer in every]
    primary = next((price for price in hosted if first and price.price_id == first.id), None)
    best = _least(options, lambda option: option.break_even_tokens_per_day)
    single = _least(options, lambda option: option.single_break_even_tokens_per_day)
    all_in = _least(options, lambda option: option.all_in_break_even_tokens_per_day)
    return CostReport(
        model=model.name,
        parameters=model.parameters,
        active_parameters=model.active_parameters,
        model_class=model.size_class,
        tokens_per_day=tokens_per_day,
        options=tuple(options),
        hosted=primary,
        hosted_others=tuple(price for price in hosted if price is not primary),
        break_even_tokens_per_day=best.break_even_tokens_per_day if best else None,
        break_even_at_best_tokens_per_day=_first_meeting(options, api_eur, BAND_HIGH) if api_eur else None,
        break_even_at_worst_tokens_per_day=_first_meeting(options, api_eur, BAND_LOW) if api_eur else None,
        break_even_option=best.label if best else None,
        single_break_even_tokens_per_day=single.single_break_even_tokens_per_day if single else None,
        all_in_break_even_tokens_per_day=all_in.all_in_break_even_tokens_per_day if all_in else None,
        unpriced_gpus=tuple(sorted(unpriced)),
        assumptions=assumptions_in_words(known, prices),
        warnings=warnings_in_words(model, options, primary, hosted, unpriced, unknown_speed),
    )


def _option(
    row: FitRow,
    offer: Rental | Owned,
    speed: Throughput,
    tokens_per_day: float,
    prices: PriceList,
    known: Assumptions,
    today: datetime.date,
    api_eur: float | None,
) -> CostOption | None:
    """Price one row by one offer; None if no server of the offer has enough GPUs for a copy."""
    size = min((gpus for gpus in offer.sizes if gpus >= row.count), default=None)
    if size is None:
        return None
    peak = tokens_per_day / SECONDS_PER_DAY * known.peak_to_mean
    copies = math.ceil(peak / speed.tokens_per_second)
    per_server = size // row.count
    servers = math.ceil(copies / per_server)
    server_eur = offer.server_monthly_eur(size, prices.exchange)
    per_copy = speed.tokens_per_second * SECONDS_PER_DAY / known.peak_to_mean
    monthly, staffing = servers * server_eur, known.staffing_monthly_eur

    def meets(factor: int, fixed_eur: float) -> float | None:
        return break_even(factor * server_eur, per_server * per_copy, fixed_eur, api_eur) if api_eur else None

    return CostOption(
        price_id=offer.id,
        provider=offer.provider,
        sovereign=offer.sovereign,
        commitment=offer.commitment,
        region=offer.region,
        price_date=offer.date,
        stale=offer.stale(today),
        gpu=row.gpu,
        scheme=row.scheme,
        tp=row.tp,
        pp=row.pp,
        verdict=row.verdict,
        copies=copies,
        copies_at_best=math.ceil(peak / speed.tokens_per_second_high),
        copies_at_worst=math.ceil(peak / speed.tokens_per_second_low),
        servers=servers,
        gpus=servers * size,
        server_monthly_eur=round(server_eur, 2),
        server_tokens_per_day=round(per_server * per_copy),
        tokens_per_second_per_copy=round(speed.tokens_per_second, 1),
        tokens_per_second_low=round(speed.tokens_per_second_low, 1),
        tokens_per_second_high=round(speed.tokens_per_second_high, 1),
        seconds_per_output_token=round(speed.seconds_per_output_token, 4),
        utilization=round(tokens_per_day / SECONDS_PER_DAY / (copies * speed.tokens_per_second), 4),
        monthly_eur=round(monthly, 2),
        eur_per_million_tokens=round(monthly / (tokens_per_day * DAYS_PER_MONTH / 1e6), 4),
        ha_monthly_eur=round(HA_FACTOR * monthly, 2),
        staffing_monthly_eur=round(staffing, 2),
        all_in_monthly_eur=round(HA_FACTOR * monthly + staffing, 2),
        setup_eur=round(servers * offer.server_setup_eur(prices.exchange), 2),
        break_even_tokens_per_day=meets(HA_FACTOR, 0),
        single_break_even_tokens_per_day=meets(1, 0),
        all_in_break_even_tokens_per_day=meets(HA_FACTOR, staffing),
    )


def _least(options: Sequence[CostOption], at: Callable[[CostOption], float | None]) -> CostOption | None:
    """Find the option that breaks even first, or None."""
    reached = [(volume, index) for index, option in enumerate(options) if (volume := at(option)) is not None]
    return options[min(reached)[1]] if reached else None


def _hosted(model: ModelSize, prices: PriceList, known: Assumptions) -> tuple[list[Hosted], Hosted | None]:
    """List hosted models of the same class, cheapest first, and choose the one to compare with.

    The choice is the requested one, else the class's reference, else the cheapest.
    """

    def blended(hosted: Hosted) -> float:
        return hosted.blended_eur_per_million(known.traffic.input_share, prices.exchange)

    ids = [hosted.id for hosted in prices.hosted]
    if known.api is not None and known.api not in ids:
        raise PricesInvalid(
            f"There is no hosted price called {known.api!r}; known: {', '.join(ids)}.",
            "Name one of these, or add yours to a file and name it with --prices.",
        )
    same = [
        hosted
        for hosted in prices.hosted
        if hosted.id == known.api
        or (
            class_of(hosted.parameters_billion) == model.size_class
            and (hosted.sovereign or hosted.reference or not known.sovereign_only)
        )
    ]
    same.sort(key=lambda hosted: (blended(hosted), hosted.id))
    asked = next((hosted for hosted in same if hosted.id == known.api), None)
    reference = next((hosted for hosted in same if hosted.reference), None)
    return same, asked or reference or (same[0] if same else None)


def _hosted_cost(
    hosted: Hosted,
    options: Sequence[CostOption],
    tokens_per_day: float,
    prices: PriceList,
    known: Assumptions,
    today: datetime.date,
) -> HostedCost:
    """Price one hosted model at the volume, with the break-even of the options against it."""
    eur = hosted.blended_eur_per_million(known.traffic.input_share, prices.exchange)
    return HostedCost(
        price_id=hosted.id,
        provider=hosted.provider,
        model=hosted.model,
        sovereign=hosted.sovereign,
        reference=hosted.reference,
        price_date=hosted.date,
        stale=hosted.stale(today),
        eur_per_million_tokens=round(eur, 4),
        monthly_eur=round(eur * tokens_per_day * DAYS_PER_MONTH / 1e6, 2),
        break_even_tokens_per_day=_first_meeting(options, eur),
    )


def _first_meeting(options: Sequence[CostOption], api_eur_per_million: float, factor: float = 1) -> float | None:
    """Find the smallest break-even of any option with high availability, at `factor` times the estimated throughput."""
    meets = (
        break_even(HA_FACTOR * option.server_monthly_eur, factor * option.server_tokens_per_day, 0, api_eur_per_million)
        for option in options
    )
    return min((volume for volume in meets if volume is not None), default=None)
