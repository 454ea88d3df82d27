"""A comparison's page: one file with both answers, changed conditions and an optional filter."""

from __future__ import annotations

import re

import pytest

from tasks.evaluate.compare_inputs import ComparedModel
from tasks.evaluate.comparison import Comparison, Options
from tasks.evaluate.scoring.model_files import ModelFiles
from tasks.evaluate.scoring.scores import Conditions, ItemScore, SuiteScores
from tasks.evaluate.verdict.early_stopping import judge_sequentially
from tasks.evaluate.verdict.verdict import judge
from tasks.propose.compared import make_comparison_report

HOSTILE = "</script><script>alert(1)</script>"
CONDITIONS = Conditions(
    scorer="chat", parsing="assertions 2", engine="vllm 0.32", chat_template="aaaa", quantization="none"
)


def scores(label: str, wrong: set[int], conditions: Conditions) -> SuiteScores:
    items = tuple(
        ItemScore(
            id=f"q{n}",
            score=float(n not in wrong),
            question=f"Question {n}? {HOSTILE}",
            answer=f"{label} says {n} {HOSTILE}",
            must_pass=n == 7,
        )
        for n in range(200)
    )
    return SuiteScores(
        suite="regression/geo",
        suite_digest="s",
        artifact_digest=label,
        scorer="chat",
        items=items,
        seconds=130.0,
        conditions=conditions,
    )


@pytest.fixture
def comparison() -> Comparison:
    candidate = scores("candidate", {3, 4, 7}, CONDITIONS.model_copy(update={"chat_template": "bbbb"}))
    production = scores("production", {9}, CONDITIONS)
    suite = judge_sequentially(candidate, production, margin=0.05, confidence=0.95)
    suite = suite.model_copy(
        update={"changed": ("the chat template is bbbb, and aaaa in production",), "noise_flips_share": 0.015}
    )
    sides = [
        ComparedModel(label=f"http://127.0.0.1/{label}", kind="endpoint", digest=label * 8, model_files=ModelFiles())
        for label in ("c", "p")
    ]
    return Comparison(
        verdict=judge("c", "p", [suite], ["regression/geo"]),
        candidate=sides[0],
        production=sides[1],
        candidate_scores=(candidate,),
        production_scores=(production,),
        options=Options(margin=0.05),
    )


def test_the_report_answers_a_reviewers_questions(comparison: Comparison) -> None:
    page = " ".join(make_comparison_report(comparison).split())
    for expected in (
        "✗ regression",
        "http://127.0.0.1/c",
        "the chat template is bbbb, and aaaa in production",
        "production flips 1.5%",
        "Must pass, failed",
        "candidate says 3",
        "production says 3",
        "200 items in 2 min for candidate",
        "data:image/svg+xml;base64,",
    ):
        assert expected in page, expected


def test_the_page_needs_no_network_and_escapes_all_text(comparison: Comparison) -> None:
    page = make_comparison_report(comparison)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert page.count("<script") == page.count("</script>") == 1


def test_every_flip_can_be_filtered_and_shows_without_scripts(comparison: Comparison) -> None:
    page = make_comparison_report(comparison)
    kinds = re.findall(r'<details class="flip" data-kind="(\w+)" data-suite="regression/geo"', page)
    assert sorted(kinds) == ["gained", "lost", "lost", "lost", "must"]
    assert '<form id="filter" hidden>' in page, "shown by the script that it needs"
