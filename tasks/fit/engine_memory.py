"""What an engine takes beside weights and cache, and how it holds both: the profiles of `profiles.yaml`.

A simple model: activations grow with the tokens of one step and with the logits of the running sequences,
everything else is a constant. An engine without a profile is planned as vLLM, and the report says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from registry.store import GIB
from tasks.fit.gpus import Gpu
from tasks.fit.kv import required, text_config
from weighbridge.line import Line

NEAREST = "vllm"
LARGE_GPU_GIB = 70.0
"""From here vLLM batches more tokens by default; its A100s are the exception."""


class EngineFlags(BaseModel):
    """What the engine calls the settings that change its memory; empty where it has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    utilization: str = ""
    sequences: str = ""
    batched_tokens: str = ""
    kv_dtype: str = ""


class EngineProfile(BaseModel):
    """One engine's memory; `profiles.yaml` says what each field is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    weights: Literal["stored", "dense"]
    non_torch_gib: float
    host_process_gib: float
    activation_bytes_per_token_and_hidden: float
    activation_bytes_per_sequence_and_vocabulary: float
    batched_tokens_small: int
    batched_tokens_large: int
    flags: EngineFlags
    source: str

    def number_bytes(self, gpu: Gpu) -> int:
        """Of an unquantized number at work: 4 on a processor, where bfloat16 is slow, 2 on a GPU."""
        return 4 if gpu.is_host else 2

    def kv_number_bytes(self, gpu: Gpu, line: Line) -> int:
        """Of a cached number."""
        asked = str(line.engine.flags.get(self.flags.kv_dtype, "auto"))
        return 1 if asked.startswith("fp8") else self.number_bytes(gpu)

    def capacity_bytes(self, gpu: Gpu, line: Line) -> int:
        """What the engine may take of the GPU."""
        utilization = gpu.utilization
        if not gpu.is_host:
            utilization = float(line.engine.flags.get(self.flags.utilization, utilization))
        return int(gpu.memory_gib * utilization * GIB)

    def overhead_bytes(self, gpu: Gpu, line: Line, config: Mapping[str, Any]) -> int:
        """Activations and what is not the model's.

        Raises:
            ArchitectureUnknown: config.json lacks `hidden_size` or `vocab_size`.
        """
        text = text_config(config)
        sequences = int(line.engine.flags.get(self.flags.sequences, line.target.concurrency))
        activation = (
            self._batched_tokens(gpu, line) * required(text, "hidden_size") * self.activation_bytes_per_token_and_hidden
            + sequences * required(text, "vocab_size") * self.activation_bytes_per_sequence_and_vocabulary
        )
        constant = self.host_process_gib if gpu.is_host else self.non_torch_gib
        return int(activation * self.number_bytes(gpu) / 2 + constant * GIB)

    def _batched_tokens(self, gpu: Gpu, line: Line) -> int:
        large = gpu.memory_gib >= LARGE_GPU_GIB and not gpu.name.startswith("A100") and not gpu.is_host
        default = self.batched_tokens_large if large else self.batched_tokens_small
        return int(line.engine.flags.get(self.flags.batched_tokens, default or line.target.context))


def engine_profile(engine: str) -> EngineProfile:
    """The profile of an engine, or the nearest one; its `name` tells which."""
    profiles = _profiles()
    return profiles.get(engine, profiles[NEAREST])


@cache
def _profiles() -> dict[str, EngineProfile]:
    entries = yaml.safe_load(Path(__file__).with_name("profiles.yaml").read_text())
    return {name: EngineProfile(name=name, **fields) for name, fields in entries.items()}
