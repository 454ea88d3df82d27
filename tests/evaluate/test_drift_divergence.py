import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.evaluate.drift.divergence import Vocabularies, diverge, line_up

LOGITS = st.lists(st.lists(st.floats(-30, 30, width=32), min_size=6, max_size=6), min_size=1, max_size=5)


@settings(deadline=None)
@given(LOGITS, LOGITS)
def test_a_divergence_is_never_negative_and_zero_between_equals(
    first: list[list[float]], second: list[list[float]]
) -> None:
    import torch

    rows = min(len(first), len(second))
    production, candidate = torch.tensor(first[:rows]), torch.tensor(second[:rows])
    targets = torch.zeros(rows, dtype=torch.long)
    assert diverge(production, candidate, targets, Vocabularies(6)).kl_nats >= 0
    equal = diverge(production, production, targets, Vocabularies(6))
    assert equal.kl_nats == 0 and equal.agreed == rows


def test_padding_is_left_out_and_columns_follow_the_tokens() -> None:
    import torch

    words, exchanged = {"a": 0, "b": 1, "c": 2}, {"a": 0, "c": 1, "b": 2}
    production, candidate = torch.tensor([[1.0, 2.0, 3.0, 9.0]]), torch.tensor([[1.0, 3.0, 2.0]])
    columns = line_up(words, exchanged, 4, 3)
    found = diverge(production, candidate, torch.tensor([1]), columns)
    assert found.kl_nats == 0 and found.agreed == 1
    assert found.production_nll_nats == pytest.approx(found.candidate_nll_nats)
    assert line_up(words, words, 4, 3) == Vocabularies(3)
    ruled_out = torch.tensor([[1.0, float("-inf"), 2.0]])
    assert 0 < diverge(production[:, :3], ruled_out, torch.tensor([0]), Vocabularies(3)).kl_nats < float("inf")
