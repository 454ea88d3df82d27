"""`fit`: which schemes of a model fit on which GPUs, before a download; nothing here needs the stack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import complete
from cli.columns import number, whole
from cli.output import JsonOption, say, say_wrapped, show_json, table
from cli.shapes import read_shape
from weighbridge.terminal import styled

if TYPE_CHECKING:
    from tasks.fit.model.shape import ModelShape
    from tasks.fit.request import FitRequest
    from tasks.fit.rows import FitRow
    from weighbridge.line import Line

LEGEND = (
    "GiB per GPU. KV: cache of the requests. rest: activations, CUDA graphs, context and NCCL. of: what the engine may "
    "take. thumb: the rule of thumb. at once: requests of full context that fit. €/month: the cheapest price known."
)
COLOURS = {"fits": "green", "tight": "yellow", "no": "red"}

Target = Annotated[
    str, typer.Argument(help="hf://org/model[@revision], file:///folder, s3://bucket/prefix, a folder, or a line.")
]
Gpus = Annotated[list[str] | None, typer.Option("--gpu", help="Only this GPU; may be given many times.")]
Schemes = Annotated[
    list[str] | None,
    typer.Option(
        "--scheme",
        help="Only this scheme; may be given many times.",
        autocompletion=complete.schemes,
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        help="An engine, with a version if you like: llama-cpp, vllm@0.19.",
        autocompletion=complete.engines,
    ),
]
Utilization = Annotated[float | None, typer.Option(min=0.05, max=1.0, help="Share of a GPU that the engine may take.")]


def fit(
    target: Target,
    gpus: Gpus = None,
    context: Annotated[int | None, typer.Option(min=16, help="Prompt plus answer, tokens. [default: 4096]")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests at once, each of full context.")] = None,
    schemes: Schemes = None,
    kv_dtype: Annotated[str | None, typer.Option(help="Of the cache: auto, fp8, …")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of unquantized weights: auto (as published), bfloat16, …")] = None,
    tp: Annotated[int | None, typer.Option(min=1, max=64, help="GPUs that share each tensor.")] = None,
    pp: Annotated[int | None, typer.Option(min=1, max=64, help="Stages of the pipeline.")] = None,
    engine: Engine = None,
    utilization: Utilization = None,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="Sequences of one step.")] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of one step.")] = None,
    eager: Annotated[bool, typer.Option("--eager", help="Without CUDA graphs.")] = False,
    gpus_file: Annotated[Path | None, typer.Option(help="Your own GPUs, beside the built-in ones.")] = None,
    prices: Annotated[Path | None, typer.Option(help="Your own prices, over the built-in ones.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the rows that are shown into this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which schemes fit which GPUs, how many requests at once, and what a month costs."""
    from tasks.cost.prices import load_prices
    from tasks.fit.catalogue import catalogue
    from tasks.fit.hardware.gpus import use_gpus

    if gpus_file:
        use_gpus(gpus_file)
    name, _, version = (engine or "").partition("@")
    options = {
        "engine": name or None,
        "version": version or None,
        "context": context,
        "concurrency": concurrency,
        "kv_dtype": kv_dtype,
        "dtype": dtype,
        "utilization": utilization,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "eager": eager or None,
    }
    shape, line, request = _resolve(target, {key: value for key, value in options.items() if value is not None})
    rows = catalogue(
        shape,
        request,
        gpus=gpus or (line.target.gpus if line else ()),
        schemes=schemes or (line.schemes if line else ()),
        tp=tp,
        pp=pp,
    )
    known = load_prices(prices)
    monthly = [known.cheapest_monthly_eur(row.gpu, row.count) for row in rows]
    best = _best(rows)
    if plot:
        _draw([row for row in rows if row in best], plot)
    if as_json:
        show_json(_as_dict(shape, request, rows, monthly))
    else:
        _show(shape, request, [(row, eur) for row, eur in zip(rows, monthly, strict=True) if row in best])
    if line and not any(row.verdict != "no" for row in rows):
        from tasks.fit.report import fit as refuse

        refuse(shape, line)


