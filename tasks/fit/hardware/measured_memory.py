"""Memory that an engine took, read from its log or its process, compared with the prediction.

Stored in `<home>/fit/reality/` by the artifact's digest, for the release's record.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.fit.rows import FitRow
from weighbridge.files import write_whole
from weighbridge.settings import load_settings

NUMBER = r"([\d.,]+)"
# Each term as vLLM (0.6 to 0.32) and llama.cpp log it; the last match counts.
PATTERNS: dict[str, tuple[str, ...]] = {
    "weights_gib": (rf"[Mm]odel loading took {NUMBER} ?Gi?B", rf"model weights take {NUMBER} ?GiB"),
    "kv_gib": (rf"[Aa]vailable KV cache memory: {NUMBER} ?GiB", rf"reserved for KV Cache is {NUMBER} ?GiB"),
    "kv_tokens": (rf"GPU KV cache size: {NUMBER} tokens", rf"CPU KV cache size: {NUMBER} tokens"),
    "max_concurrency": (rf"Maximum concurrency for [\d.,]+ tokens per request: {NUMBER}x",),
    "activation_gib": (
        rf"activation peak memory takes {NUMBER} ?GiB",
        rf"torch peak memory increase: {NUMBER} ?GiB",
    ),
    "non_torch_gib": (
        rf"non_torch_memory takes {NUMBER} ?GiB",
        rf"non-torch forward increase memory: {NUMBER} ?GiB",
    ),
    "cuda_graph_gib": (rf"Graph capturing finished in \d+ secs, took {NUMBER} GiB",),
}
# llama.cpp logs a line for each device and buffer, in MiB; they are summed.
SUMS = {
    "weights_gib": rf"(?:CUDA\d+|ROCm\d+|Metal) model buffer size = +{NUMBER} MiB",
    "kv_gib": rf"(?:CUDA\d+|ROCm\d+|Metal) KV buffer size = +{NUMBER} MiB",
    "activation_gib": rf"(?:CUDA\d+|ROCm\d+|Metal) compute buffer size = +{NUMBER} MiB",
}


class Deviation(BaseModel):
    """One term, predicted and measured."""

    model_config = ConfigDict(frozen=True)

    term: str
    """Field name in `FitRow`."""
    predicted: float
    measured: float

    @property
    def words(self) -> str:
        """The term and its measured value as a reader has them: `weights 14.99 GiB`, `KV cache tokens 131,072`."""
        if self.term.endswith("_gib"):
            name, value = self.term.removesuffix("_gib"), f"{self.measured:,.2f} GiB"
        else:
            name, value = self.term, f"{self.measured:,.0f}" if self.measured >= 100 else f"{self.measured:,.1f}"
        return f"{name.replace('_', ' ').replace('kv', 'KV cache').replace('cuda', 'CUDA')} {value}"

    @property
    def share(self) -> float:
        """Relative deviation, (measured - predicted) / predicted; 0 if nothing was predicted."""
        return self.measured / self.predicted - 1 if self.predicted else 0.0


class MeasuredMemory(BaseModel):
    """Terms measured at one start of an engine."""

    model_config = ConfigDict(frozen=True)

    gpu: str
    engine: str
    """Name and version."""
    deviations: tuple[Deviation, ...]

    @property
    def sentence(self) -> str:
        """All deviations in one sentence."""
        terms = ", ".join(
            f"{term.words} measured, {term.predicted:,.2f} predicted ({term.share:+.1%})" for term in self.deviations
        )
        return f"{self.engine} on {self.gpu}: {terms}"


def read_log(text: str) -> dict[str, float]:
    """Extract the memory terms from an engine's log, by field name of `FitRow`; empty if it has none.

    Args:
        text: the log; after several starts the last one counts.
    """
    found = {}
    for term, patterns in PATTERNS.items():
        hits = [match for pattern in patterns for match in re.findall(pattern, text)]
        if hits:
            found[term] = float(hits[-1].replace(",", "").rstrip("."))
    for term, pattern in SUMS.items():
        hits = re.findall(pattern, text)
        if hits and term not in found:
            found[term] = sum(float(hit.replace(",", "")) for hit in hits) / 1024
    return found


def compare_with_plan(row: FitRow, engine: str, measured: dict[str, float]) -> MeasuredMemory | None:
    """Compare measured terms with a row; None if nothing was measured.

    Args:
        row: the prediction for the GPU that it ran on.
        engine: with its version.
        measured: from `read_log`, or `total_gib` of a process.
    """
    deviations = tuple(
        Deviation(term=term, predicted=float(getattr(row, term)), measured=value) for term, value in measured.items()
    )
    return MeasuredMemory(gpu=row.gpu, engine=engine, deviations=deviations) if deviations else None


def write_measurement(artifact_digest: str, measured_memory: MeasuredMemory) -> None:
    """Store the measured memory of an artifact's engine."""
    write_whole(_path(artifact_digest), json.dumps(measured_memory.model_dump(), indent=1))


def read_measurement(artifact_digest: str) -> MeasuredMemory | None:
    """Read the memory that an artifact's engine took at its last start; None if it is unknown, or damaged."""
    try:
        return MeasuredMemory.model_validate_json(_path(artifact_digest).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _path(artifact_digest: str) -> Path:
    return load_settings().home / "fit" / "reality" / f"{artifact_digest}.json"
