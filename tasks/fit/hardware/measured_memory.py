"""What an engine really took, read from its own log or its process, beside what was predicted.

Kept in `<home>/fit/reality/` by the artifact's digest, for the release's record.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.fit.rows import FitRow
from weighbridge.files import write_whole
from weighbridge.settings import load_settings

NUMBER = r"([\d.,]+)"
# Term: what vLLM (0.6 to 0.32) and llama.cpp write about it; the last mention counts.
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
# llama.cpp writes one line a device and buffer, in MiB; they add up.
SUMS = {
    "weights_gib": rf"(?:CUDA\d+|ROCm\d+|Metal) model buffer size = +{NUMBER} MiB",
    "kv_gib": rf"(?:CUDA\d+|ROCm\d+|Metal) KV buffer size = +{NUMBER} MiB",
    "activation_gib": rf"(?:CUDA\d+|ROCm\d+|Metal) compute buffer size = +{NUMBER} MiB",
}


class Deviation(BaseModel):
    """One term, predicted and measured."""

    model_config = ConfigDict(frozen=True)

    term: str
    """As the field of `FitRow`."""
    predicted: float
    measured: float

    @property
    def share(self) -> float:
        """How much more was measured than predicted, of the prediction; 0 where nothing was predicted."""
        return self.measured / self.predicted - 1 if self.predicted else 0.0


class Reality(BaseModel):
    """All terms that one start of an engine told."""

    model_config = ConfigDict(frozen=True)

    gpu: str
    engine: str
    """With its version."""
    deviations: tuple[Deviation, ...]

    @property
    def sentence(self) -> str:
        """For a reader."""
        terms = ", ".join(
            f"{one.term} {one.measured:,.2f} measured, {one.predicted:,.2f} predicted ({one.share:+.1%})"
            for one in self.deviations
        )
        return f"{self.engine} on {self.gpu}: {terms}"


def read_log(text: str) -> dict[str, float]:
    """The terms that an engine's log tells, by the names of `FitRow`; empty where it tells none.

    Args:
        text: the log; of several starts the last counts.
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


def compare(row: FitRow, engine: str, measured: dict[str, float]) -> Reality | None:
    """Hold what was measured against a row; None where nothing was.

    Args:
        row: the prediction for the GPU that it ran on.
        engine: with its version.
        measured: from `read_log`, or of a process: `total_gib`.
    """
    deviations = tuple(
        Deviation(term=term, predicted=float(getattr(row, term)), measured=value) for term, value in measured.items()
    )
    return Reality(gpu=row.gpu, engine=engine, deviations=deviations) if deviations else None


def keep(artifact_digest: str, reality: Reality) -> None:
    """Write down what an artifact's engine took."""
    write_whole(_path(artifact_digest), json.dumps(reality.model_dump(), indent=1))


def kept(artifact_digest: str) -> Reality | None:
    """What an artifact's engine took the last time that it was started, or None."""
    path = _path(artifact_digest)
    return Reality.model_validate_json(path.read_bytes()) if path.is_file() else None


def _path(artifact_digest: str) -> Path:
    return load_settings().home / "fit" / "reality" / f"{artifact_digest}.json"
