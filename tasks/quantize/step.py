"""The quantize room's step."""

from __future__ import annotations

import hashlib
from pathlib import Path

from registry.store import Artifact
from tasks.quantize.job import deciding_versions
from tasks.quantize.methods import STREAMING
from tasks.quantize.run import quantize as run_quantization
from tasks.quantize.schemes import scheme as scheme_of
from tasks.steps import log_progress, step
from weighbridge import __version__
from weighbridge.line import Line, Quantize
from weighbridge.settings import load_settings


def methods_of(scheme: str, plan: Line) -> tuple[str, ...]:
    """The rungs of a scheme's ladder, from the cheapest up: the line's choice, or the scheme's own."""
    return tuple(plan.quantize.choice(scheme).methods) or scheme_of(scheme).methods


@step(
    "quantize-{scheme}-{method}",
    key=lambda weights, scheme, method, how: [
        weights.line,
        weights.digest,
        scheme,
        method,
        how.choice(scheme).model_dump(exclude={"methods"}),
        _calibration_digest(method, how),
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


def _calibration_digest(method: str, how: Quantize) -> str:
    """Of the text that a method watches the model on; nothing for methods without data."""
    if method in STREAMING:
        return ""
    named = _calibration(how)
    files = [named] if named else sorted((load_settings().root / "eval_suites" / "calibration").glob("*"))
    digest = hashlib.sha256()
    for file in files:
        # A file that is missing is told by name when it is read.
        digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()
