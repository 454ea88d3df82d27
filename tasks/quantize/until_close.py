"""Quantize by the cheapest method first, and by costlier ones while the result is too far from its release."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from registry.store import Artifact
from weighbridge.errors import (
    CalibrationInvalid,
    MemoryShort,
    QuantizationFailed,
    QuantizationInterrupted,
    QuantizationUncovered,
)


class DriftFinding(Protocol):
    """The part of a drift report that decides here; a later stage defines the report."""

    @property
    def outcome(self) -> str:
        """`non_inferior` where the artifact is close enough to its release."""

    @property
    def sentence(self) -> str:
        """The report in one sentence."""

    @property
    def kl_nats(self) -> float | None:
        """KL divergence from the release on held text, nats a token; None where it was not measured."""


D = TypeVar("D", bound=DriftFinding)


class Attempt(BaseModel):
    """One method that was tried for a scheme, and how far its artifact is from the release."""

    model_config = ConfigDict(frozen=True)

    method: str
    digest: str
    """Of the artifact; empty where the method failed."""
    outcome: str
    """Of the drift check: `non_inferior` ended the search; `failed` where the method gave no artifact."""
    sentence: str
    kl_nats: float | None = None
    """KL divergence from the release on held text, nats a token."""


class Quantized(NamedTuple, Generic[D]):
    """A scheme's chosen artifact, and how it was chosen."""

    artifact: Artifact
    drift: D | None
    """Its drift report; None for the release as published."""
    attempts: tuple[Attempt, ...]
    """In the order of trial; empty for the release as published."""


def quantize_until_close(
    weights: Artifact,
    methods: Sequence[str],
    *,
    quantize: Callable[[str], Artifact],
    check_drift: Callable[[Artifact], D],
    minutes: float,
    report: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Quantized[D]:
    """Try methods from the cheapest up until one gives an artifact that is close enough to its release.

    A method that fails is passed over where another gives an artifact.

    Args:
        weights: the release as published.
        methods: to try, from the cheapest up; at least one.
        quantize: makes the artifact by the named method.
        check_drift: compares an artifact with the release.
        minutes: after this long no further method is started.
        report: receives one sentence when time ends the search.
        clock: seconds, monotonic.

    Returns:
        The first artifact that is close enough; the closest by KL divergence where none is.

    Raises:
        QuantizationFailed, QuantizationUncovered, CalibrationInvalid, MemoryShort: no method gives an artifact; the
            last method's error.
        QuantizationInterrupted: the process was killed; the next run continues this method's work.
    """
    started, candidates = clock(), list[tuple[Artifact, D]]()
    attempts, failure = list[Attempt](), None
    for method in methods:
        if attempts and clock() - started > 60 * minutes:
            report(f"{method} is not tried: the {minutes:g} minutes for trying methods are over.")
            break
        try:
            artifact = quantize(method)
        except QuantizationInterrupted:
            # The process was stopped: the next run continues this method, and no other method may replace it.
            raise
        except (QuantizationFailed, QuantizationUncovered, CalibrationInvalid, MemoryShort) as error:
            failure = error
            attempts.append(Attempt(method=method, digest="", outcome="failed", sentence=error.what))
            continue
        if artifact == weights:
            return Quantized(artifact, None, ())
        drift = check_drift(artifact)
        attempts.append(_attempt(method, artifact, drift))
        candidates.append((artifact, drift))
        if drift.outcome == "non_inferior":
            return Quantized(artifact, drift, tuple(attempts))
    if not candidates:
        assert failure is not None
        raise failure
    artifact, drift = min(candidates, key=lambda pair: math.inf if pair[1].kl_nats is None else pair[1].kl_nats)
    return Quantized(artifact, drift, tuple(attempts))


def _attempt(method: str, artifact: Artifact, drift: DriftFinding) -> Attempt:
    return Attempt(
        method=method, digest=artifact.digest, outcome=drift.outcome, sentence=drift.sentence, kl_nats=drift.kl_nats
    )
