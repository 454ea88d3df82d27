"""`cost`: what serving a model costs a month, against a hosted API; nothing here needs the stack."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.columns import below, number
from cli.output import JsonOption, say, say_wrapped, show_json, table
from cli.shapes import read_shape
from weighbridge.terminal import styled

if TYPE_CHECKING:
    from cli.tables import Table
    from tasks.cost.report import CostOption, CostReport, HostedCost
    from tasks.fit.model.shape import ModelShape
    from tasks.fit.rows import FitRow

ROWS_SHOWN = 12
DEFAULT_MAX_NUM_SEQS = 256
"""vLLM's default."""
SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}
QUANTITY = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<suffix>[kmb]?)", re.IGNORECASE)


def quantity(text: str, option: str) -> float:
    """Parse a number with an optional suffix: k thousand, M million, B billion.

    Raises:
        OptionInvalid: the text is no number, or zero.
    """
    from weighbridge.errors import OptionInvalid

    match = QUANTITY.fullmatch(text.strip().replace(",", "").replace("_", ""))
    value = float(match["number"]) * SUFFIXES[match["suffix"].lower()] if match else 0
    if not value:
        raise OptionInvalid(
            f"{option} is {text!r}, which is not a positive number.",
            "Write a number, with k, M or B for thousands, millions or billions: 20M.",
            where=option,
        )
    return value


