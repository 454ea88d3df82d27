"""The prompts of the parity gate, without a model: words stand in for tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.engines import engine, engine_names
from tasks.evaluate.drift.held_out import held_documents
from tasks.serve.parity.measure import mean_difference, regret
from tasks.serve.parity.probes import LONG_SHARES, digest, longest_prompt, questions
from tasks.serve.parity.reference_job import Choice

DOCUMENTS = held_documents()


def words(text: str) -> int:
    return len(text.split())


@given(st.integers(16, 6000))
def test_every_prompt_fits(longest: int) -> None:
    prompts = questions(DOCUMENTS, longest, words)
    assert all(words(prompt.text) <= longest for prompt in prompts)
    assert all(prompt.text == prompt.text.rstrip() for prompt in prompts), "the next token begins with its own space"
    assert len({(prompt.kind, prompt.name) for prompt in prompts}) == len(prompts)


def test_pages_recall_their_first_lines_at_full_length() -> None:
    pages = [prompt for prompt in questions(DOCUMENTS, 2000, words) if prompt.kind == "long"]
    assert len(pages) == 2 * len(LONG_SHARES)
    for page in pages:
        question = page.text.rsplit(". ", 1)[-1].rsplit("\n", 1)[-1]
        assert question.startswith("The password of the ")
        first = page.text.index(question)
        assert first < 600, "the answer stands at the beginning"
        assert len(page.text) - first > 4000, "and far from the question"
    assert max(words(prompt.text) for prompt in pages) > 1900


def test_a_prompt_leaves_tokens_for_its_answer() -> None:
    assert longest_prompt(2048, 8192) < 2048
    assert longest_prompt(8192, 2048) < 2048
    assert longest_prompt(8192, None) < 8192
    assert longest_prompt(16, None) == 8


def test_the_digest_depends_on_texts_and_context() -> None:
    assert digest(DOCUMENTS, 2048) == digest(DOCUMENTS, 2048)
    assert digest(DOCUMENTS, 2048) != digest(DOCUMENTS, 4096)
    assert digest(DOCUMENTS, 2048) != digest(DOCUMENTS[1:], 2048)


def test_every_engine_declares_its_gauges() -> None:
    assert all(engine(name).top_log_probabilities >= 0 for name in engine_names())


CHOICES = tuple(
    Choice(text=text, log_probability=value, hidden=hidden)
    for text, value, hidden in (
        (" Paris", -0.5, False),
        ("Paris", -1.5, False),
        ("<|im_end|>", -2.0, True),
        ("\N{REPLACEMENT CHARACTER}", -3.0, False),
        (" the", -4.0, False),
    )
)


def test_regret_is_the_loss_of_log_probability() -> None:
    assert regret(CHOICES, " Paris") == 0
    assert regret(CHOICES, "Paris") == 1
    assert regret(CHOICES[:1] + CHOICES[2:], "Paris") == 0, "some engines drop the space"
    assert regret(CHOICES, "") == 1.5, "special tokens and half letters are not shown"
    assert regret(CHOICES, " London") == 3.5, "as unlikely as the last kept choice"


def test_unreported_tokens_count_as_the_least_likely_reported() -> None:
    reported = {choice.text: choice.log_probability for choice in CHOICES}
    assert mean_difference(CHOICES, reported) == 0
    assert mean_difference(CHOICES, {"Paris": -1.5, " Paris": -0.5}) < 1e-9
    assert mean_difference(CHOICES, {" London": -0.1, " Rome": -3.0}) > 1
    assert 0 < mean_difference(CHOICES, {**reported, " Paris": -0.6}) < 0.1
