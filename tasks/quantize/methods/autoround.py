"""autoround: learn for each weight whether to round up or down, by signed gradients (arXiv:2309.05516).

It trains: each step runs `BATCH` samples forwards and backwards through a decoder layer. This is the slowest method and
meant for a GPU; on a CPU it takes fewer steps.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import compressed_tensors.offload
import llmcompressor.modifiers.autoround.base as llmcompressor_autoround
import torch
from compressed_tensors.offload import offload_module
from llmcompressor.modifiers.autoround import AutoRoundModifier

from tasks.quantize.methods._oneshot import calibrate, scratch_of
from tasks.quantize.process.job import Job
from tasks.schemes import scheme
from weighbridge.errors import QuantizationFailed

SAMPLES = 32
SAMPLE_TOKENS = 256
BATCH = 4
STEPS_ON_GPU = 200
STEPS_ON_CPU = 20


def quantize(job: Job, layer_done: Callable[[], None]) -> int:
    """Write the job's quantized weights and its `config.json`; return the number of calibration tokens.

    Raises:
        CalibrationInvalid, QuantizationFailed, QuantizationUncovered, DiskFull: as for `calibrate`.
    """
    if not scheme(job.recipe.scheme).symmetric:
        raise QuantizationFailed(
            f"llm-compressor does not import zero points from AutoRound, and {job.recipe.scheme} needs them.",
            "Name gptq or awq for this scheme, or autoround for a symmetric one.",
            where=job.recipe.scheme,
        )
    _support_disk_offload(scratch_of(job))
    on_gpu = torch.cuda.is_available()
    return calibrate(
        job,
        layer_done,
        lambda quantization, ignore: [
            AutoRoundModifier(
                config_groups={"group_0": quantization},
                ignore=ignore,
                iters=STEPS_ON_GPU if on_gpu else STEPS_ON_CPU,
                batch_size=BATCH,
                enable_torch_compile=on_gpu,
            )
        ],
        samples=SAMPLES,
        sample_tokens=SAMPLE_TOKENS,
        # AutoRound finds the scales together with the rounding.
        observer=None,
    )


def _support_disk_offload(scratch: Path) -> None:
    """Patch two places where llm-compressor 0.14's AutoRoundModifier assumes that the model is in memory.

    It creates scales while onloading is disabled, so that they are missing from the disk's index, and it offloads a
    tuned layer without naming the folder. The patches affect only this process, which quantizes one model and ends.
    """
    compressed_tensors.offload.disable_onloading = nullcontext

    def offload(module: torch.nn.Module, onload_device: torch.device, offload_device: torch.device | str) -> None:
        folder = {"offload_dir": str(scratch)} if str(offload_device) == "disk" else {}
        offload_module(module, onload_device, offload_device, **folder)

    llmcompressor_autoround.offload_module = offload
