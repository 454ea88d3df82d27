"""smoothquant_gptq: move the activations' outliers into the weights (arXiv:2211.10438), then round as gptq does.

It is for schemes that also round activations: a token's largest value sets the step for all its values. SmoothQuant
reduces the largest ones by scaling norms down and the following layers up. The written norms therefore differ from the
release's.
"""

from __future__ import annotations

from collections.abc import Callable

from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

from tasks.quantize.methods._oneshot import calibrate
from tasks.quantize.methods.gptq import OBSERVER, SAMPLE_TOKENS, SAMPLES
from tasks.quantize.process.job import Job

STRENGTH = 0.8


def quantize(job: Job, layer_done: Callable[[], None]) -> int:
    """Write the job's quantized weights and its `config.json`; return the number of calibration tokens.

    Raises:
        CalibrationInvalid, QuantizationFailed, QuantizationUncovered, DiskFull: as for `calibrate`.
    """
    return calibrate(
        job,
        layer_done,
        lambda quantization, ignore: [
            SmoothQuantModifier(smoothing_strength=STRENGTH),
            GPTQModifier(config_groups={"group_0": quantization}, ignore=ignore),
        ],
        samples=SAMPLES,
        sample_tokens=SAMPLE_TOKENS,
        observer=OBSERVER,
        smooths=True,
    )
