"""The quantize room's step."""

from __future__ import annotations

from pathlib import Path

from registry.store import Artifact
from tasks.quantize.calibration import calibration_digest
from tasks.quantize.process.job import deciding_versions
from tasks.quantize.run import quantize as run_quantization
from tasks.schemes import scheme as scheme_of
from tasks.steps import log_progress, step
from weighbridge import __version__
from weighbridge.line import Line, Quantize
from weighbridge.settings import load_settings


def methods_of(scheme: str, line: Line) -> tuple[str, ...]:
    """The rungs of a scheme's ladder, from the cheapest up: the line's choice, or the scheme's own."""
    return tuple(line.quantize.choice(scheme).methods) or scheme_of(scheme).methods


@step(
    "quantize-{scheme}-{method}",
    key=lambda weights, scheme, method, how: [
        weights.line,
        weights.digest,
        scheme,
        method,
        how.choice(scheme).model_dump(exclude={"methods"}),
        calibration_digest(method, _calibration(how)),
        deciding_versions(method),
        __version__,
    ],
)
def quantize(weights: Artifact, scheme: str, method: str, how: Quantize) -> Artifact:
    """Make a scheme's artifact of the published weights by one method, checked to be what was planned."""
    return run_quantization(
        weights,
        scheme,
        method,
        progress=log_progress(f"quantize {scheme} by {method}"),
        calibration=_calibration(how),
        choice=how.choice(scheme),
    )


def _calibration(how: Quantize) -> Path | None:
    return load_settings().root / how.calibration if how.calibration else None
