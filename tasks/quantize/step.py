"""The quantize room's step."""

from __future__ import annotations

from registry.store import Artifact
from tasks.quantize.job import deciding_versions
from tasks.quantize.run import quantize as run_quantization
from tasks.steps import log_progress, step
from weighbridge import __version__


@step(
    "quantize-{scheme}",
    key=lambda weights, scheme: [weights.line, weights.digest, scheme, deciding_versions(), __version__],
)
def quantize(weights: Artifact, scheme: str) -> Artifact:
    """Make a scheme's artifact of the published weights, checked to be what was planned."""
    return run_quantization(weights, scheme, progress=log_progress(f"quantize {scheme}"))
