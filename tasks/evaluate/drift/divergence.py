"""Two models' next-token distributions, token by token: numbers only, no models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROWS_AT_ONCE = 32
"""Of 262,144 entries in float32: 32 MiB for each of the four tables that are held at a time."""
LOWEST_LOG_PROBABILITY = -1e4
"""A token that a model rules out altogether counts as this unlikely, for sums to stay numbers."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Sums over compared tokens."""

    tokens: int
    kl_nats: float
    """KL(production ‖ candidate): production's expected surprise at the candidate's probabilities, beyond its own."""
    agreed: int
    """Tokens at which both think the same next token most likely."""
    production_nll_nats: float
    """Negative log-likelihood of the text."""
    candidate_nll_nats: float


@dataclass(frozen=True, slots=True)
class Vocabularies:
    """Which columns of two models' outputs stand for the same token; None: the first `width` of both, in order."""

    width: int
    production: Any = None
    candidate: Any = None


def line_up(
    production: Mapping[str, int], candidate: Mapping[str, int], production_width: int, candidate_width: int
) -> Vocabularies:
    """Columns to compare: by the tokens' text where the vocabularies differ, else all that both have.

    Outputs are often padded to a round number of columns beyond the vocabulary, and not by everybody to the same.
    """
    import torch

    width = min(production_width, candidate_width)
    if dict(production) == dict(candidate):
        return Vocabularies(width)
    pairs = sorted((id, candidate[token]) for token, id in production.items() if token in candidate)
    pairs = [pair for pair in pairs if pair[0] < production_width and pair[1] < candidate_width]
    ours, theirs = torch.tensor([id for id, _ in pairs]), torch.tensor([id for _, id in pairs])
    return Vocabularies(len(pairs), ours, theirs)


def diverge(production: Any, candidate: Any, targets: Any, vocabularies: Vocabularies) -> Divergence:
    """Compare logits.

    Args:
        production, candidate: (tokens, columns) logits in any float type, of the same positions.
        targets: (tokens,) production's ids of the tokens that really come next.
        vocabularies: which columns stand for the same token.

    Raises:
        FloatingPointError: a logit is no number, of the model named.
    """
    tokens = len(targets)
    kl = production_nll = candidate_nll = 0.0
    agreed = 0
    for start in range(0, tokens, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        theirs = _log_probabilities(production[rows], vocabularies.production, vocabularies.width, "production")
        ours = _log_probabilities(candidate[rows], vocabularies.candidate, vocabularies.width, "the candidate")
        columns = _columns(targets[rows].to(theirs.device), vocabularies)
        terms = theirs.exp() * (theirs - ours)
        # Rounding may leave a sum of almost nothing below zero.
        kl += float(terms.sum(-1, dtype=_double()).clamp(min=0).sum())
        agreed += int((theirs.argmax(-1) == ours.argmax(-1)).sum())
        production_nll -= float(theirs.gather(-1, columns).sum(dtype=_double()))
        candidate_nll -= float(ours.gather(-1, columns).sum(dtype=_double()))
    return Divergence(tokens, kl, agreed, production_nll, candidate_nll)


def _log_probabilities(logits: Any, columns: Any, width: int, who: str) -> Any:
    import torch

    logits = logits[:, :width] if columns is None else logits[:, columns.to(logits.device)]
    found = torch.log_softmax(logits.float(), dim=-1)
    if bool(found.isnan().any()):
        raise FloatingPointError(f"{who} gives probabilities that are no numbers")
    return found.clamp(min=LOWEST_LOG_PROBABILITY)


def _columns(targets: Any, vocabularies: Vocabularies) -> Any:
    import torch

    if vocabularies.production is None:
        return targets[:, None]
    # Sorted by production's ids, and every token of the text is in both vocabularies.
    return torch.searchsorted(vocabularies.production.to(targets.device), targets)[:, None]


def _double() -> Any:
    import torch

    return torch.float64