def cost(
    target: Annotated[
        str | None, typer.Argument(help="hf://org/model, file:///folder, s3://bucket/prefix, or a folder.")
    ] = None,
    tokens_per_day: Annotated[str, typer.Option(help="Prompts and answers together: 20M, 500k, 1.5B.")] = "20M",
    line: Annotated[str | None, typer.Option(help="A line instead of a model: its source, schemes and load.")] = None,
    input_share: Annotated[float, typer.Option(min=0, max=0.99, help="Prompts' share of all tokens.")] = 0.75,
    request_tokens: Annotated[int, typer.Option(min=2, help="Prompt and answer of the mean request.")] = 2000,
    stream_speed: Annotated[float, typer.Option(min=0.1, help="Tokens/s that each request must get at least.")] = 10,
    peak_to_mean: Annotated[float, typer.Option(min=1, help="Busiest minutes against the day's mean load.")] = 4,
    staff_hours: Annotated[float, typer.Option(min=0, help="Hours of staff a month.")] = 10,
    staff_rate: Annotated[float, typer.Option(min=0, help="Euros an hour.")] = 80,
    prices: Annotated[Path | None, typer.Option(help="Your own prices, over the built-in ones.")] = None,
    api: Annotated[str | None, typer.Option(help="Id of the hosted price to compare with.")] = None,
    sovereign: Annotated[bool, typer.Option("--sovereign", help="Only EU providers without a foreign parent.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the break-even into this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what serving a model costs a month on each GPU that it fits, against a hosted API."""
    from tasks.cost.monthly import Assumptions, ModelSize
    from tasks.cost.monthly import cost as price
    from tasks.cost.prices import load_prices
    from tasks.cost.throughput import Traffic

    volume = quantity(tokens_per_day, "--tokens-per-day")
    known = load_prices(prices)
    shape, rows, at_once = _rows(target, line, request_tokens)
    report = price(
        rows,
        ModelSize(name=shape.name, parameters=shape.parameters, active_parameters=shape.active_parameters),
        volume,
        known,
        Assumptions(
            traffic=Traffic(
                input_share=input_share,
                request_tokens=request_tokens,
                stream_tokens_per_second=stream_speed,
                max_num_seqs=at_once or DEFAULT_MAX_NUM_SEQS,
            ),
            peak_to_mean=peak_to_mean,
            staff_hours_per_month=staff_hours,
            staff_eur_per_hour=staff_rate,
            sovereign_only=sovereign,
            api=api,
        ),
    )
    if plot is not None:
        _draw(report, plot)
    if as_json:
        show_json(report.model_dump(mode="json"))
    else:
        _show(report)


def _rows(
    target: str | None, line: str | None, request_tokens: int
) -> tuple[ModelShape, tuple[FitRow, ...], int | None]:
    """Return the model, its rows of the planner, and the maximum of concurrent requests of the line's engine.

    A line narrows the schemes and sets the engine and its load; all GPUs of the planner are priced.
    """
    from tasks.cost.rows import rows_to_price
    from tasks.fit.request import FitRequest
    from weighbridge.errors import OptionInvalid
    from weighbridge.line import Line
    from weighbridge.settings import load_settings, use_libraries
    from weighbridge.source_urls import FORMS, revised

    if (target is None) == (line is None):
        raise OptionInvalid("A cost needs one model.", f"Name {FORMS}, a folder, or a line with --line.")
    settings = load_settings()
    use_libraries(settings)
    if target is not None:
        shape = read_shape(settings, target)
        return shape, rows_to_price(shape, FitRequest(context=max(FitRequest().context, request_tokens))), None
    configured = Line.load(str(line))
    shape, request = (
        read_shape(settings, revised(configured.source, configured.revision)),
        FitRequest.of_line(configured),
    )
    return shape, rows_to_price(shape, request, configured.schemes), request.max_num_seqs


def _draw(report: CostReport, path: Path) -> None:
    from tasks.cost.plot import draw
    from weighbridge.errors import OptionInvalid

    try:
        draw(report, path)
    except (OSError, ValueError) as error:
        raise OptionInvalid(
            f"{path} cannot be drawn: {error}.", "Name a file that ends in .png, .svg or .pdf.", where="--plot"
        ) from None


def _show(report: CostReport) -> None:
    say(
        f"{styled(report.model, 'bold')} ({report.parameters / 1e9:.1f} billion parameters, {report.model_class} "
        f"class) at {_millions(report.tokens_per_day)} tokens a day"
    )
    groups = _groups(report.options)
    if groups:
        say(_options_table(groups))
    if len(groups) > ROWS_SHOWN:
        say(f"{len(groups) - ROWS_SHOWN} more expensive options are left out; --json has all.")
    if report.hosted:
        say(_hosted_table(report))
    if report.hosted and report.options:
        worst = report.break_even_at_worst_tokens_per_day
        band = f"; at the low end of the throughput's band {_millions(worst) if worst else 'never'}"
        for name, tokens_per_day, by in (
            ("with high availability", report.break_even_tokens_per_day, f" ({report.break_even_option}{band})"),
            ("without spare servers", report.single_break_even_tokens_per_day, ""),
            ("with high availability and staffing", report.all_in_break_even_tokens_per_day, ""),
        ):
            say(
                f"Break-even {name}: "
                f"{styled(_millions(tokens_per_day), 'bold') + f' tokens a day{by}' if tokens_per_day else 'never'}"
            )
    say("\n" + styled("Assumed", "bold"))
    for sentence in report.assumptions:
        say_wrapped(f"- {sentence}")
    for sentence in report.warnings:
        say_wrapped(f"! {sentence}")


def _options_table(groups: list[list[CostOption]]) -> Table:
    rows = table(
        *map(number, ("€/month", "with HA", "staffing", "all in", "€/1M", "copies")),
        below("GPUs"),
        below("scheme"),
        below("tokens/s a copy"),
        number("load (%)"),
        below("price"),
    )
    for first, *others in groups[:ROWS_SHOWN]:
        rows.add_row(
            f"{first.monthly_eur:,.0f}",
            f"{first.ha_monthly_eur:,.0f}",
            f"{first.staffing_monthly_eur:,.0f}",
            f"{first.all_in_monthly_eur:,.0f}",
            f"{first.eur_per_million_tokens:.2f}",
            f"{first.copies} ({first.copies_at_best}–{first.copies_at_worst})",
            f"{first.gpus} × {first.gpu}{f', {per_copy} a copy' if (per_copy := first.tp * first.pp) > 1 else ''}",
            ", ".join(_scheme(option) for option in (first, *others)),
            f"{first.tokens_per_second_per_copy:,.0f} "
            f"({first.tokens_per_second_low:,.0f}–{first.tokens_per_second_high:,.0f})",
            f"{first.utilization:.0%}".removesuffix("%"),
            f"{first.price_id}{'' if first.sovereign else ' (not sovereign)'}{_age(first)}",
        )
    return rows


def _groups(options: tuple[CostOption, ...]) -> list[list[CostOption]]:
    """Group options that differ only in their scheme, the fastest first."""
    groups: dict[tuple[str, int, int], list[CostOption]] = {}
    for option in options:
        groups.setdefault((option.price_id, option.gpus, option.tp * option.pp), []).append(option)
    return list(groups.values())


def _hosted_table(report: CostReport) -> Table:
    rows = table(
        "hosted",
        "model",
        number("€/1M"),
        number("€/month"),
        number("break-even with HA (tokens a day)"),
        below("price"),
    )
    for hosted in (report.hosted, *report.hosted_others):
        if hosted is None:
            continue
        break_even = hosted.break_even_tokens_per_day
        rows.add_row(
            hosted.provider,
            hosted.model,
            f"{hosted.eur_per_million_tokens:.2f}",
            f"{hosted.monthly_eur:,.0f}",
            (_millions(break_even) if break_even else "never") if report.options else "",
            f"{hosted.price_id}{'' if hosted.sovereign or hosted.reference else ' (not sovereign)'}{_age(hosted)}",
        )
    return rows


def _scheme(option: CostOption) -> str:
    return f"{option.scheme} (tight)" if option.verdict == "tight" else option.scheme


def _age(priced: CostOption | HostedCost) -> str:
    return styled(f" {priced.price_date:%Y-%m}, stale", "yellow") if priced.stale else f" {priced.price_date:%Y-%m}"


def _millions(tokens: float) -> str:
    return f"{tokens / 1e6:,.1f} million" if tokens < 1e9 else f"{tokens / 1e9:,.1f} billion"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(cost)
