"""Divergence of two models' next-token distributions, token by token, from their logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROWS_AT_ONCE = 32
"""With 262,144 entries in float32, 32 MiB for each of the four tables that are held at a time."""
LOWEST_LOG_PROBABILITY = -1e4
"""A token with probability 0 counts as this unlikely, so that sums stay finite."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Sums over compared tokens."""

    tokens: int
    kl_nats: float
    """KL(production ‖ candidate): production's expected surprise at the candidate's probabilities, beyond its own."""
    agreed: int
    """Tokens at which both models have the same most likely next token."""
    production_nll_nats: float
    """Negative log-likelihood of the text."""
    candidate_nll_nats: float


@dataclass(frozen=True, slots=True)
class Vocabularies:
    """Output columns of the two models that stand for the same token; None for the first `width` of both, in order."""

    width: int
    production: Any = None
    candidate: Any = None


def line_up(
    production: Mapping[str, int], candidate: Mapping[str, int], production_width: int, candidate_width: int
) -> Vocabularies:
    """Columns to compare: matched by the tokens' text where the vocabularies differ, else all that both have.

    Outputs are often padded to a round number of columns beyond the vocabulary, and models differ in that number.
    """
    import torch

    width = min(production_width, candidate_width)
    if dict(production) == dict(candidate):
        return Vocabularies(width)
    pairs = sorted((id, candidate[token]) for token, id in production.items() if token in candidate)
    pairs = [pair for pair in pairs if pair[0] < production_width and pair[1] < candidate_width]
    columns = torch.tensor([id for id, _ in pairs]), torch.tensor([id for _, id in pairs])
    return Vocabularies(len(pairs), *columns)


def diverge(production: Any, candidate: Any, targets: Any, vocabularies: Vocabularies) -> Divergence:
    """Compare logits.

    Args:
        production: (tokens, columns) logits in any float type.
        candidate: (tokens, columns) logits of the same positions.
        targets: (tokens,) production's ids of the text's next tokens.
        vocabularies: columns that stand for the same token.

    Raises:
        FloatingPointError: a logit is not a number; the message names the model.
    """
    tokens = len(targets)
    kl = production_nll = candidate_nll = 0.0
    agreed = 0
    for start in range(0, tokens, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        log_p = _log_probabilities(production[rows], vocabularies.production, vocabularies.width, "production")
        log_q = _log_probabilities(candidate[rows], vocabularies.candidate, vocabularies.width, "the candidate")
        columns = _columns(targets[rows].to(log_p.device), vocabularies)
        terms = log_p.exp() * (log_p - log_q)
        # Rounding may leave a sum of almost nothing below zero.
        kl += float(terms.sum(-1, dtype=_double()).clamp(min=0).sum())
        agreed += int((log_p.argmax(-1) == log_q.argmax(-1)).sum())
        production_nll -= float(log_p.gather(-1, columns).sum(dtype=_double()))
        candidate_nll -= float(log_q.gather(-1, columns).sum(dtype=_double()))
    return Divergence(tokens, kl, agreed, production_nll, candidate_nll)


def _log_probabilities(logits: Any, columns: Any, width: int, model: str) -> Any:
    import torch

    logits = logits[:, :width] if columns is None else logits[:, columns.to(logits.device)]
    log_probabilities = torch.log_softmax(logits.float(), dim=-1)
    if bool(log_probabilities.isnan().any()):
        raise FloatingPointError(f"{model} gives probabilities that are not numbers")
    return log_probabilities.clamp(min=LOWEST_LOG_PROBABILITY)


def _columns(targets: Any, vocabularies: Vocabularies) -> Any:
    import torch

    if vocabularies.production is None:
        return targets[:, None]
    # Sorted by production's ids, and every token of the text is in both vocabularies.
    return torch.searchsorted(vocabularies.production.to(targets.device), targets)[:, None]


def _double() -> Any:
    import torch

    return torch.float64
