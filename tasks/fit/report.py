"""The fit of a line: which of its schemes fit which of its GPUs; or a refusal that suggests changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.engines import engine_profile
from tasks.fit.advice import changes
from tasks.fit.catalogue import model_of
from tasks.fit.hardware.gpus import gpu as find_gpu
from tasks.fit.memory.terms import PlannedModel
from tasks.fit.model.shape import ModelShape, shape_of_folder, shape_of_source
from tasks.fit.plan import fit_row
from tasks.fit.request import FitRequest
from tasks.fit.rows import EngineSizing, FitReport, FitRow
from tasks.schemes import scheme as find_scheme
from tasks.source.provider import provider_of
from weighbridge.errors import ArchitectureUnknown, DoesNotFit
from weighbridge.line import Line

if TYPE_CHECKING:
    from registry.installation import Installation
    from tasks.source.pinned import Source


def fit(shape: ModelShape, line: Line) -> FitReport:
    """Decide which of a line's schemes fit which of its GPUs, before any weights are downloaded.

    Args:
        shape: of the model.
        line: its schemes, target and engine.

    Returns:
        A report in which at least one row fits.

    Raises:
        DoesNotFit: no scheme of the line fits any of its GPUs; the nearest miss and the cheapest changes are named.
        EngineUnknown, GpuUnknown, SchemeUnknown: the line has an unknown name.
        ArchitectureUnknown: config.json lacks what the planner needs; the field is named.
    """
    target_gpus = [find_gpu(name) for name in line.target.gpus]
    schemes = [find_scheme(name) for name in line.schemes]
    model, request = model_of(shape), FitRequest.of_line(line)
    tp, pp = _parallelism(line, request)
    try:
        rows = tuple(fit_row(model, request, gpu, scheme, tp, pp) for scheme in schemes for gpu in target_gpus)
    except ArithmeticError as error:  # each field is in its bounds, and together they make no model
        raise ArchitectureUnknown(
            f"The sizes in config.json of {shape.name} contradict each other ({error}).",
            "Complete config.json, or choose another release.",
            where="config.json",
        ) from None
    good = [row for row in rows if row.verdict != "no"]
    if not good:
        raise _does_not_fit(model, request, line, rows)
    return FitReport(
        model=shape.name,
        profile=request.profile.label,
        rows=rows,
        schemes=tuple(name for name in line.schemes if any(row.scheme == name for row in good)),
        plan=EngineSizing(
            context=request.context,
            concurrency=request.concurrency,
            kv_gib=max(row.kv_needed_gib for row in good),
        ),
    )


def fit_release(installation: Installation, source: Source, line: Line) -> FitReport:
    """Plan a pinned release from its safetensors headers; the line's names are checked before the network is used.

    Raises:
        SourceUnreachable, SourceUnknown, SourceDamaged: the headers could not be read.
        DoesNotFit, EngineUnknown, GpuUnknown, SchemeUnknown, ArchitectureUnknown: as for `fit`.
    """
    for name in line.target.gpus:
        find_gpu(name)
    for name in line.schemes:
        find_scheme(name)
    engine_profile(line.engine.name)
    return fit(shape_of_source(provider_of(installation.settings, source.repo), source), line)


def refit(report: FitReport, line: Line, artifacts: Mapping[str, Path]) -> FitReport:
    """Repeat the fit with the real sizes of the artifacts.

    Args:
        report: from `fit`.
        line: its target and engine.
        artifacts: folder of each scheme's artifact.

    Returns:
        The report with those rows replaced; its schemes are those that still fit.

    Raises:
        DoesNotFit: no scheme fits any more; the sizes are named.
    """
    real = {
        (row.gpu, row.scheme): row for scheme, path in artifacts.items() for row in rows_of_folder(path, line, scheme)
    }
    rows = tuple(real.get((row.gpu, row.scheme), row) for row in report.rows)
    schemes = tuple(name for name in report.schemes if any(row.scheme == name and row.verdict != "no" for row in rows))
    if not schemes:
        worst = "; ".join(f"{row.scheme} on {row.gpu}: {row.reason}" for row in real.values())
        raise DoesNotFit(
            f"Quantized, nothing of {report.model} fits any more: {worst}.",
            f"Name a larger GPU in lines/{line.name}.yaml, or find out why the artifacts are larger than planned.",
            where=report.model,
        )
    return report.model_copy(update={"rows": rows, "schemes": schemes})


def rows_of_folder(folder: Path, line: Line, scheme: str) -> tuple[FitRow, ...]:
    """Fit an artifact's folder on each of the line's GPUs.

    Raises:
        ArchitectureUnknown: its config.json is missing or not enough.
        SourceDamaged: a header does not describe its file.
    """
    model, request = model_of(shape_of_folder(folder)), FitRequest.of_line(line)
    tp, pp = _parallelism(line, request)
    size = find_scheme(scheme)
    return tuple(
        fit_row(model, request, find_gpu(name), size, tp, pp).model_copy(update={"scheme": scheme})
        for name in line.target.gpus
    )


def _parallelism(line: Line, request: FitRequest) -> tuple[int, int]:
    flags = request.profile.flags
    return int(line.engine.flags.get(flags.tensor_parallel, 1)), int(line.engine.flags.get(flags.pipeline_parallel, 1))


def _does_not_fit(model: PlannedModel, request: FitRequest, line: Line, rows: tuple[FitRow, ...]) -> DoesNotFit:
    """Build the refusal around the row that came nearest."""
    # Rows with enough memory were refused for another reason, which more memory does not change: they come last.
    nearest = min(rows, key=lambda row: (row.total_gib <= row.capacity_gib, row.total_gib - row.capacity_gib))
    gpu, scheme = find_gpu(nearest.gpu), find_scheme(nearest.scheme)
    suggestions = list(changes(model, request, gpu, scheme, nearest.tp, nearest.pp))
    rest = nearest.total_gib - nearest.weights_gib - nearest.kv_needed_gib
    return DoesNotFit(
        f"No scheme of {line.name} fits any of its GPUs. Nearest: {nearest.scheme} on {nearest.gpu} needs "
        f"{nearest.total_gib:.2f} GiB (weights {nearest.weights_gib:.2f}, cache {nearest.kv_needed_gib:.2f} for "
        f"{request.concurrency} x {request.context} tokens, rest {rest:.2f}) of {nearest.capacity_gib:.2f}: "
        f"{nearest.reason}.",
        f"What would fit instead, cheapest first: {'; '.join(suggestions)}. Change lines/{line.name}.yaml."
        if suggestions
        else "Choose a smaller model: no known GPU holds this one.",
        where=model.shape.name,
    )
