"""gptq: round column by column, and let the columns that are still to come make up for each error (arXiv:2210.17323).

It watches what goes into each layer on calibration text, and rounds the columns that matter most first (`actorder`
static: the order is only the work's; the files are laid out as by any other method). The range of each scale is found
on the same inputs: the observer `imatrix_mse` weighs each column's error by the mean square of its input.
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
    """Write the job's quantized weights and its `config.json`; returns the tokens watched.

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
