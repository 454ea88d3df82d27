"""The quantize room's Prefect step, and the choice of a scheme's candidate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from registry.installation import Installation
from registry.store import Artifact
from tasks.quantize.calibration import calibration_digest, calibration_files
from tasks.quantize.process.job import deciding_versions
from tasks.quantize.run import quantize as run_quantization
from tasks.quantize.until_close import D, Quantized, quantize_until_close
from tasks.schemes import writable_scheme
from tasks.steps import flow_run_id, log_progress, run_logger, step
from weighbridge import __version__, plugins
from weighbridge.line import Line, Quantize
from weighbridge.settings import Settings


def methods_of(scheme: str, line: Line) -> tuple[str, ...]:
    """The methods to try for a scheme, from the cheapest up: the line's choice, or the scheme's own."""
    return tuple(line.quantize.choice(scheme).methods) or writable_scheme(scheme).methods


@step(
    "quantize-{scheme}-{method}",
    key=lambda installation, weights, scheme, method, how: [
        weights.line,
        weights.digest,
        scheme,
        method,
        how.choice(scheme).model_dump(exclude={"methods"}),
        calibration_digest(method, calibration_files(installation.settings, _calibration(installation.settings, how))),
        deciding_versions(method),
        __version__,
        *_plugin_of(scheme),
    ],
)
def quantize(installation: Installation, weights: Artifact, scheme: str, method: str, how: Quantize) -> Artifact:
    """Quantize the published weights by one method, and check the result's coverage."""
    return run_quantization(
        installation,
        weights,
        scheme,
        method,
        progress=log_progress(f"quantize {scheme} by {method}"),
        calibration=_calibration(installation.settings, how),
        choice=how.choice(scheme),
        invocation=flow_run_id(),
    )


def quantize_scheme(
    installation: Installation, line: Line, weights: Artifact, scheme: str, drift_check: Callable[[Artifact], D]
) -> Quantized[D]:
    """Make a scheme's candidate: by its cheapest method, and by costlier ones while it is too far from its release.

    Args:
        installation: the store and the settings.
        line: with the methods to try and the minutes for trying them.
        weights: the release as published.
        scheme: a file of `tasks/schemes/`.
        drift_check: compares an artifact with the release; the step for it belongs to a later stage.

    Raises:
        QuantizationFailed, QuantizationUncovered: no method gives a candidate.
    """
    return quantize_until_close(
        weights,
        methods_of(scheme, line),
        quantize=lambda method: quantize(installation, weights, scheme, method, line.quantize),
        check_drift=drift_check,
        minutes=line.quantize.minutes,
        report=lambda sentence: run_logger().warning("%s: %s", scheme, sentence),
    )


def _calibration(settings: Settings, how: Quantize) -> Path | None:
    return settings.root / how.calibration if how.calibration else None


def _plugin_of(scheme: str) -> list[str]:
    """The distribution and version of a scheme that a plug-in adds; empty for a built-in one."""
    place = plugins.place(plugins.SCHEMES, scheme)
    return [place] if place else []
