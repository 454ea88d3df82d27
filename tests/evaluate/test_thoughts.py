"""What a model thinks is no answer: every family's markers, every way to leave a thought unfinished."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.evaluate.scoring.completion import Completion, thought_tokens_of, trouble_of
from tasks.evaluate.scoring.model_thoughts import read_thoughts, thoughts_of
from tasks.evaluate.scoring.scores import ItemScore, SuiteScores
from tasks.evaluate.suites.assertions import Answer
from tasks.evaluate.suites.suite import Question
from tasks.evaluate.suites.thoughts import FAMILIES, part
from tasks.evaluate.verdict.comparable import think_unlike

BANANA = "banana"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_thought_is_taken_out(family: str) -> None:
    known = FAMILIES[family]
    parted = part(f"{known.opening}\nmaybe Paris … no\n{known.closing}\n\n{BANANA}")
    assert (parted.answer, parted.thought) == (BANANA, "maybe Paris … no")
    cut = part(f"{known.opening}\nmaybe Paris")
    assert (cut.answer, cut.unfinished) == ("", True)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Okay, Paris?\n</think>\nbanana", BANANA),  # the template began the thought
        ("a</think>b</think>banana", BANANA),
        ("<think>a<think>Paris</think>b</think>banana", BANANA),
        ("<think>a</think>ba<think>Paris</think>nana", BANANA),
        ("<think></think>banana", BANANA),
        ("<THINK>Paris</Think>banana", BANANA),
        ("banana<think>Paris</think>", BANANA),
        ('<think>{"name": "call"}<tool_call>Paris</tool_call></think>banana', BANANA),
        ("<think>Paris</think><answer>banana</answer>", BANANA),
        ("<|channel|>analysis<|message|>Paris<|end|><|start|>assistant"
         "<|channel|>final<|message|>banana<|return|>", BANANA),
        ("<|channel|>analysis<|message|>Paris<|end|><|start|>assistant<|channel|>commentary to=functions.f "
         "<|constrain|>json<|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>banana", BANANA),
        ("analysisWe think Paris.assistantfinalbanana", BANANA),
        ("Write `<think>` and `</think>` around it.", "Write `<think>` and `</think>` around it."),
        ("analysis of the data", "analysis of the data"),
        ("Put it in <thinking> tags.", "Put it in <thinking> tags."),
        ("  as it stands\n", "  as it stands\n"),
    ],
)  # fmt: skip
def test_what_follows_the_thought_is_the_answer(text: str, answer: str) -> None:
    parted = part(text)
    assert (parted.answer, parted.unfinished) == (answer, False)


@pytest.mark.parametrize(
    "text",
    [
        "<think>Paris",
        "<think>a<think>Paris</think>b",
        "<think>a</think>Paris<think>no",
        "Paris<think>",
        "<|channel|>analysis<|message|>Paris",
        "<|channel|>anal",
        "analysisWe think Paris",
    ],
)
def test_a_thought_that_never_ends_is_no_answer(text: str) -> None:
    assert part(text).unfinished and part(text).answer == ""


def test_a_suite_has_the_last_word_on_markers() -> None:
    assert part("((Paris)) banana", ("((", "))")).answer == BANANA
    assert part("<think>Paris</think>banana", ()).answer == "<think>Paris</think>banana"


def test_family_and_prompt_are_read_from_template_and_tokenizer() -> None:
    turns = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    ends = turns + "{% if add_generation_prompt %}<|a|><think>\n{% endif %}{# </think> #}"
    assert read_thoughts(thoughts_of(ends, {})) == ("think", True)
    both = turns + "{% if add_generation_prompt %}<|a|><think>\n\n</think>\n\n{% endif %}"
    assert read_thoughts(thoughts_of(both, {})) == ("think", False)
    added = {"added_tokens_decoder": {"7": {"content": "</thinking>"}}}
    assert thoughts_of(turns, added) == "thinking"
    assert thoughts_of("{% broken", {}) == "none" == thoughts_of("", {})
    assert part("Okay, Paris", family="think", opened_by_prompt=True).unfinished
    assert part("<think>\nParis</think>banana", family="think", opened_by_prompt=True).answer == BANANA
    assert part("I say <thinking>Paris</thinking>", family="thinking").answer == "I say"


def choice(content: object, finish: str | None = "stop", **more: object) -> dict[str, Any]:
    return {"message": {"content": content, **more}, "finish_reason": finish}


@pytest.mark.parametrize(
    "message",
    [
        choice("<think>Paris</think>banana"),
        choice(BANANA, reasoning_content="Paris"),
        choice(BANANA, reasoning="Paris", reasoning_content="Paris"),
        choice([{"type": "thinking", "thinking": [{"type": "text", "text": "Paris"}]},
                {"type": "text", "text": BANANA}]),
    ],
)  # fmt: skip
def test_wherever_the_thought_stands_the_answer_alone_is_graded(message: dict[str, Any]) -> None:
    answer = Answer.from_choice(message, 0.1)
    assert (answer.shown, answer.thought) == (BANANA, "Paris")


QUESTION = Question.model_validate(
    {"id": "q", "messages": [{"role": "user", "content": "?"}], "max_tokens": 20, "thinking_tokens": 100,
     "assert": [{"type": "not-contains", "value": "x"}]}
)  # fmt: skip
BEGINNING = QUESTION.model_copy(update={"may_be_cut": True})


@pytest.mark.parametrize(
    ("question", "message", "usage", "trouble"),
    [
        (QUESTION, choice("Paris"), {"completion_tokens": 3}, ""),
        (QUESTION, choice("Paris"), None, ""),
        (QUESTION, choice("Paris"), {"completion_tokens": 120}, ""),
        (QUESTION, choice("Paris", "length"), None, "truncated"),
        (QUESTION, choice("Paris", "length"), {"completion_tokens": 120}, "truncated"),
        (QUESTION, choice("Paris", "length"), {"completion_tokens": 0}, "truncated"),
        (QUESTION, choice("Paris", "max_tokens"), None, "truncated"),
        (QUESTION, choice("Paris", "MAX_TOKENS"), None, "truncated"),
        (QUESTION, choice("Paris", None), {"completion_tokens": 120}, "truncated"),
        (QUESTION, choice("Paris", None), {"completion_tokens": 3}, ""),
        (QUESTION, choice("Paris", None), None, "unknown end"),
        (QUESTION, choice("Paris " * 99, None), {"completion_tokens": 1}, "unknown end"),
        (QUESTION, choice("", "stop", reasoning_content="Paris"), None, "empty"),
        (QUESTION, choice(None, "length", reasoning_content="Paris"), None, "unfinished thought"),
        (QUESTION, choice("<think>Paris", "stop"), None, "unfinished thought"),
        (QUESTION, choice("<think>Paris</think>", "length"), None, "unfinished thought"),
        (BEGINNING, choice("Paris", "length"), {"completion_tokens": 120}, ""),
        (BEGINNING, choice("Paris", "length"), None, ""),
        (BEGINNING, choice("Paris", "length"), {"completion_tokens": 5}, "truncated"),
        (BEGINNING, choice("<think>Paris", "length"), {"completion_tokens": 120}, "unfinished thought"),
    ],
)
def test_an_answer_that_did_not_end_is_seen(
    question: Question, message: dict[str, Any], usage: dict[str, int] | None, trouble: str
) -> None:
    completion = Completion.model_validate({"choices": [message], "usage": usage})
    assert trouble_of(question, Answer.from_choice(message, 0.1), completion) == trouble


def test_thought_and_answer_have_a_budget_each() -> None:
    assert QUESTION.request["max_tokens"] == 120
    message = choice("ok", reasoning_content="long" * 10)
    counted = Completion.model_validate({"choices": [message], "usage": {"completion_tokens": 42}})
    assert thought_tokens_of(counted, Answer.from_choice(message, 0.1)) == 40


def test_a_call_inside_an_unfinished_thought_is_no_call() -> None:
    call = {"function": {"name": "f", "arguments": "{}"}}
    assert Answer.from_choice(choice("<think>I could", tool_calls=[call]), 0.1).tool_calls == ()
    assert Answer.from_choice(choice("<think>so</think>", tool_calls=[call]), 0.1).tool_calls != ()


def scores(thinks: list[bool]) -> SuiteScores:
    items = tuple(ItemScore(id=str(number), score=1.0, thinks=value) for number, value in enumerate(thinks))
    return SuiteScores(suite="regression/x", suite_digest="s", artifact_digest="a", scorer="x", items=items, seconds=1)


def test_two_models_must_think_alike() -> None:
    never, always = scores([False] * 40), scores([True] * 40)
    assert "100%" in think_unlike(always, never) and "0%" in think_unlike(never, always)
    assert think_unlike(always, always) == "" == think_unlike(scores([True] * 38 + [False] * 2), always)
    assert think_unlike(scores([True] * 6), scores([False] * 6)) == "", "six items may differ by chance"


def test_models_that_think_equally_often_are_hardly_ever_called_unlike() -> None:
    import numpy as np

    random = np.random.default_rng(18)
    draws = [scores((random.random(60) < 0.5).tolist()) for _ in range(600)]
    assert sum(think_unlike(a, b) != "" for a, b in zip(draws[::2], draws[1::2])) <= 2
