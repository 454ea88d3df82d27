from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluate.drift import (
    DriftReport,
    DriftSignal,
    ItemAnswer,
    answer_signals,
    degenerate,
    draw,
    flip_signal,
    language_of,
)
from tasks.evaluate.drift.answers import item_answers
from tasks.evaluate.drift.held_out import held_documents, text_digest
from tasks.evaluate.scoring.scores import ItemScore, SuiteScores
from weighbridge.errors import LineInvalid, SuiteInvalid, SuiteUnknown, VerdictInvalid
from weighbridge.home import project_root
from weighbridge.line import Bounds, Line

ENGLISH = "The harbour was quiet, and the boats that were not at sea lay on the sand with their nets out to dry."
GERMAN = "Der Hafen war ruhig, und die Boote, die nicht auf dem Meer waren, lagen mit ihren Netzen auf dem Sand."


def answers(texts: Sequence[str], **fields: Any) -> list[ItemAnswer]:
    return [ItemAnswer(id=f"q{n}", question="?", answer=text, **fields) for n, text in enumerate(texts)]


def signals_of(
    production: Sequence[ItemAnswer], candidate: Sequence[ItemAnswer], bounds: Bounds | None = None
) -> dict[str, DriftSignal]:
    found = answer_signals(production, candidate, bounds or Bounds(), 0.95)
    return {signal.name: signal for signal in found}


def scores(values: Sequence[float], clusters: Sequence[str] | None = None, suite: str = "regression/x") -> SuiteScores:
    items = tuple(
        ItemScore(id=f"i{n}", score=value, cluster=clusters[n] if clusters else None) for n, value in enumerate(values)
    )
    return SuiteScores(suite=suite, suite_digest="s", artifact_digest="a", scorer="x", items=items, seconds=1)


def test_the_same_answers_are_within_every_bound() -> None:
    same = answers([f"{ENGLISH} {number}" for number in range(80)], latency_seconds=1.0, tokens=30)
    found = signals_of(same, same)
    assert {name: signal.outcome for name, signal in found.items()} == {
        "answer length": "ok",
        "refusals' rise": "ok",
        "answers in another language": "ok",
        "newly degenerate answers": "ok",
        "latency": "reported",
        "tokens a second": "reported",
    }


def test_refusals_in_any_of_the_languages_are_a_rise() -> None:
    was = answers([ENGLISH] * 80)
    now = answers(
        ["I'm sorry, but I can't help with that."] * 20 + ["Dabei kann ich leider nicht helfen."] * 5 + [ENGLISH] * 55
    )
    signal = signals_of(was, now)["refusals' rise"]
    assert signal.outcome == "worse" and signal.difference == pytest.approx(25 / 80)
    assert (signal.production, signal.candidate) == (0.0, 25 / 80)
    assert "q0, q1, q2 and 22 more" in signal.note
    assert signals_of(now, now)["refusals' rise"].outcome == "ok"


def test_fewer_refusals_are_no_rise_and_an_empty_answer_is_no_refusal() -> None:
    refusing = answers(["I can't help with that."] * 40 + [ENGLISH] * 40)
    assert signals_of(refusing, answers([ENGLISH] * 80))["refusals' rise"].outcome == "ok"
    empty = signals_of(answers([ENGLISH] * 80), answers([""] * 80))
    assert empty["refusals' rise"].difference == 0
    assert empty["newly degenerate answers"].outcome == "worse"
    assert "an empty answer" in empty["newly degenerate answers"].note


def test_answers_in_another_language_are_reported_and_numbers_have_none() -> None:
    was = answers([GERMAN] * 30 + ["42"] * 40)
    now = answers([ENGLISH] * 10 + [GERMAN] * 20 + ["43"] * 40)
    signal = signals_of(was, now)["answers in another language"]
    assert signal.outcome == "worse" and signal.difference == pytest.approx(1 / 3)
    assert "40 of 70 pairs unknown" in signal.note


def test_without_a_detectable_language_no_bound_applies() -> None:
    signal = signals_of(answers(["42"] * 50), answers(["43"] * 50))["answers in another language"]
    assert (signal.outcome, signal.low, signal.bound) == ("reported", None, None)


def test_degenerate_answers_of_production_do_not_count_against_the_candidate() -> None:
    loops = "we go on and " * 30
    was = answers([loops] * 20 + [ENGLISH] * 80)
    assert signals_of(was, was)["newly degenerate answers"].outcome == "ok"
    now = answers([loops] * 20 + [ENGLISH] * 60 + [loops] * 20)
    signal = signals_of(was, now)["newly degenerate answers"]
    assert signal.outcome == "worse"
    assert (signal.production, signal.candidate, signal.difference) == (0.2, 0.4, 0.2)


