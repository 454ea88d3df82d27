"""Assertions: each kind and its negation, refused specs, grading, and kinds added from one file or a plug-in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.evaluate.suites.assertions import (
    Answer,
    Assertion,
    AssertionRefused,
    Grade,
    assertion_kinds,
    assertions_version,
    grade,
)
from tasks.evaluate.suites.assertions import kinds as kinds_package
from tasks.evaluate.suites.assertions.kinds.refusal import PHRASES, is_refusal
from tasks.evaluate.suites.assertions.kinds.texts import levenshtein_distance
from weighbridge.errors import PluginInvalid

PERSON = {"type": "object", "required": ["age"], "properties": {"age": {"type": "integer"}}}


def holds(type: str, answer: str, value: Any = None, threshold: float | None = None, latency_ms: float = 0) -> bool:
    return not Assertion(type=type, value=value, threshold=threshold).failure(answer, latency_ms)


@pytest.mark.parametrize(
    ("type", "value", "right", "wrong"),
    [
        ("equals", "Paris", "Paris", "Paris."),
        ("equals", {"a": 1}, '{"a":1}', '{"a":2}'),
        ("equals", {"a": 1}, '{"a": 1}', "a is 1"),
        ("equals", {"a": 1}, '{"a": 1}', '{"a": true}'),
        ("equals", [1, {"b": None}], '[1, {"b": null}]', "[1]"),
        ("equals", 4, "4", "4.0"),
        ("equals", True, "true", "True"),
        ("contains", 30, "in 30 days", "in 3 days"),
        ("contains", "Paris", "It is Paris.", "It is paris."),
        ("contains-all", ["a", "b"], "b a", "a"),
        ("contains-all", "red, blue", "blue and red", "red"),
        ("contains-any", ["cat", "dog"], "a dog", "a Dog"),
        ("contains-any", '"3,50 EUR", free', "it is 3,50 EUR", "it is 3 EUR"),
        ("contains-all", [1, "b"], "b1", "b"),
        ("icontains", "Paris", "it is PARIS", "it is Rome"),
        ("icontains-all", ["One", "two"], "ONE, Two", "one"),
        ("icontains-any", "seven, 7", "Seven days", "six days"),
        ("starts-with", "Yes", "Yes, it is", "Well, yes"),
        ("regex", r"\b\d{3}\b", "room 101", "room 1010"),
        ("is-json", None, '{"a": [1]}', 'Here: {"a": [1]}'),
        ("is-json", PERSON, '{"age": 3}', '{"age": "three"}'),
        ("is-json", None, "[1]", "[NaN]"),
        ("is-json", {"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, "3", '"3"'),
        ("contains-json", None, 'Here: {"a": 1}.', "Here: {a: 1}"),
        ("contains-json", PERSON, 'First [1], then {"age": 3}', 'Here: {"name": 3}'),
        ("levenshtein", "Paris, France", "Paris; France", "London, England"),
        ("word-count", 3, "one two three", "one two"),
        ("word-count", {"min": 2, "max": 3}, "one two", "one two three four"),
        ("word-count", "2", "one two", "one"),
        ("is-refusal", None, "I’m sorry, but I can’t help with that.", "You have 30 days."),
        ("bleu", "The cat sat on the mat", "the cat sat on the mat", "a dog ran under a tree today"),
        ("bleu", ["Hello there", "Paris"], "paris", "London it is"),
    ],
)
def test_each_assertion_and_its_negation(type: str, value: Any, right: str, wrong: str) -> None:
    assert holds(type, right, value)
    assert not holds(type, wrong, value)
    assert not holds(f"not-{type}", right, value)
    assert holds(f"not-{type}", wrong, value)


def test_latency_is_in_milliseconds() -> None:
    assert holds("latency", "x", threshold=200, latency_ms=199)
    assert not holds("latency", "x", threshold=200, latency_ms=201)
    assert holds("not-latency", "x", threshold=200, latency_ms=201)


def test_levenshtein_threshold_counts_edits() -> None:
    assert holds("levenshtein", "kitten", "sitting", threshold=3)
    assert not holds("levenshtein", "kitten", "sitting", threshold=2)
    assert holds("levenshtein", "same", "same", threshold=0)


def test_a_failure_names_the_assertion() -> None:
    assert Assertion(type="icontains-any", value=["sieben", "7"]).failure("six", 0) == 'icontains-any ["sieben", "7"]'


@pytest.mark.parametrize(
    ("type", "alternative"),
    [
        ("javascript", "regex"),
        ("python", "is-json"),
        ("not-llm-rubric", "icontains-any"),
        ("similar:dot", "local:chrf"),
        ("rouge-n", "bleu"),
        ("is-sql", "regex"),
        ("cost", "latency"),
        ("trace-span-count", "tool-call-f1"),
        ("perplexity", "Log-prob"),
        ("context-recall", "judge"),
        ("containz", "contains"),
        ("", "contains"),
    ],
)
def test_an_unsupported_assertion_is_refused_with_an_alternative(type: str, alternative: str) -> None:
    with pytest.raises(AssertionRefused) as caught:
        Assertion(type=type, value="x")
    assert repr(type) in caught.value.what
    assert alternative in caught.value.next_step


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "contains"},
        {"type": "contains", "value": ""},
        {"type": "contains", "value": True},
        {"type": "contains-any", "value": ["a", ""]},
        {"type": "not-equals"},
        {"type": "contains-all", "value": []},
        {"type": "icontains-any", "value": 5},
        {"type": "regex", "value": "("},
        {"type": "is-json", "value": {"type": "no such type"}},
        {"type": "is-json", "value": 3},
        {"type": "latency"},
        {"type": "word-count", "value": "three"},
        {"type": "word-count", "value": {"most": 3}},
        {"type": "word-count", "value": {"min": 3, "max": 2}},
        {"type": "is-json", "value": {"$ref": "http://example.com/schema.json"}},
        {"type": "is-json", "value": {"$ref": "#/$defs/gone"}},
        {"type": "similar", "value": "x", "threshold": 0.8},
        {"type": "similar", "value": "x", "provider": "local:chrf"},
        {"type": "similar", "value": "x", "provider": "openai:embedding", "threshold": 0.8},
        {"type": "contains", "value": "x", "provider": "local:chrf"},
        {"type": "bleu", "value": "x", "threshold": 80},
        {"type": "tool-call-f1"},
        {"type": "finish-reason", "value": "tired"},
        {"type": "is-valid-openai-tools-call", "value": {"type": "object"}},
        {"type": "assert-set", "assert": []},
        {"type": "assert-set", "assert": [{"type": "contains", "value": "x"}], "threshold": 2},
        {"type": "contains", "value": "x", "assert": [{"type": "contains", "value": "y"}]},
    ],
)
def test_an_assertion_that_cannot_decide_is_refused_when_it_is_read(spec: dict[str, Any]) -> None:
    with pytest.raises(AssertionRefused):
        Assertion.model_validate(spec)


def test_promptfoos_deterministic_kinds_are_supported() -> None:
    assert {"equals", "contains", "icontains", "regex", "is-json", "contains-json", "latency", "starts-with"} <= set(
        assertion_kinds()
    )


SCHEMA = {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}}
LOOKUP = {"type": "function", "function": {"name": "lookup", "parameters": SCHEMA}}


def called(*calls: tuple[str, str]) -> Answer:
    """An answer that calls tools, as an OpenAI-compatible engine returns it."""
    tool_calls = [{"type": "function", "function": {"name": name, "arguments": arguments}} for name, arguments in calls]
    content = None if calls else "I call nothing."
    choice = {"message": {"content": content, "tool_calls": tool_calls}, "finish_reason": "tool_calls"}
    return Answer.from_choice(choice, 0.25).model_copy(update={"tools": (LOOKUP,)})


@pytest.mark.parametrize(
    ("calls", "valid"),
    [
        ([("lookup", '{"id": 3}')], True),
        ([("lookup", '{"id": 3}'), ("lookup", '{"id": 4}')], True),
        ([("lookup", '{"id": "3"}')], False),
        ([("lookup", '{"id": 3')], False),
        ([("lookup", "{}")], False),
        ([("delete", '{"id": 3}')], False),
        ([("lookup", '{"id": 3}'), ("delete", "{}")], False),
        ([], False),
    ],
)
@pytest.mark.parametrize("kind", ["is-valid-openai-tools-call", "is-valid-function-call"])
def test_tool_calls_must_be_of_an_offered_tool_and_fit_its_schema(
    kind: str, calls: list[tuple[str, str]], valid: bool
) -> None:
    assert bool(Assertion(type=kind).failure(called(*calls))) is not valid
    assert bool(Assertion(type=f"not-{kind}").failure(called(*calls))) is valid


@pytest.mark.parametrize(
    ("names", "threshold", "right"),
    [(["lookup"], None, True), (["lookup", "book"], None, False), ("lookup, book", 0.6, True), (["book"], 0.1, False)],
)
def test_tool_call_f1_compares_names(names: Any, threshold: float | None, right: bool) -> None:
    assertion = Assertion(type="tool-call-f1", value=names, threshold=threshold)
    assert bool(assertion.failure(called(("lookup", "{}"), ("lookup", "{}")))) is not right


def test_an_answer_keeps_latency_finish_reason_and_tool_calls() -> None:
    answer = called(("lookup", '{"id": 3}'))
    assert not Assertion(type="latency", threshold=250).failure(answer)
    assert Assertion(type="latency", threshold=249).failure(answer)
    assert not Assertion(type="finish-reason", value="tool_calls").failure(answer)
    assert not Assertion(type="contains", value="lookup").failure(answer)  # as promptfoo shows tool calls
    assert Assertion(type="is-refusal").failure(answer)


def test_the_engines_own_refusal_counts() -> None:
    refused = Answer.from_choice({"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}, 0.1)
    assert not Assertion(type="is-refusal").failure(refused)


@pytest.mark.parametrize("message", [{}, {"content": None}, {"content": None, "tool_calls": []}])
def test_an_empty_choice_is_not_an_answer(message: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Answer.from_choice({"message": message, "finish_reason": "stop"}, 0.1)
    assert Answer.from_choice({"message": {"content": ""}}, 0.1).text == ""


@pytest.mark.parametrize(
    "text",
    [
        *("", " \n", "I cannot assist with that.", "As an AI, I cannot provide medical advice.", "I must decline."),
        *("Das kann ich leider nicht beantworten.", "Je ne peux pas vous aider.", "Lo siento, no puedo ayudarte."),
        *("Mi dispiace, ma non posso aiutarti.", "Desculpe, mas não posso ajudar.", "抱歉，我无法提供帮助。"),
        "申し訳ありませんが、お応えできません。",
    ],
)
def test_refusals_in_eight_languages(text: str) -> None:
    assert is_refusal(text)
    assert len(PHRASES) == 8


@pytest.mark.parametrize(
    "text",
    [
        *("Paris.", "I can't help but smile.", "I'm sorry that you cannot sleep.", "I cannot wait to see it!"),
        *("Es tut mir leid, das zu hören.", "No puedo esperar a verte.", "我不能吃辣。"),
        "Once upon a time " + "there was a king " * 30 + 'who said "I cannot help you".',
    ],
)
def test_texts_that_only_resemble_a_refusal(text: str) -> None:
    assert not is_refusal(text)


def test_similar_by_a_named_measure_takes_the_nearest_text() -> None:
    texts = ["You have thirty days.", "Returns are free for 30 days"]
    assertion = Assertion(type="similar", value=texts, provider="local:chrf", threshold=0.7)
    assert not assertion.failure("Returns are free for 30 days.")
    assert assertion.failure("We open at nine.")


def graded(*assertions: dict[str, Any], threshold: float | None = None, answer: str = "Goodbye world") -> Grade:
    return grade(tuple(Assertion.model_validate(spec) for spec in assertions), Answer(text=answer), threshold)


def test_the_share_is_weighted_as_promptfoo_documents_it() -> None:
    both = ({"type": "equals", "value": "Hello world", "weight": 2}, {"type": "contains", "value": "world"})
    assert graded(*both).share == pytest.approx(1 / 3)
    assert not graded(*both).passed
    assert not graded(*both, threshold=0.5).passed
    found = graded(*both, threshold=0.2)
    assert found.passed
    assert found.failures == ('equals "Hello world"',)


def test_an_assertion_of_weight_0_never_fails() -> None:
    found = graded({"type": "contains", "value": "x", "weight": 0}, {"type": "contains", "value": "world"})
    assert (found.share, found.passed, found.failures) == (1.0, True, ())


def test_a_set_counts_as_one_assertion_with_its_own_threshold() -> None:
    either = [{"type": "contains", "value": "world"}, {"type": "contains", "value": "moon"}]
    both = {"type": "assert-set", "assert": either}
    assert not graded(both).passed
    assert graded({**both, "threshold": 0.5}).passed
    assert graded({**both, "weight": 3}, {"type": "contains", "value": "bye"}).share == pytest.approx((3 * 0.5 + 1) / 4)


@given(st.lists(st.tuples(st.booleans(), st.floats(0.1, 10)), min_size=1, max_size=6))
def test_share_and_pass_agree(parts: list[tuple[bool, float]]) -> None:
    found = graded(*({"type": "contains", "value": "o" if holds else "#", "weight": weight} for holds, weight in parts))
    assert 0 <= found.share <= 1
    assert found.passed is all(holds for holds, _ in parts)
    assert found.passed is (found.share == 1)
    total = sum(weight for _, weight in parts)
    assert found.share == pytest.approx(sum(weight for holds, weight in parts if holds) / total)


@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_the_levenshtein_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert (levenshtein_distance(a, b) == 0) is (a == b)
    assert levenshtein_distance(a, b) == levenshtein_distance(b, a) <= max(len(a), len(b))
    assert levenshtein_distance(a, c) <= levenshtein_distance(a, b) + levenshtein_distance(b, c)


@given(st.text(max_size=40))
def test_every_answer_is_decided_and_the_negation_decides_the_opposite(answer: str) -> None:
    for kind, value in [("contains", "a"), ("is-json", None), ("contains-json", None), ("is-refusal", None)]:
        assert holds(kind, answer, value) is not holds(f"not-{kind}", answer, value)


ENDS_WITH = """
from tasks.evaluate.suites.assertions import AssertionKind, AssertionSpec
from tasks.evaluate.suites.assertions.answer import Answer


