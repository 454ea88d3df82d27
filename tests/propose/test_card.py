"""The card says enough to decide from, in the room that MLflow has for it."""

from __future__ import annotations

from registry.models.records import CARD_LIMIT, REPORT_LINK
from tasks.evaluate.weigh import Weighed
from tasks.fit.rows import FitReport
from tasks.propose.card import LINK_RESERVE, make_card
from tasks.propose.dossier import Dossier
from tasks.source.pinned import Source
from weighbridge.line import Approval, Line


def plain(card: str) -> str:
    """The card without the spaces that MLflow's page needs."""
    return card.replace("&ensp;", "").replace("&nbsp;", " ")


def test_the_verdict_comes_first_and_every_suite_has_its_row(dossier: Dossier) -> None:
    card = plain(make_card(dossier))
    assert card.startswith("**✓ No worse than production within every suite's margin, on 820 items")
    rows = [line for line in card.splitlines() if line.startswith("| general/") or line.startswith("| regression/")]
    assert [row.split("|")[1].strip() for row in rows] == [
        "general/agreement (400)",
        "general/choice (300)",
        "regression/toy (120)",
    ]
    # The outcome comes first: a narrow window cuts the last columns.
    assert "| ✓ no worse | −2.0% (" in rows[1] and "| 5.0% | 97.0% | 99.0% | +3, −9 |" in rows[1]
    assert all(row.count("|") == 8 for row in rows), "no cell is broken by what stands in it"


def test_the_card_names_source_licence_size_fit_and_approval_command(dossier: Dossier) -> None:
    card = plain(make_card(dossier))
    for expected in (
        "`org/toy` at `0123456789ab`",
        "licence apache-2.0",
        "0.16 GiB on disk",
        f"]({REPORT_LINK})",
        "| L4 | 0.16 GiB | 0.36 GiB | 1.02 of 22.5 GiB | 480.2 | ✓ fits |",
        "*Promote model*",
        f"`weighbridge approve toy {dossier.artifact.short}",
        "It must serve within 14 days",
    ):
        assert expected in card, card
    assert "0.97" not in card, "the other scheme's memory is on the other candidate's card"


def test_a_publisher_s_words_make_no_link_and_hide_nothing_on_the_card(dossier: Dossier) -> None:
    licence = "[mit](https://example.org) ![x](https://example.org/x.png) `a` \u202efdp"
    source = dossier.source.model_copy(update={"licence": licence})
    card = make_card(Dossier(dossier.line, source, dossier.weighed, None, None))
    assert "https://example.org" in card and "[mit]" not in card and "![x]" not in card and "`a`" not in card
    assert "\u202e" not in card and "\\u202efdp" in card


def test_a_failed_candidate_s_card_names_the_failure_and_offers_no_approval(
    line: Line, source: Source, damaged: Weighed
) -> None:
    card = make_card(Dossier(line, source, damaged, None, None))
    assert card.startswith("**✗ Regression: ")
    assert "**Must-pass items failed:** regression/toy regression/toy-0" in card
    assert "Cannot be approved" in card and "weighbridge approve" not in card


def test_a_failed_candidate_s_card_names_the_override(line: Line, source: Source, damaged: Weighed) -> None:
    named = line.model_copy(update={"approval": Approval(overriders=["anna", "carl"])})
    card = make_card(Dossier(named, source, damaged, None, None))
    assert "Only anna, carl may override" in card
    assert f"`weighbridge approve toy {damaged.artifact.short} --override --reason" in card


def test_a_first_release_has_nothing_to_compare_with(line: Line, source: Source, baseline: Weighed) -> None:
    card = plain(make_card(Dossier(line, source, baseline, None, None)))
    assert "weighed against nothing, it is the line's first" in card
    assert "| ● baseline | – | 5.0% | 98.8% | – |" in card and "as published" in card


def test_a_card_of_many_suites_is_shortened_and_says_so(
    line: Line, source: Source, passed: Weighed, fit: FitReport
) -> None:
    many = tuple(
        passed.verdict.suites[0].model_copy(update={"suite": f"general/{'long_name_' * 5}{number}"})
        for number in range(40)
    )
    verdict = passed.verdict.model_copy(update={"suites": many})
    card = make_card(Dossier(line, source, passed.model_copy(update={"verdict": verdict}), fit, None))
    assert len(card) <= CARD_LIMIT - LINK_RESERVE
    assert "more suites, all in the report" in card and "To approve" in card
