"""awq: before rounding, scale up columns with large activations and scale down their inputs (arXiv:2306.00978).

The scaling is exact, so it costs nothing in serving, and important columns lose less. Its strength is searched: each of
`GRID` values runs all samples through the layer, which makes awq several times slower than gptq. The written norms
differ from the release's.
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
    """Write the job's quantized weights and its `config.json`; return the number of calibration tokens.

    Raises:
        CalibrationInvalid, QuantizationFailed, QuantizationUncovered, DiskFull: as for `calibrate`.
    """
    _disable_pinned_memory_without_gpu()
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


def _disable_pinned_memory_without_gpu() -> None:
    """Disable pinned memory without a GPU: a CUDA build of torch fails to allocate it without a driver."""
    if not torch.cuda.is_available():
        IntermediatesCache.pin_memory = lambda self, batch_index, input_names=None: None