def _resolve(target: str, options: dict[str, Any]) -> tuple[ModelShape, Line | None, FitRequest]:
    """Return the model, the line if one was named, and the request to the planner."""
    from tasks.engines import engine_names
    from tasks.fit.request import FitRequest
    from weighbridge.errors import FitOptionUnknown, LineUnknown
    from weighbridge.line import Line, line_names
    from weighbridge.settings import load_settings, use_libraries
    from weighbridge.source_urls import FORMS, looks_like_url, revised
    from weighbridge.suggestions import did_you_mean

    name, known = options.get("engine"), engine_names()
    if name is not None and name not in known:
        raise FitOptionUnknown(
            f"There is no engine called {name!r}{did_you_mean(name, known) or '.'}",
            f"Name one of {', '.join(known)}, with a version if you like: vllm@0.19.",
            where="--engine",
        )
    settings = load_settings()
    use_libraries(settings)
    if looks_like_url(target) or Path(target).expanduser().is_dir():
        return read_shape(settings, target), None, FitRequest(**options)
    if target not in line_names():
        raise LineUnknown(
            f"{target!r} is neither a folder nor a line; lines: {', '.join(line_names())}.",
            f"Name {FORMS}, a folder with config.json, or one of these lines.",
        )
    line = Line.load(target)
    request = FitRequest.of_line(line)
    return (
        read_shape(settings, revised(line.source, line.revision)),
        line,
        FitRequest(**{**request.model_dump(), **options}),
    )


def _best(rows: tuple[FitRow, ...]) -> list[FitRow]:
    """Return one row for each GPU and scheme: the fewest GPUs that fit, or one GPU if none does."""
    best: dict[tuple[str, str], FitRow] = {}
    for row in rows:
        best[row.gpu, row.scheme] = row
    return list(best.values())


def _as_dict(
    shape: ModelShape, request: FitRequest, rows: tuple[FitRow, ...], monthly: list[float | None]
) -> dict[str, Any]:
    profile = request.profile
    return {
        "model": shape.name,
        "parameters": shape.parameters,
        "active_parameters": shape.active_parameters,
        "weights_from": shape.origin,
        "engine_profile": profile.label,
        "engine_profile_is_nearest": profile.nearest,
        "engine_profile_source": profile.source,
        "request": request.model_dump(),
        "rows": [
            {**row.model_dump(), "monthly_eur": None if eur is None else round(eur, 2)}
            for row, eur in zip(rows, monthly, strict=True)
        ],
    }


def _draw(rows: list[FitRow], path: Path) -> None:
    from tasks.fit.plot import draw
    from weighbridge.errors import FitOptionUnknown

    try:
        draw(rows, path)
    except (OSError, ValueError) as error:
        raise FitOptionUnknown(
            f"{path} cannot be drawn: {error}.", "Name a file that ends in .png, .svg or .pdf.", where="--plot"
        ) from None


def _show(shape: ModelShape, request: FitRequest, rows: list[tuple[FitRow, float | None]]) -> None:
    profile = request.profile
    active = f", {shape.active_parameters / 1e9:.1f} active" if shape.active_parameters < shape.parameters else ""
    say_wrapped(
        f"{shape.name} ({shape.parameters / 1e9:.2f} billion parameters{active}; weights from "
        f"{shape.origin}) for {request.concurrency} × {request.context} tokens on {profile.label}"
        f"{' (nearest profile; wider band)' if profile.nearest else ''}"
    )
    table_ = table(
        whole("GPU"),
        whole("scheme"),
        *map(number, ("weights", "KV", "rest", "of", "thumb", "at once", "€/month")),
        "fit",
    )
    notes: dict[tuple[str, str], list[str]] = {}
    previous = ""
    for row, eur in rows:
        name = f"{row.gpu} ×{row.count}" if row.count > 1 else row.gpu
        table_.add_row(
            "" if name == previous else name,
            row.scheme,
            f"{row.weights_gib:.2f}",
            f"{row.kv_needed_gib:.2f}",
            f"{row.overhead_gib:.1f}",
            f"{row.capacity_gib:.1f}",
            f"{row.rule_of_thumb_gib:.0f}",
            f"{row.max_concurrency:,.0f}" if row.max_concurrency >= 10 else f"{row.max_concurrency:.1f}",
            f"{eur:,.0f}" if eur is not None else "",
            styled(row.verdict, COLOURS[row.verdict]),
        )
        previous = name
        if row.verdict != "fits":
            why = f"{styled(row.verdict, COLOURS[row.verdict])}, {row.reason}"
            what = f"{why}; would fit: {row.change}" if row.change else why
            notes.setdefault((row.scheme, what), []).append(name)
    say(table_)
    say_wrapped(f"{LEGEND} Bands of ±{rows[0][0].band_gib:.1f} GiB and more decide `tight`.")
    for (scheme, note), names in notes.items():
        say(f"{', '.join(names)} {scheme}: {note}")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(fit)
