"""awq: scale the columns that see large activations up before rounding, and what feeds them down (arXiv:2306.00978).

The scaling is exact, so it costs nothing while serving, and it makes the columns that matter lose less. How far to
scale is tried out: each of `GRID` strengths runs all samples through the layer, which makes this several times slower
than gptq. Norms change with it, so the written ones are not the release's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache

from tasks.quantize.methods._oneshot import calibrate
from tasks.quantize.process.job import Job

SAMPLES = 16
SAMPLE_TOKENS = 256
GRID = 10
OBSERVER = "imatrix_mse"


def quantize(job: Job, layer_done: Callable[[], None]) -> int:
    """Write the job's quantized weights and its `config.json`; returns the tokens watched.

    Raises:
        CalibrationInvalid, QuantizationFailed, QuantizationUncovered, DiskFull: as for `calibrate`.
    """
    _pin_nothing_without_a_gpu()
    return calibrate(
        job,
        layer_done,
        lambda quantization, ignore: [
            AWQModifier(n_grid=GRID),
            QuantizationModifier(config_groups={"group_0": quantization}, ignore=ignore),
        ],
        samples=SAMPLES,
        sample_tokens=SAMPLE_TOKENS,
        observer=OBSERVER,
        smooths=True,
    )


def _pin_nothing_without_a_gpu() -> None:
    """Pinned memory is for copies to a GPU; asking for it fails where torch is built for one and finds no driver."""
    if not torch.cuda.is_available():
        IntermediatesCache.pin_memory = lambda self, batch_index, input_names=None: None