def _holds(spec: AssertionSpec, answer: Answer) -> bool:
    return answer.shown.endswith(spec.value)


def _problem(spec: AssertionSpec) -> str:
    return "" if isinstance(spec.value, str) and spec.value else "needs a text as value"


KIND = AssertionKind(_holds, _problem, text_only=True)
KINDS = {"ends-with": KIND}
"""


def check_ends_with() -> None:
    found = graded({"type": "ends-with", "value": "world"}, {"type": "not-ends-with", "value": "bye"})
    assert (found.share, found.passed) == (1.0, True)
    assert graded({"type": "ends-with", "value": "moon"}).failures == ('ends-with "moon"',)
    with pytest.raises(AssertionRefused, match="needs a text as value"):
        Assertion(type="ends-with")


def test_an_assertion_is_added_by_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionRefused):
        Assertion(type="ends-with", value="world")
    (tmp_path / "endings.py").write_text(ENDS_WITH)
    monkeypatch.setattr(kinds_package, "__path__", [*kinds_package.__path__, str(tmp_path)])
    check_ends_with()


def add_distribution(folder: Path, target: str) -> None:
    (folder / "my_endings.py").write_text(ENDS_WITH)
    info = folder / "my_endings-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-endings\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[weighbridge.assertions]\nends-with = {target}\n")


def test_an_assertion_is_added_by_an_installed_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = assertions_version()
    add_distribution(tmp_path, "my_endings:KIND")
    monkeypatch.syspath_prepend(tmp_path)
    check_ends_with()
    assert assertions_version() == f"{before} ends-with 1.2", "scores of another version are not reused"


def test_a_plug_in_that_is_not_an_assertion_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_distribution(tmp_path, "my_endings:KINDS")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginInvalid, match="is not an AssertionKind but dict"):
        Assertion(type="contains", value="x")
