"""gptq: round column by column, compensating each error in the remaining columns (arXiv:2210.17323).

It observes each layer's inputs on calibration text and rounds the most important columns first (`actorder` static: the
order affects only the computation, not the file layout). Scale ranges are found on the same inputs: the observer
`imatrix_mse` weights each column's error by the mean square of its input.
"""

from __future__ import annotations

from collections.abc import Callable

from llmcompressor.modifiers.gptq import GPTQModifier

from tasks.quantize.methods._oneshot import calibrate
from tasks.quantize.process.job import Job

SAMPLES = 32
SAMPLE_TOKENS = 512
OBSERVER = "imatrix_mse"


def quantize(job: Job, layer_done: Callable[[], None]) -> int:
    """Write the job's quantized weights and its `config.json`; return the number of calibration tokens.

    Raises:
        CalibrationInvalid, QuantizationFailed, QuantizationUncovered, DiskFull: as for `calibrate`.
    """
    return calibrate(
        job,
        layer_done,
        lambda quantization, ignore: [GPTQModifier(config_groups={"group_0": quantization}, ignore=ignore)],
        samples=SAMPLES,
        sample_tokens=SAMPLE_TOKENS,
        observer=OBSERVER,
    )