def test_shorter_answers_and_slower_ones_are_ratios_of_pairs() -> None:
    was = [ItemAnswer(id=f"q{n}", question="?", answer="x", tokens=20 + n, latency_seconds=1 + n) for n in range(40)]
    now = [
        answer.model_copy(update={"tokens": (20 + n) // 4, "latency_seconds": (1 + n) * 3})
        for n, answer in enumerate(was)
    ]
    found = signals_of(was, now, Bounds(max_latency_ratio=2, min_throughput_ratio=0.5))
    assert found["answer length"].outcome == "worse" and found["answer length"].difference < 0.3
    assert found["latency"].outcome == "worse" and found["latency"].difference == pytest.approx(3)
    assert found["tokens a second"].outcome == "worse"
    assert "in characters" in signals_of(answers(["ab"] * 9), answers(["ab"] * 9))["answer length"].note


def test_only_items_of_both_are_compared() -> None:
    assert signals_of(answers([ENGLISH] * 90), answers([ENGLISH] * 70))["answer length"].units == 70
    with pytest.raises(VerdictInvalid, match="no item in common"):
        answer_signals(answers([ENGLISH]), [ItemAnswer(id="other", question="?", answer="x")], Bounds(), 0.95)


def test_answers_that_the_api_never_gave_are_skipped() -> None:
    item = ItemScore(id="a", score=0, answer="HTTP 400", trouble="error")
    both = scores([1.0]).model_copy(update={"items": (item, ItemScore(id="b", score=1, answer="yes", question="ok?"))})
    assert [answer.id for answer in item_answers(both)] == ["b"]


def test_a_gain_by_accident_does_not_hide_the_flips() -> None:
    production = scores([1.0] * 600 + [0.0] * 400)
    # 19 % flip, and accuracy rises by a point.
    candidate = scores([0.0] * 90 + [1.0] * 510 + [1.0] * 100 + [0.0] * 300)
    signal = flip_signal([(production, candidate)], Bounds(), 0.95)
    assert signal.outcome == "worse" and signal.difference == 0.19
    assert signal.candidate is not None and signal.production is not None and signal.candidate > signal.production
    assert signal.note == "+100 −90 of 1000 items"
    assert "flips 19.0% (17.0% to 21.2%), bound at most 10.0%" in signal.sentence


def test_few_flips_on_many_items_pass_and_on_few_items_are_unsure() -> None:
    few = scores([0.0] * 4 + [1.0] * 96)
    assert flip_signal([(scores([1.0] * 100), few)], Bounds(), 0.95).outcome == "ok"
    assert flip_signal([(scores([1.0] * 20), scores([0.0] + [1.0] * 19))], Bounds(), 0.95).outcome == "unsure"
    assert flip_signal([(scores([1.0] * 20), few)], Bounds(max_flips_share=None), 0.95).outcome == "reported"


def test_suites_are_taken_together_and_their_clusters_kept_apart() -> None:
    clusters = [f"c{number // 10}" for number in range(50)]
    pair = (scores([1.0] * 50, clusters), scores([0.0] * 10 + [1.0] * 40, clusters))
    other = (pair[0].model_copy(update={"suite": "general/y"}), pair[1].model_copy(update={"suite": "general/y"}))
    signal = flip_signal([pair, other], Bounds(), 0.95)
    assert (signal.difference, signal.units) == (0.2, 10)
    with pytest.raises(VerdictInvalid):
        flip_signal([], Bounds(), 0.95)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("  \n", "an empty answer"),
        ("Paris.<|im_end|>", r"the special token <\|im_end\|>"),
        ("[INST] What? [/INST]", r"the special token \[INST\]"),
        ("yes no yes no yes no yes no yes", "the same word again"),
        ("Then he said never never never never never never never never again, and left.", "8 times in a row"),
        ("I am here to help you with it. " * 12, "the same phrases again"),
        ("好的我来帮你" * 20, "the same phrases again"),
        ("a" * 70, "hardly any information"),
        ("\x00\x01\x02\x03abc", "unprintable"),
    ],
)
def test_degenerate_answers_are_named(answer: str, reason: str) -> None:
    import re

    assert re.search(reason, degenerate(answer))


@pytest.mark.parametrize(
    "answer",
    [
        "Paris",
        "no, no, no",
        "1 0 0 0 0 0 0 0 0 1",
        "| a | b |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n| 1 | 2 |",
        "If x < 3 and y > 4, then <b>both</b> hold.",
        "日本の首都は東京です。人口が多く、政治と経済の中心です。",
    ],
)
def test_short_answers_tables_and_markup_are_not_degenerate(answer: str) -> None:
    assert degenerate(answer) == ""


