"""`transformers serve` with continuous batching: the embedded default, on any processor that torch knows.

It is part of the pipeline's own environment and loads compressed-tensors. It returns no log-probabilities
(transformers 5.17). It accepts only the model name that it was started with, so it is started in a folder where a
link with the line's name points to the weights.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from math import ceil
from pathlib import Path

from tasks import engines
from tasks.engines import EnginePlan, LaunchSpec

BLOCK_TOKENS = 32
BATCH_TOKENS_CPU, BATCH_TOKENS_GPU = 512, 2048
"""Tokens of one forward pass; longer prompts are split. Both blocks and tokens must be set, or the server derives the
missing one from all visible memory (transformers 5.17, continuous_batching/cache.py)."""


class Engine(engines.Engine):
    """transformers' own server."""

    memory = engines.read_profiles("transformers", Path(__file__).with_suffix(".yaml"))
    endpoints = engines.read_endpoints(Path(__file__).with_name("transformers_endpoints.yaml"))
    ready_seconds = 240.0
    prompt_log_probabilities = False
    """`transformers serve` returns none."""
    top_log_probabilities = 0
    takes_key = True

    def version(self) -> str:
        """Version of the installed transformers and torch."""
        return f"transformers {version('transformers')} torch {version('torch')}"

    def launch(self, plan: EnginePlan, model_folder: Path, host: str, port: int) -> LaunchSpec:
        """See `tasks.engines.Engine`.

        The cache is sized by the plan: by default the server takes 90 % of the machine's memory
        (9.4 GB for a 135M model on a 24 GB machine, transformers 5.17).
        """
        on_gpu = _has_gpu()
        tokens = plan.context * plan.concurrency
        command = [
            sys.executable,
            "-m",
            "tasks.engines._transformers_serve",
            "serve",
            plan.model_name,
            "--host",
            host,
            "--port",
            str(port),
            "--device",
            "cuda" if on_gpu else "cpu",
            # bfloat16 matrix products are about 20 times slower than float32 on a CPU without AMX or AVX512-BF16.
            "--dtype",
            "auto" if on_gpu else "float32",
            "--continuous-batching",
            "--cb-block-size",
            str(BLOCK_TOKENS),
            "--cb-num-blocks",
            str(ceil(tokens / BLOCK_TOKENS)),
            "--cb-max-batch-tokens",
            str(BATCH_TOKENS_GPU if on_gpu else BATCH_TOKENS_CPU),
            *plan.flag_arguments,
        ]
        # The model is the link in the folder; nothing may be downloaded.
        environment = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
        if not on_gpu:
            environment["OMP_NUM_THREADS"] = str(os.cpu_count() or 1)
            # Waiting threads that spin would take cores from the other engine.
            environment["OMP_WAIT_POLICY"] = "PASSIVE"
        return LaunchSpec(command=tuple(command), environment=environment)


def _has_gpu() -> bool:
    # A check for NVIDIA's driver avoids an import of torch, which takes seconds.
    return Path("/proc/driver/nvidia/version").exists()
