"""The lint of suites: one test per rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.evaluate.scoring.scores import ItemScore, ScoreCache, SuiteScores
from tasks.evaluate.suites.lint import SuiteCheck, check_suite, power_of
from tasks.evaluate.suites.lint.duplicates import near_pairs
from tasks.evaluate.suites.lint.finding import Item
from tasks.evaluate.suites.suite import find_suite, list_suites
from tasks.evaluate.verdict.sequential import items_needed, power
from weighbridge.errors import SuiteInvalid, SuiteUnknown

CONTAINS = {"type": "contains", "value": "Hi"}


def row(id: str, text: str = "", *assertions: dict[str, Any], **more: Any) -> str:
    item = {"id": id, "messages": [{"role": "user", "content": text or f"ask {id}"}], "assert": list(assertions)}
    return json.dumps({**item, **({} if assertions else {"assert": [CONTAINS]}), **more})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for kind in ("general", "regression"):
        (tmp_path / "eval_suites" / kind).mkdir(parents=True)
    return tmp_path


def check(root: Path, *lines: str, **options: Any) -> SuiteCheck:
    (root / "eval_suites/regression/mine.jsonl").write_text("\n".join(lines) + "\n")
    return check_suite("mine", root=root, cache=ScoreCache(root / "scores"), **options)


def codes(found: SuiteCheck) -> list[tuple[str, str, str]]:
    return [(finding.level, finding.code, finding.where) for finding in found.findings if finding.code != "power"]


def message_of(found: SuiteCheck, code: str) -> str:
    return next(finding.what for finding in found.findings if finding.code == code)


def test_every_broken_line_is_reported(root: Path) -> None:
    found = check(
        root,
        row("a"),
        "{oops",
        row("a"),
        "[]",
        row("b", "", {"type": "llm-rubric", "value": "kind"}),
        row("c", "", {"type": "contains", "value": ""}),
        row("d", "", CONTAINS, colour="red"),
        row("e"),
    )
    assert codes(found) == [
        ("error", "broken-line", "mine.jsonl:2"),
        ("error", "duplicate-id", "mine.jsonl:3"),
        ("error", "no-id", "mine.jsonl:4"),
        ("error", "unknown-assertion", "mine.jsonl:5"),
        ("error", "invalid-item", "mine.jsonl:6"),
        ("error", "invalid-item", "mine.jsonl:7"),
    ]
    assert found.items == 2
    assert "colour" in found.findings[5].what


def test_an_empty_suite_is_an_error(root: Path) -> None:
    found = check(root, "")
    assert codes(found) == [("error", "empty", "mine.jsonl:1")]
    assert found.power is None


@pytest.mark.parametrize(
    "assertions",
    [
        [{"type": "regex", "value": ".*"}],
        [{"type": "regex", "value": "(?s)^.*$"}, {"type": "word-count", "value": {"min": 0}}],
        [{"type": "levenshtein", "value": "Hi", "threshold": 100000}],
        [{"type": "bleu", "value": "Hi", "threshold": 0}],
        [{"type": "assert-set", "threshold": 0, "assert": [CONTAINS]}],
        [{**CONTAINS, "weight": 0}],
    ],
)
def test_items_that_cannot_fail(root: Path, assertions: list[dict[str, Any]]) -> None:
    assert codes(check(root, row("a", "", *assertions), row("b"))) == [("warning", "cannot-fail", "mine.jsonl:1")]


def test_a_threshold_of_0_cannot_fail_and_an_idle_assertion_is_reported(root: Path) -> None:
    found = check(root, row("a", "", CONTAINS, threshold=0), row("b", "", CONTAINS, {"type": "regex", "value": "x*"}))
    assert codes(found) == [
        ("warning", "cannot-fail", "mine.jsonl:1"),
        ("warning", "idle-assertion", "mine.jsonl:2"),
    ]


@pytest.mark.parametrize(
    "assertions",
    [
        [CONTAINS, {"type": "not-contains", "value": "Hi"}],
        [CONTAINS, {"type": "not-icontains", "value": "hi"}],
        [{"type": "contains-all", "value": ["This", "that"]}, {"type": "not-contains-any", "value": ["x", "hi"]}],
        [{"type": "equals", "value": "Paris"}, {"type": "equals", "value": "paris"}],
        [{"type": "equals", "value": "Paris"}, {"type": "regex", "value": "^p"}],
        [{"type": "equals", "value": {"a": 1}}, {"type": "is-json", "value": {"required": ["b"]}}],
        [{"type": "starts-with", "value": "A"}, {"type": "starts-with", "value": "B"}],
        [{"type": "word-count", "value": {"min": 5}}, {"type": "word-count", "value": {"max": 4}}],
        [{"type": "word-count", "value": {"min": 65}}],
        [{"type": "not-regex", "value": ".*"}],
        [{"type": "is-refusal"}, {"type": "not-is-refusal"}],
        [{"type": "assert-set", "assert": [CONTAINS]}, {"type": "not-contains", "value": "H"}],
    ],
)
def test_items_that_cannot_pass(root: Path, assertions: list[dict[str, Any]]) -> None:
    found = check(root, row("a", "", *assertions), row("b"))
    assert codes(found) == [("error", "cannot-pass", "mine.jsonl:1")]
    assert found.count("error") == 1


@pytest.mark.parametrize(
    "assertions",
    [
        [{"type": "icontains", "value": "hi"}, {"type": "not-contains", "value": "hi"}],
        [{"type": "contains-any", "value": ["a", "b"]}, {"type": "not-contains", "value": "a"}],
        [{"type": "not-contains", "value": "sorry"}],
        [{"type": "is-json"}],
        [{"type": "starts-with", "value": "A"}, {"type": "starts-with", "value": "AB"}],
        [{"type": "equals", "value": {"a": 1}}, {"type": "contains", "value": '{"a":1}'}],
        [{"type": "assert-set", "threshold": 0.5, "assert": [CONTAINS, {"type": "not-contains", "value": "Hi"}]}],
    ],
)
def test_items_that_only_seem_impossible_are_accepted(root: Path, assertions: list[dict[str, Any]]) -> None:
    assert codes(check(root, row("a", "", *assertions), row("b"))) == []


def test_contradictions_below_a_threshold_are_accepted(root: Path) -> None:
    assert codes(check(root, row("a", "", CONTAINS, {"type": "not-contains", "value": "Hi"}, threshold=0.5))) == []


def test_equal_and_nearly_equal_prompts(root: Path) -> None:
    story = " ".join(f"word{number}" for number in range(40))
    found = check(
        root,
        row("a", "What is  the capital?"),
        row("b", "what is the capital"),
        row("c", f"{story} red"),
        row("d", f"{story} blue"),
        row("e", f"{story} red", messages=[{"role": "system", "content": "x"}, {"role": "user", "content": story}]),
    )
    assert codes(found) == [
        ("warning", "duplicate-prompt", "mine.jsonl:1"),
        ("warning", "near-duplicate", "mine.jsonl:3"),
    ]
    assert "c and d" in message_of(found, "near-duplicate")


@given(st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=8), min_size=2, max_size=12))
def test_near_pairs_finds_every_pair(texts: list[list[str]]) -> None:
    items = [Item(id=str(place), where="", text=" ".join(text)) for place, text in enumerate(texts)]
    for near in (0.5, 0.75, 0.9):
        expected = {
            (str(left), str(right))
            for right in range(len(texts))
            for left in range(right)
            if len(set(texts[left]) & set(texts[right])) >= near * len(set(texts[left]) | set(texts[right]))
        }
        assert {(left.id, right.id) for left, right in near_pairs(items, near)} == expected


def test_one_answer_that_dominates(root: Path) -> None:
    rows = [row(str(n), "", {"type": "icontains", "value": "Yes" if n < 8 else "No"}) for n in range(10)]
    assert codes(check(root, *rows)) == [("warning", "dominant-answer", "mine.jsonl")]
    even = [row(str(n), "", {"type": "icontains", "value": "Yes" if n % 2 else "No"}) for n in range(10)]
    assert codes(check(root, *even)) == []


def check_general(root: Path, prompt: str, answers: list[int]) -> SuiteCheck:
    task = {
        "task": "pets",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "pets.jsonl"}},
        "output_type": "multiple_choice",
        "doc_to_text": prompt,
        "doc_to_choice": "{{options}}",
        "doc_to_target": "answer",
    }
    (root / "eval_suites/general/pets.yaml").write_text(json.dumps(task))
    rows = [{"id": str(n), "options": [f"a{n}", f"b{n}"], "answer": answer} for n, answer in enumerate(answers)]
    (root / "eval_suites/general/pets.jsonl").write_text("".join(json.dumps(item) + "\n" for item in rows))
    return check_suite("pets", root=root, cache=ScoreCache(root / "scores"))


def test_a_favourite_place_matters_only_if_the_model_sees_the_order(root: Path) -> None:
    visible = check_general(root, "Choose {{id}}: {{options | join(' or ')}}", [0] * 28 + [1] * 2)
    assert [finding.code for finding in visible.findings] == ["favourite-place", "power"]
    assert "place 1 in 93%" in message_of(visible, "favourite-place")
    hidden = check_general(root, "Item {{id}}:", [0] * 28 + [1] * 2)
    assert [finding.code for finding in hidden.findings] == ["power"]


def test_a_general_item_that_does_not_fit_its_templates(root: Path) -> None:
    found = check_general(root, "{{gone}}", [0, 1])
    assert codes(found) == [("error", "invalid-item", "pets.jsonl:1"), ("error", "invalid-item", "pets.jsonl:2")]


def test_a_broken_task_definition_is_an_error_not_a_crash(root: Path) -> None:
    (root / "eval_suites/general/pets.yaml").write_text("task: cars\n")
    found = check_suite("pets", root=root, cache=ScoreCache(root / "scores"))
    assert codes(found) == [("error", "invalid-task", "general/pets.yaml:1")]


def cache_scores(root: Path, artifact: str, digest: str, scores: dict[str, float]) -> SuiteScores:
    kept = SuiteScores(
        suite="regression/mine",
        suite_digest=digest,
        artifact_digest=artifact,
        scorer="s",
        items=tuple(ItemScore(id=id, score=score) for id, score in scores.items()),
        seconds=1,
    )
    ScoreCache(root / "scores").keep(kept)
    return kept


def test_cached_scores_show_constant_items_and_flips(root: Path) -> None:
    rows = [row("a"), row("b"), row("c", must_pass=True), row("d")]
    check(root, *rows)
    digest = find_suite("regression/mine", root).digest
    cache_scores(root, "1" * 64, digest, {"a": 1, "b": 1, "c": 0, "d": 0})
    cache_scores(root, "2" * 64, digest, {"a": 1, "b": 0, "c": 0, "d": 0})
    cache_scores(root, "3" * 64, "another" + digest, {"a": 0, "b": 0, "c": 1, "d": 1})
    (root / "scores/partial.json").write_text(json.dumps({"so far": digest}))
    found = check(root, *rows)
    assert [finding.code for finding in found.findings] == [
        "must-pass-never-passes",
        "never-passes",
        "power",
        "always-passes",
    ]
    assert "c" in message_of(found, "must-pass-never-passes")
    assert message_of(found, "never-passes").startswith("2 of 4 items")
    assert message_of(found, "always-passes").startswith("1 of 4 items")
    assert found.power is not None
    assert found.power.flips_measured
    assert found.power.flips == pytest.approx(0.25)


def test_named_scores_must_be_of_the_suite(root: Path) -> None:
    mine, other = root / "mine.json", root / "other.json"
    mine.write_text(cache_scores(root, "1" * 64, "old", {"a": 0, "gone": 1}).model_dump_json())
    other.write_text(cache_scores(root, "1" * 64, "old", {"gone": 1}).model_dump_json())
    assert message_of(check(root, row("a"), scores=[mine]), "never-passes").startswith("1 of 1")
    for wrong in (other, root / "none.json", root / "eval_suites/regression/mine.jsonl"):
        with pytest.raises(SuiteInvalid) as caught:
            check(root, row("a"), scores=[wrong])
        assert str(wrong) in caught.value.where


def test_a_suite_is_found_by_name_by_kind_and_by_path(root: Path) -> None:
    whole = check(root, row("a"))
    cache = ScoreCache(root / "scores")
    assert check_suite("regression/mine", root=root, cache=cache) == whole
    copy = root / "elsewhere.jsonl"
    copy.write_text(row("a") + "\n")
    assert check_suite(str(copy), root=root, cache=cache).suite == "elsewhere"
    with pytest.raises(SuiteUnknown, match="regression/mine"):
        check_suite("gone", root=root, cache=cache)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3000), st.floats(0.01, 0.3), st.floats(0, 0.3))
def test_power_is_consistent(items: int, margin: float, flips: float) -> None:
    found = power_of(items, margin, 0.95, flips)
    assert found.margin_half <= found.margin_sure
    assert found.items_half <= found.items_sure
    assert found.suffices is (items >= found.items_sure)
    assert power(found.items_sure, margin, 0.95, flips) >= 0.9
    if found.margin_sure < 1:
        assert items_needed(found.margin_sure, 0.95, flips, 0.9) <= items


def test_the_sentence_names_the_smallest_margin_and_the_items_needed() -> None:
    found = power_of(104, 0.02, 0.95)
    assert not found.suffices
    assert f"a margin of {found.margin_half:.3f} is decided half of the time" in found.sentence
    assert f"{found.items_sure:,} items" in found.sentence
    assert "6.5% of 104 items" in found.sentence
    assert power_of(1, 0.02, 0.95).margin_half > 0.9


def test_the_projects_own_suites_have_no_errors(tmp_path: Path) -> None:
    for name in list_suites():
        assert check_suite(name, ScoreCache(tmp_path)).count("error") == 0
