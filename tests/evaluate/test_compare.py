"""Comparisons of two models without a stack: endpoints, folders, cached scores and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from examples import tiny
from examples.answering import Answering
from tasks.evaluate import compare as compare_module
from tasks.evaluate.compare import compare
from tasks.evaluate.compare_inputs import resolve_model, resolve_suite
from tasks.evaluate.comparison import Comparison, Options
from tasks.evaluate.scoring import retries
from tasks.evaluate.scoring.scores import ItemScore, ScoreCache, SuiteScores
from tasks.evaluate.suites.suite import Suite, suite_at
from tasks.evaluate.verdict.early_stopping import InterimEstimate
from weighbridge.errors import (
    ArtifactMissing,
    EndpointRefused,
    ModelUnreadable,
    OptionInvalid,
    ScoringFailed,
    SuiteNeedsMore,
)
from weighbridge.settings import load_settings

ITEMS = 120


class Recorder:
    """A listener that records messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def progress(self, label: str, suite: str, done: int, total: int) -> None:
        """Ignored."""

    def running(self, suite: str, estimate: InterimEstimate, margin: float) -> None:
        """Ignored."""

    def say(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    path = tmp_path / "geo.jsonl"
    rows = [
        {
            "id": f"q{number}",
            "messages": [{"role": "user", "content": f"question {number}"}],
            "assert": [{"type": "equals", "value": str(number)}],
            "max_tokens": 8,
            "must_pass": number == ITEMS - 1,
        }
        for number in range(ITEMS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return suite_at("regression/geo", path)


def right_except(*wrong: int) -> Callable[[str], str]:
    def answer(question: str) -> str:
        number = int(question.split()[-1])
        return "no idea" if number in wrong else str(number)

    return answer


def compare_endpoints(candidate: Answering, production: Answering, suite: Suite, **options: object) -> Comparison:
    chosen = Options.model_validate({"margin": 0.1, "retry_seconds": 0.2, "concurrency": 4, **options})
    return compare(
        resolve_model(candidate.url, load_settings()),
        resolve_model(production.url, load_settings()),
        [suite],
        chosen,
        Recorder(),
        load_settings(),
    )


def test_non_inferior_is_decided_before_the_last_item_and_scored_once(suite: Suite) -> None:
    with Answering(right_except(3)) as candidate, Answering(right_except(4)) as production:
        first = compare_endpoints(candidate, production, suite)
        (verdict,) = first.verdict.suites
        assert first.verdict.outcome == "non_inferior"
        assert verdict.suite_items == ITEMS and verdict.items < 100
        assert len(production.asked) == ITEMS and len(candidate.asked) < 110
        assert f"question {ITEMS - 1}" in candidate.asked, "a must-pass item is asked in any case"
        before = len(candidate.asked), len(production.asked)
        second = compare_endpoints(candidate, production, suite)
        assert (len(candidate.asked), len(production.asked)) == before
        assert second.verdict == first.verdict


def test_all_items_scores_every_item(suite: Suite) -> None:
    with Answering(right_except(3)) as candidate, Answering(right_except(4)) as production:
        (verdict,) = compare_endpoints(candidate, production, suite, all_items=True).verdict.suites
        assert (verdict.items, verdict.suite_items, len(candidate.asked)) == (ITEMS, None, ITEMS)
        assert (verdict.gained, verdict.lost) == (1, 1)


def test_a_second_comparison_needs_no_endpoint(suite: Suite) -> None:
    with Answering(right_except()) as candidate, Answering(right_except()) as production:
        first = compare_endpoints(candidate, production, suite)
    listener = Recorder()
    repeated = compare(
        resolve_model(candidate.url, load_settings()),
        resolve_model(production.url, load_settings()),
        [suite],
        Options(margin=0.1),
        listener,
        load_settings(),
    )
    assert repeated.verdict == first.verdict
    assert any("does not answer" in text for text in listener.messages)


def test_fresh_ignores_the_cache(suite: Suite) -> None:
    with Answering(right_except()) as candidate, Answering(right_except()) as production:
        compare_endpoints(candidate, production, suite)
        production.says = right_except(*range(60))
        assert compare_endpoints(candidate, production, suite).verdict.outcome == "non_inferior"
        mean = compare_endpoints(candidate, production, suite, fresh=True).verdict.suites[0].production_mean
        assert mean is not None and mean < 0.9
    with pytest.raises(EndpointRefused, match="afresh"):
        compare_endpoints(candidate, production, suite, fresh=True)
    assert compare_endpoints(candidate, production, suite).verdict.suites[0].production_mean == mean


def test_an_endpoint_that_dies_makes_the_suite_invalid_and_the_next_run_resumes(suite: Suite) -> None:
    with Answering(right_except(), dies_after=50) as candidate, Answering(right_except()) as production:
        cut = compare_endpoints(candidate, production, suite, all_items=True)
        (verdict,) = cut.verdict.suites
        assert verdict.outcome == cut.verdict.outcome == "invalid"
        assert "candidate" in verdict.reason and "50 of 120 by the candidate" in verdict.reason
        assert verdict.lost == 0, "nothing that was not answered is wrong"
        answered = set(candidate.asked)
        candidate.revive()
        assert compare_endpoints(candidate, production, suite, all_items=True).verdict.outcome == "non_inferior"
        assert not answered & set(candidate.asked) and len(answered) + len(candidate.asked) == ITEMS
        assert len(production.asked) == ITEMS


def test_the_candidate_is_not_scored_when_production_dies(suite: Suite) -> None:
    with Answering(right_except()) as candidate, Answering(right_except(), dies_after=7) as production:
        (verdict,) = compare_endpoints(candidate, production, suite).verdict.suites
        assert verdict.outcome == "invalid" and verdict.reason.startswith("production")
        assert candidate.asked == []


def test_another_engine_is_invalid_unless_allowed(suite: Suite) -> None:
    with Answering(right_except(), version="1") as candidate, Answering(right_except(), version="2") as production:
        (verdict,) = compare_endpoints(candidate, production, suite).verdict.suites
        assert verdict.outcome == "invalid"
        assert "the engine is toyworks 1, and toyworks 2 in production" in verdict.reason
        assert candidate.asked == production.asked == [], "that was known before"
        (verdict,) = compare_endpoints(candidate, production, suite, may_differ=frozenset({"engine"})).verdict.suites
        assert verdict.outcome == "non_inferior" and "the engine" in verdict.changed[0]


def test_another_chat_template_is_a_change(suite: Suite) -> None:
    with (
        Answering(right_except(), props={"chat_template": "a"}) as candidate,
        Answering(right_except(), props={"chat_template": "b"}) as production,
    ):
        (verdict,) = compare_endpoints(candidate, production, suite).verdict.suites
        assert verdict.outcome == "non_inferior"
        assert "the chat template" in verdict.changed[0]


def test_the_noise_floor_scores_production_twice(suite: Suite) -> None:
    with Answering(right_except()) as candidate, Answering(right_except()) as production:
        moods: list[str] = []

        def moody(question: str) -> str:
            moods.append(question)
            return "no idea" if moods.count(question) == 2 and question.endswith("7") else question.split()[-1]

        production.says = moody
        (verdict,) = compare_endpoints(candidate, production, suite, noise_floor=True).verdict.suites
        assert len(production.asked) == 2 * ITEMS
        assert verdict.noise_flips_share == pytest.approx(12 / ITEMS)


def test_a_failed_must_pass_item_is_always_a_regression(suite: Suite) -> None:
    with Answering(right_except(ITEMS - 1)) as candidate, Answering(right_except()) as production:
        (verdict,) = compare_endpoints(candidate, production, suite).verdict.suites
        assert verdict.outcome == "regression" and verdict.must_pass_failed == (f"q{ITEMS - 1}",)


def test_truncated_answers_make_the_suite_invalid(suite: Suite) -> None:
    def cut(question: str) -> dict[str, object]:
        return {"message": {"role": "assistant", "content": question.split()[-1]}, "finish_reason": "length"}

    rows = [json.loads(line) for line in suite.path.read_text().splitlines()]
    for row in rows:
        del row["max_tokens"]
    suite.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    unlimited = suite_at("regression/geo", suite.path)
    with Answering(cut) as candidate, Answering(right_except()) as production:
        (verdict,) = compare_endpoints(candidate, production, unlimited).verdict.suites
        assert verdict.outcome == "invalid" and "cut off of" in verdict.reason
        assert (
            compare_endpoints(
                candidate, production, suite_at("regression/geo", suite.path), all_items=True
            ).verdict.outcome
            == "invalid"
        )


def test_regression_suites_refuse_a_folder(suite: Suite, tmp_path: Path) -> None:
    folder = str(tiny.build(tmp_path / "model"))
    model = resolve_model(folder, load_settings())
    with pytest.raises(SuiteNeedsMore, match="is a folder") as caught:
        compare(model, model, [suite], Options(), Recorder(), load_settings())
    assert f"transformers serve {folder}" in caught.value.next_step


def test_general_suites_refuse_an_endpoint_that_ignores_echo() -> None:
    with Answering(right_except()) as toy, pytest.raises(SuiteNeedsMore, match="ignores `echo`"):
        model = resolve_model(toy.url, load_settings())
        compare(model, model, [resolve_suite("general/choice")], Options(), Recorder(), load_settings())


def test_folders_are_scored_by_lm_eval_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate, production = (
        resolve_model(str(tiny.build(tmp_path / name, seed=n)), load_settings()) for n, name in enumerate(("a", "b"))
    )
    suite = resolve_suite("choice")
    for model in (candidate, production):
        key = model.lm_eval_scorer(None).key(suite)
        items = tuple(ItemScore(id=id, score=1.0) for id in suite.ids)
        cached = SuiteScores(
            suite=suite.name, **key, items=items, seconds=3.0, conditions=model.lm_eval_scorer(None).conditions
        )
        ScoreCache.of(load_settings()).keep(cached)
    found = compare(candidate, production, [suite], Options(margin=0.05), Recorder(), load_settings())
    assert found.verdict.outcome == "non_inferior" and candidate.digest != production.digest

    def dies(*_: object, **__: object) -> list[SuiteScores]:
        raise ScoringFailed("The scoring process was killed by signal 9.", "Run it again.")

    monkeypatch.setattr(compare_module, "score_by_lm_eval", dies)
    found = compare(candidate, production, [suite], Options(margin=0.05, fresh=True), Recorder(), load_settings())
    assert found.verdict.outcome == "invalid" and "signal 9" in found.verdict.suites[0].reason


def test_a_name_that_is_not_a_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelUnreadable, match="no model's folder"):
        resolve_model(str(tmp_path), load_settings())
    with pytest.raises(ArtifactMissing, match="no artifact"):
        resolve_model("store://llama/0123456789", load_settings())
    monkeypatch.delenv("TOY_KEY", raising=False)
    with pytest.raises(OptionInvalid, match="TOY_KEY is not set"):
        resolve_model("http://127.0.0.1:9", load_settings(), "TOY_KEY")


def test_an_api_key_is_sent_and_stored_nowhere(suite: Suite, monkeypatch: pytest.MonkeyPatch, own_home: Path) -> None:
    monkeypatch.setenv("TOY_KEY", "very-secret")
    with Answering(right_except()) as toy:
        model = resolve_model(f"{toy.url}#toy", load_settings(), "TOY_KEY")
        found = compare(model, model, [suite], Options(margin=0.1), Recorder(), load_settings())
        assert toy.keys == {"Bearer very-secret"}
    assert "very-secret" not in found.model_dump_json() + repr(model)
    assert all(b"very-secret" not in path.read_bytes() for path in own_home.rglob("*") if path.is_file())
