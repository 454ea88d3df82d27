"""Throughput of one copy of a model, tokens a second: a roofline model with stated efficiencies.

An engine with continuous batching and chunked prefill runs steps in which `batch` requests each get one output
token and, on average, their share of prompt tokens is processed. A step's time on one GPU is

    linear layers   the longer of: weight bytes / (bandwidth x MEMORY_EFFICIENCY)
                                   2 x parameters x tokens / (peak arithmetic x MATH_EFFICIENCY)
    attention       batch x mean context x KV bytes per token / (bandwidth x MEMORY_EFFICIENCY)

The two efficiencies were set so that the model meets ten public measurements of vLLM 0.30 (Qwen3-8B in bf16 and
FP8 on an H100 SXM; 128 to 8,192 prompt tokens, 128 to 2,048 answer tokens): silybench-data, September 2026. It
predicts 0.87 to 1.31 times the measured values; `tests/cost/test_cost.py` holds all ten. Nothing else was
measured: other engines, GPUs and several GPUs for one copy are extrapolated, hence the wide band.

What it does *not* know: time to the first token, prefix caching, speculative decoding, attention's own
arithmetic (which shows from about 8,000 prompt tokens on), and slow interconnects beyond
`TENSOR_PARALLEL_EFFICIENCY`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel, ConfigDict, Field

from tasks.schemes import scheme as find_scheme
from weighbridge.units import GIB

if TYPE_CHECKING:
    from tasks.fit.rows import FitRow

MEMORY_EFFICIENCY = 0.65
"""Share of the data sheet's bandwidth that is reached."""
MATH_EFFICIENCY = 0.5
"""Share of the data sheet's dense TFLOPS that is reached in the linear layers."""
TENSOR_PARALLEL_EFFICIENCY = 0.85
"""For each doubling of the GPUs that share a layer. An assumption: no measurement stands behind it."""
BAND_LOW, BAND_HIGH = 0.6, 1.4
"""Factors on the estimate: somewhat wider than the spread of the ten measurements."""


class GpuSpeed(Protocol):
    """The figures of a GPU that decide its speed; `tasks.fit.hardware.gpus.Gpu` has them."""

    @property
    def bandwidth_gbs(self) -> float:
        """GB/s by the data sheet; 0: unknown."""

    @property
    def bf16_tflops(self) -> float:
        """Dense; 0: unknown."""

    @property
    def int8_tops(self) -> float:
        """Dense; 0: the GPU has no such units."""

    @property
    def fp8_tflops(self) -> float:
        """Dense; 0: the GPU has no such units."""


class Traffic(BaseModel):
    """The mean request."""

    model_config = ConfigDict(frozen=True)

    input_share: float = Field(0.75, ge=0, lt=1, description="of all tokens, those of prompts")
    request_tokens: int = Field(2000, ge=2, description="prompt and answer of the mean request")
    max_num_seqs: int = Field(256, ge=1, description="requests that the engine runs at once at most")
    stream_tokens_per_second: float = Field(10, gt=0, description="what each request must still get from a full copy")

    @property
    def output_tokens(self) -> float:
        """Answer of the mean request."""
        return (1 - self.input_share) * self.request_tokens

    @property
    def mean_context_tokens(self) -> float:
        """Tokens in a request's cache, averaged over its answer."""
        return self.request_tokens - self.output_tokens / 2


class Throughput(BaseModel):
    """Throughput of one full copy."""

    model_config = ConfigDict(frozen=True)

    tokens_per_second: float
    """Prompt and answer tokens together, in the traffic's mix."""
    tokens_per_second_low: float
    tokens_per_second_high: float
    output_tokens_per_second: float
    seconds_per_output_token: float
    """As seen by one request while the copy is full."""
    batch: int
    """Concurrent requests."""


def peak_flops(gpu: GpuSpeed, scheme: str) -> float:
    """Dense operations a second of a scheme's linear layers; as in bf16 if the GPU has no faster units for it."""
    peaks = {"bf16": gpu.bf16_tflops, "int8": gpu.int8_tops, "fp8": gpu.fp8_tflops}
    return (peaks[find_scheme(scheme).arithmetic] or gpu.bf16_tflops) * 1e12


def most_requests(row: FitRow, traffic: Traffic) -> int:
    """Concurrent mean requests that a copy's cache holds, at most `max_num_seqs`.

    At least one, because the planner found that the row fits.
    """
    in_cache = row.kv_tokens / traffic.request_tokens if row.kv_tokens > 0 else row.max_concurrency
    return max(1, min(traffic.max_num_seqs, int(in_cache)))


def touched_share(active_share: float, tokens: float) -> float:
    """Share of a mixture's weights that a step of `tokens` reads, if each token picks its experts at random.

    1 for a dense model, whose active share is 1.
    """
    return float(1 - (1 - active_share) ** max(tokens, 1.0)) if active_share < 1 else 1.0


def step_seconds(
    row: FitRow, gpu: GpuSpeed, parameters: int, active_parameters: int, traffic: Traffic, batch: float
) -> float:
    """Time of one step on one GPU with `batch` concurrent requests; grows with the batch."""
    # A pipeline processes as many groups of requests as it has stages, one group in each stage.
    group = batch / row.pp
    step_tokens = group / (1 - traffic.input_share)
    bandwidth = gpu.bandwidth_gbs * 1e9 * MEMORY_EFFICIENCY
    weights_read = row.weights_gib * GIB * touched_share(active_parameters / parameters, step_tokens)
    flops = 2 * active_parameters / (row.tp * row.pp) * step_tokens
    linear = max(weights_read / bandwidth, flops / (peak_flops(gpu, row.scheme) * MATH_EFFICIENCY))
    attention = group * traffic.mean_context_tokens * row.kv_bytes_per_token / bandwidth
    return float((linear + attention) / TENSOR_PARALLEL_EFFICIENCY ** math.log2(row.tp))


def throughput(
    row: FitRow, gpu: GpuSpeed, parameters: int, active_parameters: int, traffic: Traffic
) -> Throughput | None:
    """Estimate the throughput of one copy, as full as its cache and the required speed per request allow.

    Args:
        row: from the planner; its sizes are per GPU.
        gpu: the row's GPU.
        parameters: of the whole model.
        active_parameters: used for each token.
        traffic: the mean request.

    Returns:
        None if the GPU's bandwidth or arithmetic is unknown.
    """
    if gpu.bandwidth_gbs <= 0 or gpu.bf16_tflops <= 0:
        return None

    def token_seconds(batch: int) -> float:
        # A token passes through every stage of a pipeline.
        return row.pp * step_seconds(row, gpu, parameters, active_parameters, traffic, batch)

    batches = range(1, most_requests(row, traffic) + 1)
    # The largest batch in which each request is still fast enough; 1 if even a single request is not.
    batch = max(1, bisect_right(batches, 1 / traffic.stream_tokens_per_second, key=token_seconds))
    output_per_second = batch / token_seconds(batch)
    total = output_per_second / (1 - traffic.input_share)
    return Throughput(
        tokens_per_second=total,
        tokens_per_second_low=total * BAND_LOW,
        tokens_per_second_high=total * BAND_HIGH,
        output_tokens_per_second=output_per_second,
        seconds_per_output_token=token_seconds(batch),
        batch=batch,
    )