def test_no_held_text_is_degenerate_and_its_languages_are_known() -> None:
    expected = {"english": "en", "german": "de", "french": "fr", "spanish": "es"}
    for document in held_documents(project_root()):
        assert degenerate(document.text) == "", document.name
        if document.kind in expected:
            assert language_of(document.text) == expected[document.kind], document.name


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("La casa è grande e il giardino è più bello di quello della città.", "it"),
        ("O menino não sabe onde está a casa, mas a mãe também não.", "pt"),
        ("Het is niet dat de man het boek van zijn vader heeft.", "nl"),
        ("To nie jest tak, jak się wydaje, ale może być dla nas dobre.", "pl"),
        ("Столица Франции — Париж.", "ru"),
        ("東京は日本の首都です。", "ja"),
        ("法国的首都是巴黎。", "zh"),
        ("프랑스의 수도는 파리입니다.", "ko"),
        ("عاصمة فرنسا هي باريس.", "ar"),
        ("फ्रांस की राजधानी पेरिस है।", "hi"),
        ("42", "unknown"),
        ("Paris", "unknown"),
        ("```python\nfor x in the_list: print(x)\n```", "unknown"),
        ("Xyzzy plugh blorb frotz.", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_language_is_known_or_unknown_and_never_guessed(text: str, language: str) -> None:
    assert language_of(text) == language


def test_a_report_names_worse_signals_and_survives_json() -> None:
    worse = flip_signal([(scores([1.0] * 100), scores([0.0] * 50 + [1.0] * 50))], Bounds(), 0.95)
    ok = flip_signal([(scores([1.0] * 100), scores([1.0] * 100))], Bounds(), 0.95)
    unsure = flip_signal([(scores([1.0] * 5), scores([1.0] * 5))], Bounds(), 0.95)
    digests = {"candidate_digest": "c", "production_digest": "p"}
    report = draw([ok, unsure, worse], **digests)
    assert report.outcome == "regression" and report.stops
    assert report.sentence.startswith("Regression: flips 50.0%")
    assert DriftReport.model_validate_json(report.model_dump_json()) == report
    assert draw([ok, unsure], **digests).outcome == "inconclusive" and not draw([ok, unsure], **digests).stops
    assert draw([ok], **digests).sentence == "Within the bounds on 1 signals."
    assert draw([worse], **digests, invalid="other vocabulary.").outcome == "invalid"


def test_held_text_is_read_by_kind_and_a_broken_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "eval_suites" / "held"
    folder.mkdir(parents=True)
    with pytest.raises(SuiteUnknown, match="no held text"):
        held_documents(tmp_path)
    (folder / "chat-a.txt").write_text("system: Be brief.\nuser: One?\nTwo?\nassistant: Yes.\n\nBoth.\n")
    (folder / "english-b.txt").write_text("A text.\n")
    chat, text = held_documents(tmp_path)
    assert [(turn.role, turn.content) for turn in chat.turns] == [
        ("system", "Be brief."),
        ("user", "One?\nTwo?"),
        ("assistant", "Yes.\n\nBoth."),
    ]
    assert (text.text, text.turns, text.kind) == ("A text.", (), "english")
    before = text_digest([chat, text])
    (folder / "english-b.txt").write_text("Another text.\n")
    assert text_digest(held_documents(tmp_path)) != before
    (folder / "chat-a.txt").write_text("user: Alone.")
    with pytest.raises(SuiteInvalid, match="no turn of the assistant") as caught:
        held_documents(tmp_path)
    assert caught.value.where == "chat-a.txt"


def test_a_line_names_its_bounds_or_takes_the_defaults(tmp_path: Path) -> None:
    import yaml

    fields = {
        "source": "hf://org/model",
        "admission": {"licences": ["mit"]},
        "schemes": ["int8"],
        "target": {"gpus": ["L4"]},
        "suites": [{"name": "general/choice"}],
    }
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(fields))
    line = Line.load("m", tmp_path)
    assert line.bounds == Bounds() and not line.noise_floor
    assert (line.bounds.max_kl_nats, line.bounds.max_flips_share) == (0.25, 0.10)
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({**fields, "bounds": {"max_kl_nats": None}, "noise_floor": True}))
    line = Line.load("m", tmp_path)
    assert line.bounds.max_kl_nats is None and line.bounds.min_top1_agreement == 0.75 and line.noise_floor
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({**fields, "bounds": {"max_kl": 1}}))
    with pytest.raises(LineInvalid, match=r"bounds\.max_kl"):
        Line.load("m", tmp_path)


def test_the_length_of_thoughts_is_a_signal_of_its_own_where_both_think() -> None:
    def thinking(tokens: int) -> list[ItemAnswer]:
        return [
            ItemAnswer(
                id=str(n),
                question="?",
                answer="It is so.",
                tokens=tokens + 5 + n % 3,
                thought_tokens=tokens + n % 3,
                thinks=True,
            )
            for n in range(40)
        ]

    signals = {signal.name: signal for signal in answer_signals(thinking(100), thinking(300), Bounds(), 0.95)}
    assert signals["thought length"].difference > 2.5
    assert signals["answer length"].difference == 1, "the thought is no part of the answer"
    plain = [answer.model_copy(update={"thinks": False, "thought_tokens": 0}) for answer in thinking(100)]
    assert "thought length" not in {signal.name for signal in answer_signals(plain, plain, Bounds(), 0.95)}
