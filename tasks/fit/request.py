"""The planner's input: the engine with its settings, and the load to serve."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.engines import EngineProfile, engine_profile
from weighbridge.line import Line

KV_BITS = {"fp8": 8, "fp8_e4m3": 8, "fp8_e5m2": 8, "int8": 8, "q8_0": 8.5, "q4_0": 4.5, "bfloat16": 16, "float16": 16,
           "bf16": 16, "f16": 16, "float32": 32, "f32": 32}  # fmt: skip
"""Bits of a cached number by its dtype; llama.cpp's q8_0 and q4_0 add a scale for each 32 numbers."""


class FitRequest(BaseModel):
    """The load and the engine's settings; None means the engine's default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str = "vllm"
    version: str | None = None
    context: int = 4096
    """Longest prompt plus answer, tokens."""
    concurrency: int = 1
    """Concurrent requests, each of full context."""
    kv_dtype: str = "auto"
    dtype: str = "auto"
    """Dtype of unquantized weights and activations; auto: as published."""
    utilization: float | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    eager: bool = False
    """Without CUDA graphs."""

    @property
    def profile(self) -> EngineProfile:
        """The memory profile of the engine.

        Raises:
            EngineUnknown, FitOptionUnknown: an unknown engine or version.
        """
        return engine_profile(self.engine, self.version)

    @classmethod
    def of_line(cls, line: Line) -> FitRequest:
        """Read a line's target and engine flags."""
        flags = engine_profile(line.engine.name).flags
        given: dict[str, Any] = line.engine.flags
        return cls(
            engine=line.engine.name,
            context=line.target.context,
            concurrency=line.target.concurrency,
            kv_dtype=str(given.get(flags.kv_dtype, "auto")),
            dtype=str(given.get(flags.dtype, "auto")),
            utilization=_number(given.get(flags.utilization)),
            # The engine is started with the line's concurrency, unless the line's flags override it.
            max_num_seqs=int(given.get(flags.sequences, line.target.concurrency)),
            max_num_batched_tokens=_whole(given.get(flags.batched_tokens)),
            eager=bool(given.get(flags.eager, False)),
        )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
