from typing import Any

import pytest

from tasks.evaluate.assertions import CHECKS, Assertion, AssertionRefused

PERSON = {"type": "object", "required": ["age"], "properties": {"age": {"type": "integer"}}}


def holds(type: str, answer: str, value: Any = None, threshold: float | None = None, latency_ms: float = 0) -> bool:
    return not Assertion(type=type, value=value, threshold=threshold).failure(answer, latency_ms)


@pytest.mark.parametrize(
    ("type", "value", "right", "wrong"),
    [
        ("equals", "Paris", "Paris", "Paris."),
        ("equals", {"a": 1}, '{"a":1}', '{"a":2}'),
        ("equals", {"a": 1}, '{"a": 1}', "a is 1"),
        ("contains", "Paris", "It is Paris.", "It is paris."),
        ("contains-all", ["a", "b"], "b a", "a"),
        ("contains-all", "red, blue", "blue and red", "red"),
        ("contains-any", ["cat", "dog"], "a dog", "a Dog"),
        ("icontains", "Paris", "it is PARIS", "it is Rome"),
        ("icontains-all", ["One", "two"], "ONE, Two", "one"),
        ("icontains-any", "seven, 7", "Seven days", "six days"),
        ("starts-with", "Yes", "Yes, it is", "Well, yes"),
        ("regex", r"\b\d{3}\b", "room 101", "room 1010"),
        ("is-json", None, '{"a": [1]}', 'Here: {"a": [1]}'),
        ("is-json", PERSON, '{"age": 3}', '{"age": "three"}'),
        ("contains-json", None, 'Here: {"a": 1}.', "Here: {a: 1}"),
        ("contains-json", PERSON, 'First [1], then {"age": 3}', 'Here: {"name": 3}'),
        ("levenshtein", "Paris, France", "Paris; France", "London, England"),
        ("word-count", 3, "one two three", "one two"),
        ("word-count", {"min": 2, "max": 3}, "one two", "one two three four"),
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


def test_the_failure_names_what_was_wanted() -> None:
    assert Assertion(type="icontains-any", value=["sieben", "7"]).failure("six", 0) == 'icontains-any ["sieben", "7"]'


@pytest.mark.parametrize(
    ("type", "instead"),
    [
        ("javascript", "regex"),
        ("python", "is-json"),
        ("not-llm-rubric", "icontains-any"),
        ("similar", "levenshtein"),
        ("context-recall", "judge"),
        ("containz", "contains"),
        ("", "contains"),
    ],
)
def test_what_is_not_supported_is_refused_with_an_alternative(type: str, instead: str) -> None:
    with pytest.raises(AssertionRefused) as caught:
        Assertion(type=type, value="x")
    assert repr(type) in caught.value.what
    assert instead in caught.value.next_step


@pytest.mark.parametrize(
    "lacking",
    [
        {"type": "contains"},
        {"type": "contains", "value": 3},
        {"type": "not-equals"},
        {"type": "contains-all", "value": []},
        {"type": "icontains-any", "value": 5},
        {"type": "regex", "value": "("},
        {"type": "is-json", "value": {"type": "no such type"}},
        {"type": "is-json", "value": 3},
        {"type": "latency"},
        {"type": "word-count", "value": "three"},
        {"type": "word-count", "value": {"most": 3}},
    ],
)
def test_an_assertion_that_cannot_decide_is_refused_before_anything_is_asked(lacking: dict[str, Any]) -> None:
    with pytest.raises(AssertionRefused):
        Assertion.model_validate(lacking)


def test_promptfoos_names_are_all_there() -> None:
    assert {"equals", "contains", "icontains", "regex", "is-json", "contains-json", "latency", "starts-with"} <= set(
        CHECKS
    )
