"""Two models compared with nothing set up: endpoints, folders, what is kept and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from examples import tiny
from examples.answering import Answering
from tasks.evaluate import compare as room
from tasks.evaluate.compare import Comparison, Options, compare
from tasks.evaluate.compare_inputs import resolve_model, resolve_suite
from tasks.evaluate.scoring import retries
from tasks.evaluate.scoring.scores import ItemScore, ScoreCache, SuiteScores
from tasks.evaluate.suites.suite import Suite, suite_at
from tasks.evaluate.verdict.early_stopping import Look
from weighbridge.errors import (
    ArtifactMissing,
    EndpointRefused,
    ModelUnreadable,
    OptionInvalid,
    ScoringFailed,
    SuiteNeedsMore,
)

ITEMS = 120


class Quiet:
    """A watch that only takes notes."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.looks: list[Look] = []
        self.said: list[str] = []

    def progress(self, who: str, suite: str, done: int, total: int) -> None:
        self.told.append((who, done))

    def running(self, suite: str, seen: Look, margin: float) -> None:
        self.looks.append(seen)

    def say(self, text: str) -> None:
        self.said.append(text)


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


def right_but(*wrong: int) -> Callable[[str], str]:
    def says(question: str) -> str:
        number = int(question.split()[-1])
        return "no idea" if number in wrong else str(number)

    return says


def put(candidate: Answering, production: Answering, suite: Suite, **options: object) -> Comparison:
    chosen = Options.model_validate({"margin": 0.1, "patience_seconds": 0.2, "concurrency": 4, **options})
    return compare(resolve_model(candidate.url), resolve_model(production.url), [suite], chosen, Quiet())


def test_no_worse_is_settled_before_the_end_and_asked_once(suite: Suite) -> None:
    with Answering(right_but(3)) as ours, Answering(right_but(4)) as theirs:
        first = put(ours, theirs, suite)
        (verdict,) = first.verdict.suites
        assert first.verdict.outcome == "non_inferior"
        assert verdict.suite_items == ITEMS and verdict.items < 100
        assert len(theirs.asked) == ITEMS and len(ours.asked) < 110
        assert f"question {ITEMS - 1}" in ours.asked, "a must-pass item is asked in any case"
        before = len(ours.asked), len(theirs.asked)
        second = put(ours, theirs, suite)
        assert (len(ours.asked), len(theirs.asked)) == before
        assert second.verdict == first.verdict


def test_all_items_are_asked_when_wanted(suite: Suite) -> None:
    with Answering(right_but(3)) as ours, Answering(right_but(4)) as theirs:
        (verdict,) = put(ours, theirs, suite, all_items=True).verdict.suites
        assert (verdict.items, verdict.suite_items, len(ours.asked)) == (ITEMS, None, ITEMS)
        assert (verdict.gained, verdict.lost) == (1, 1)


def test_compared_again_the_endpoints_may_be_gone(suite: Suite) -> None:
    with Answering(right_but()) as ours, Answering(right_but()) as theirs:
        first = put(ours, theirs, suite)
    watch = Quiet()
    again = compare(resolve_model(ours.url), resolve_model(theirs.url), [suite], Options(margin=0.1), watch)
    assert again.verdict == first.verdict
    assert any("does not answer" in text for text in watch.said)


def test_fresh_asks_again(suite: Suite) -> None:
    with Answering(right_but()) as ours, Answering(right_but()) as theirs:
        put(ours, theirs, suite)
        theirs.says = right_but(*range(60))
        assert put(ours, theirs, suite).verdict.outcome == "non_inferior"
        mean = put(ours, theirs, suite, fresh=True).verdict.suites[0].production_mean
        assert mean is not None and mean < 0.9
    with pytest.raises(EndpointRefused, match="afresh"):
        put(ours, theirs, suite, fresh=True)
    assert put(ours, theirs, suite).verdict.suites[0].production_mean == mean


def test_an_endpoint_that_dies_gives_invalid_and_the_next_run_asks_the_rest(suite: Suite) -> None:
    with Answering(right_but(), dies_after=50) as ours, Answering(right_but()) as theirs:
        cut = put(ours, theirs, suite, all_items=True)
        (verdict,) = cut.verdict.suites
        assert verdict.outcome == cut.verdict.outcome == "invalid"
        assert "candidate" in verdict.reason and "50 of 120 by the candidate" in verdict.reason
        assert verdict.lost == 0, "nothing that was not answered is wrong"
        answered = set(ours.asked)
        ours.revive()
        assert put(ours, theirs, suite, all_items=True).verdict.outcome == "non_inferior"
        assert not answered & set(ours.asked) and len(answered) + len(ours.asked) == ITEMS
        assert len(theirs.asked) == ITEMS


def test_a_production_that_dies_stops_before_the_candidate_is_asked(suite: Suite) -> None:
    with Answering(right_but()) as ours, Answering(right_but(), dies_after=7) as theirs:
        (verdict,) = put(ours, theirs, suite).verdict.suites
        assert verdict.outcome == "invalid" and verdict.reason.startswith("production")
        assert ours.asked == []


def test_another_engine_is_invalid_unless_allowed(suite: Suite) -> None:
    with Answering(right_but(), version="1") as ours, Answering(right_but(), version="2") as theirs:
        (verdict,) = put(ours, theirs, suite).verdict.suites
        assert verdict.outcome == "invalid"
        assert "the engine is toyworks 1, and toyworks 2 in production" in verdict.reason
        assert ours.asked == theirs.asked == [], "that was known before"
        (verdict,) = put(ours, theirs, suite, may_differ=frozenset({"engine"})).verdict.suites
        assert verdict.outcome == "non_inferior" and "the engine" in verdict.changed[0]


def test_another_chat_template_is_a_change(suite: Suite) -> None:
    with (
        Answering(right_but(), props={"chat_template": "a"}) as ours,
        Answering(right_but(), props={"chat_template": "b"}) as theirs,
    ):
        (verdict,) = put(ours, theirs, suite).verdict.suites
        assert verdict.outcome == "non_inferior"
        assert "the chat template" in verdict.changed[0]


def test_the_noise_floor_asks_production_twice(suite: Suite) -> None:
    with Answering(right_but()) as ours, Answering(right_but()) as theirs:
        moods: list[str] = []

        def moody(question: str) -> str:
            moods.append(question)
            return "no idea" if moods.count(question) == 2 and question.endswith("7") else question.split()[-1]

        theirs.says = moody
        (verdict,) = put(ours, theirs, suite, noise_floor=True).verdict.suites
        assert len(theirs.asked) == 2 * ITEMS
        assert verdict.noise_flips_share == pytest.approx(12 / ITEMS)


def test_a_failed_must_pass_item_is_a_regression_whatever_the_rest(suite: Suite) -> None:
    with Answering(right_but(ITEMS - 1)) as ours, Answering(right_but()) as theirs:
        (verdict,) = put(ours, theirs, suite).verdict.suites
        assert verdict.outcome == "regression" and verdict.must_pass_failed == (f"q{ITEMS - 1}",)


def test_truncated_answers_make_it_invalid(suite: Suite) -> None:
    def cut(question: str) -> dict[str, object]:
        return {"message": {"role": "assistant", "content": question.split()[-1]}, "finish_reason": "length"}

    rows = [json.loads(line) for line in suite.path.read_text().splitlines()]
    for row in rows:
        del row["max_tokens"]
    suite.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    unlimited = suite_at("regression/geo", suite.path)
    with Answering(cut) as ours, Answering(right_but()) as theirs:
        (verdict,) = put(ours, theirs, unlimited).verdict.suites
        assert verdict.outcome == "invalid" and "cut off of" in verdict.reason
        assert put(ours, theirs, suite_at("regression/geo", suite.path), all_items=True).verdict.outcome == "invalid"


def test_prompts_are_not_asked_of_a_folder(suite: Suite, tmp_path: Path) -> None:
    folder = str(tiny.build(tmp_path / "model"))
    side = resolve_model(folder)
    with pytest.raises(SuiteNeedsMore, match="is a folder") as caught:
        compare(side, side, [suite], Options(), Quiet())
    assert f"transformers serve {folder}" in caught.value.next_step


def test_likelihoods_are_not_asked_of_an_endpoint_that_ignores_echo() -> None:
    with Answering(right_but()) as toy, pytest.raises(SuiteNeedsMore, match="ignores `echo`"):
        side = resolve_model(toy.url)
        compare(side, side, [resolve_suite("general/choice")], Options(), Quiet())


def test_folders_are_scored_by_the_harness_and_taken_from_the_book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = (resolve_model(str(tiny.build(tmp_path / name, seed=n))) for n, name in enumerate(("a", "b")))
    wanted = resolve_suite("choice")
    for side in (ours, theirs):
        key = side.general(None).key(wanted)
        items = tuple(ItemScore(id=id, score=1.0) for id in wanted.ids)
        kept = SuiteScores(suite=wanted.name, **key, items=items, seconds=3.0, conditions=side.general(None).conditions)
        ScoreCache().keep(kept)
    found = compare(ours, theirs, [wanted], Options(margin=0.05), Quiet())
    assert found.verdict.outcome == "non_inferior" and ours.digest != theirs.digest

    def dies(*_: object, **__: object) -> list[SuiteScores]:
        raise ScoringFailed("The scoring process was killed by signal 9.", "Run it again.")

    monkeypatch.setattr(room, "score_by_lm_eval", dies)
    found = compare(ours, theirs, [wanted], Options(margin=0.05, fresh=True), Quiet())
    assert found.verdict.outcome == "invalid" and "signal 9" in found.verdict.suites[0].reason


def test_what_is_no_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelUnreadable, match="no model's folder"):
        resolve_model(str(tmp_path))
    with pytest.raises(ArtifactMissing, match="no artifact"):
        resolve_model("store://llama/0123456789")
    monkeypatch.delenv("TOY_KEY", raising=False)
    with pytest.raises(OptionInvalid, match="TOY_KEY is not set"):
        resolve_model("http://127.0.0.1:9", "TOY_KEY")


def test_a_key_is_sent_and_kept_nowhere(suite: Suite, monkeypatch: pytest.MonkeyPatch, own_home: Path) -> None:
    monkeypatch.setenv("TOY_KEY", "very-secret")
    with Answering(right_but()) as toy:
        side = resolve_model(f"{toy.url}#toy", "TOY_KEY")
        found = compare(side, side, [suite], Options(margin=0.1), Quiet())
        assert toy.keys == {"Bearer very-secret"}
    assert "very-secret" not in found.model_dump_json() + repr(side)
    assert all(b"very-secret" not in path.read_bytes() for path in own_home.rglob("*") if path.is_file())
